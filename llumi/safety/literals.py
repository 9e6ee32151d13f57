"""Words that a text must hold for a regular expression to match it, so that most texts need no regular expression.

One combined expression of some hundred patterns with gaps would leave Rust's automaton no room to cache its states, and
run at a ten-thousandth of the speed of this search for words.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Self

_COMMON = (
    "a about after again all also always am an and another any anyone are around as ask at back bad be because been before "
    "best better but buy by call can could day days did do does don't dont each easy else even ever every everyone "
    "everything feel feels felt find first for free friend friends from get getting give go going good got had happy hard "
    "has have he help her him his hope how i i'll i'm if in into is it it's its just keep know let life like little long "
    "love make many may maybe me mean might mine miss money more most much must my need never new next no nobody not "
    "nothing notice now of often old on one only or other others our out over own pain people perhaps put really right said "
    "same say see she should so some someone something sometimes sound sounds still stop strong such sure take talk tell "
    "than thank that that's the their them then there these they thing things think this through time to too try us use "
    "used very want was way we well were what when where which who why will wish with work worse would yes yet you you're "
    "your yours"
)
COMMON = frozenset(_COMMON.split())
MAX_WORDS = 100
"""Beyond so many combinations, a part of a pattern is not spelled out."""

Words = frozenset[str]
_NOTHING: Words = frozenset([""])


def required_words(pattern: str) -> Words:
    """Lower-case words and phrases of which every sentence that the pattern matches holds at least one.

    Of several such sets, the one that fewest texts meet by chance. Raises ValueError where there is none: a pattern of
    gaps alone.
    """
    found = [words for words in _required(parser.parse(pattern)) if all(word.strip() for word in words)]
    if not found:
        raise ValueError("no word that every match must hold; name one outside of optional parts")
    return min(found, key=lambda words: (_chance(words), sorted(words)))


@dataclass(frozen=True)
class Lookup:
    """Which of many sets of words have a word in a text: words are filed under three letters that few others hold."""

    filed: Mapping[str, tuple[tuple[str, int], ...]]
    short: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, sets: Sequence[Words]) -> Self:
        """Sets are known by their place in `sets`."""
        entries = [(word, number) for number, words in enumerate(sets) for word in sorted(words)]
        frequency = Counter(letters for word, _ in entries for letters in _triples(word))
        filed = defaultdict[str, list[tuple[str, int]]](list)
        for word, number in entries:
            if triples := _triples(word):
                filed[min(triples, key=lambda letters: (frequency[letters], letters))].append((word, number))
        short = tuple(entry for entry in entries if len(entry[0]) < 3)
        return cls({letters: tuple(of_letters) for letters, of_letters in filed.items()}, short)

    def possible(self, text: str) -> list[int]:
        """The sets of which the text, in lower case, holds a word; in their order."""
        near = [entry for letters in _triples(text) for entry in self.filed.get(letters, ())]
        return sorted({number for word, number in (*near, *self.short) if word in text})


def _triples(text: str) -> set[str]:
    return {text[at : at + 3] for at in range(len(text) - 2)}


def _required(items: Iterable[Any]) -> list[Words]:
    found, run = [], _NOTHING
    for item in items:
        spelled = _spelled(item)
        if spelled is not None and len(run) * len(spelled) <= MAX_WORDS:
            run = frozenset(before + after for before in run for after in spelled)
            continue
        found += [run, *_required_of(item)]
        run = _NOTHING
    return [*found, run]


def _required_of(item: Any) -> list[Words]:
    code, value = item
    if code is codes.SUBPATTERN:
        return _required(value[-1])
    if code is codes.BRANCH:
        return [frozenset().union(*(min(_required(branch), key=_chance) for branch in value[1]))]
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT) and value[0] > 0:
        return _required(value[2])
    return [_spelled(item) or _NOTHING]


def _spelled(item: Any) -> Words | None:
    """All strings that a part of a pattern can match, None where they are too many."""
    code, value = item
    if code is codes.AT:
        return _NOTHING
    if code is codes.LITERAL:
        return frozenset([chr(value).lower()])
    if code is codes.SUBPATTERN:
        return _spelled_run(value[-1])
    if code in (codes.BRANCH, codes.IN):
        return _union([_spelled_run(branch) for branch in value[1]] if code is codes.BRANCH else [*map(_spelled, value)])
    if code is codes.MAX_REPEAT and value[:2] == (0, 1):
        inner = _spelled_run(value[2])
        return None if inner is None else inner | _NOTHING
    return None


def _spelled_run(items: Iterable[Any]) -> Words | None:
    run = _NOTHING
    for item in items:
        spelled = _spelled(item)
        if spelled is None or len(run) * len(spelled) > MAX_WORDS:
            return None
        run = frozenset(before + after for before in run for after in spelled)
    return run


def _union(parts: Sequence[Words | None]) -> Words | None:
    known = [part for part in parts if part is not None]
    return frozenset().union(*known) if len(known) == len(parts) else None


def _chance(words: Words) -> float:
    """Roughly how many of these a sentence holds by chance: what is spelled with few letters or common words is frequent."""
    return sum(_chance_of(phrase) for phrase in words)


def _chance_of(phrase: str) -> float:
    chance = 1.0
    for word in phrase.split(" "):
        letters = len(word)
        if letters == 0:
            continue
        chance *= 0.1 if word in COMMON else 0.3**letters if letters <= 4 else 0.001
    return chance
