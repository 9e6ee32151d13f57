"""Style: how a text spends its function words, and how near a reply's style is to that of its post.

The nine classes are those of LIWC that the sources use; the lists in `function_words.yaml` are our own, since LIWC's may
not be passed on. Figures are therefore near those of LIWC, not the same.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

import yaml

CLASSES = (
    "personal_pronoun",
    "impersonal_pronoun",
    "article",
    "preposition",
    "auxiliary_verb",
    "adverb",
    "conjunction",
    "negation",
    "quantifier",
)
"""The classes of function words, in the order of every profile."""

_CATEGORICAL = {"article": 1, "preposition": 1, "quantifier": 0}
_WEIGHTS = tuple(_CATEGORICAL.get(name, -1) for name in CLASSES)

Profile = tuple[float, ...]
"""The share of each class among a text's words, in percent; NaN without words."""


@cache
def function_words() -> Mapping[str, tuple[int, ...]]:
    """The classes of every function word, as places in `CLASSES`."""
    document = yaml.safe_load(files("llumi.evaluate").joinpath("function_words.yaml").read_text(encoding="utf-8"))
    lists = [((name,), words) for name, words in document["classes"].items()]
    lists += [(tuple(entry["of"]), entry["words"]) for entry in document["contractions"]]
    found: dict[str, set[int]] = {}
    for names, words in lists:
        for word in words.split():
            found.setdefault(word, set()).update(CLASSES.index(name) for name in names)
    return {word: tuple(sorted(places)) for word, places in found.items()}


def profile(types: Sequence[str]) -> Profile:
    """How a text of these words spends its function words."""
    if not types:
        return (math.nan,) * len(CLASSES)
    classes = function_words()
    counts = [0] * len(CLASSES)
    for word in types:
        for place in classes.get(word, ()):
            counts[place] += 1
    return tuple(100 * count / len(types) for count in counts)


def categorical_dynamic(of_text: Profile) -> float:
    """Categorical-dynamic index: high where a text orders things, low where it tells of people and of what they do.

    30 + article + preposition - personal pronoun - impersonal pronoun - auxiliary verb - conjunction - adverb -
    negation, in percent of words (Pennebaker, Chung, Frazee, Lavergne and Beaver 2014, When small words foretell
    academic success, PLOS ONE 9(12)). NaN without words.
    """
    return 30 + sum(weight * share for weight, share in zip(_WEIGHTS, of_text, strict=True))


def style_matching(reply: Profile, post: Profile) -> float:
    """Linguistic style matching of two texts, 0 to 1: 1 where they spend their function words alike.

    The mean over the nine classes of 1 - |p1 - p2| / (p1 + p2 + 0.0001), p in percent of words (Ireland and Pennebaker
    2010, Language style matching in writing, Journal of Personality and Social Psychology 99(3); Gonzales, Hancock and
    Pennebaker 2010, Language style matching as a predictor of social dynamics in small groups, Communication Research
    37(1)). A class that neither text uses counts as matched. NaN where either has no words.
    """
    matches = [1 - abs(ours - theirs) / (ours + theirs + 0.0001) for ours, theirs in zip(reply, post, strict=True)]
    return sum(matches) / len(CLASSES)
