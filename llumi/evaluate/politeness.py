"""Politeness by its markers: the strategies that a sentence uses, told by the phrases in `politeness.yaml`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from llumi.evaluate.words import Sentence


@dataclass(frozen=True, slots=True)
class Marker:
    """A phrase that tells a strategy, and whether it does so at a sentence's start and later in it."""

    strategy: str
    sign: int
    phrase: tuple[str, ...]
    at_start: bool
    later: bool

    def stands_at(self, place: int, types: tuple[str, ...]) -> bool:
        """Whether the phrase begins at that word of the sentence, and counts there."""
        return (self.later if place else self.at_start) and types[place : place + len(self.phrase)] == self.phrase


@cache
def markers() -> Mapping[str, tuple[Marker, ...]]:
    """The markers of `politeness.yaml` by their first word."""
    document = yaml.safe_load(files("llumi.evaluate").joinpath("politeness.yaml").read_text(encoding="utf-8"))
    found: dict[str, tuple[Marker, ...]] = {}
    for sign, key in ((1, "polite"), (-1, "impolite")):
        for strategy, entry in document[key].items():
            at = entry.get("at", "anywhere")
            for words in entry["phrases"]:
                phrase = tuple(words.split())
                marker = Marker(strategy, sign, phrase, at_start=at != "later", later=at != "start")
                found[phrase[0]] = (*found.get(phrase[0], ()), marker)
    return found


def politeness(sentences: Sequence[Sentence]) -> float:
    """Polite strategies less impolite ones, in the mean over the sentences; NaN without a sentence.

    Each strategy counts once in a sentence, with the sign that Danescu-Niculescu-Mizil et al. 2013 (A computational
    approach to politeness with application to social factors, ACL, table 3) found for it in requests. Their classifier
    weighs them and reads grammar; these are counts of phrases. Their "2nd person start" is left out: it is impolite in a
    request, and in support it is how comfort begins ("You are not alone").
    """
    if not sentences:
        return math.nan
    return sum(sum(_signs(sentence.types).values()) for sentence in sentences) / len(sentences)


def _signs(types: tuple[str, ...]) -> dict[str, int]:
    """The sign of every strategy that a sentence uses."""
    by_word = markers()
    return {
        marker.strategy: marker.sign
        for place, word in enumerate(types)
        if word in by_word
        for marker in by_word[word]
        if marker.stands_at(place, types)
    }
