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
MAX_OTHER_WORDS = 30
"""Beyond so many, looking for the words of a second set costs more than the expression that they would spare."""

_FILED_LETTERS = 5

Words = frozenset[str]
_NOTHING: Words = frozenset([""])


def required_words(pattern: str) -> tuple[Words, ...]:
    """Lower-case words and phrases of which every sentence that the pattern matches holds at least one.

    Of several such sets, the two that fewest texts meet by chance, the rarer one first. Raises ValueError where there is
    none: a pattern of gaps alone.
    """
    found = [words for words in _required(parser.parse(pattern)) if all(word.strip() for word in words)]
    if not found:
        raise ValueError("no word that every match must hold; name one outside of optional parts")
    rarest, *others = sorted(found, key=lambda words: (_chance(words), sorted(words)))
    return (rarest, *(words for words in others[:1] if len(words) <= MAX_OTHER_WORDS))


@dataclass(frozen=True)
class Lookup:
    """Which of many tuples of sets have a word of each set in a text.

    Words are filed under five letters that few others hold; those that have fewer are all looked for.
    """

    sets: Sequence[tuple[Words, ...]]
    places: Mapping[str, tuple[int, ...]]
    filed: Mapping[str, tuple[str, ...]]
    short: tuple[str, ...]

    @classmethod
    def of(cls, sets: Sequence[tuple[Words, ...]]) -> Self:
        """Sets are known by their place in `sets`; what is filed are the words of the first of each tuple."""
        places = defaultdict[str, list[int]](list)
        for number, (words, *_) in enumerate(sets):
            for word in words:
                places[word].append(number)
        frequency = Counter(letters for word in places for letters in _runs(word))
        filed = defaultdict[str, list[str]](list)
        for word in sorted(places):
            if runs := _runs(word):
                filed[min(runs, key=lambda letters: (frequency[letters], letters))].append(word)
        return cls(
            sets,
            {word: tuple(numbers) for word, numbers in places.items()},
            {letters: tuple(words) for letters, words in filed.items()},
            tuple(word for word in sorted(places) if len(word) < _FILED_LETTERS),
        )

    def possible(self, text: str) -> list[int]:
        """The tuples of whose sets the text, in lower case, holds a word each; in their order."""
        near = (word for letters in _runs(text) & self.filed.keys() for word in self.filed[letters])
        found = {number for word in (*near, *self.short) if word in text for number in self.places[word]}
        return sorted(number for number in found if all(any(map(text.__contains__, words)) for words in self.sets[number][1:]))


def _runs(text: str) -> set[str]:
    return {text[at : at + _FILED_LETTERS] for at in range(len(text) - _FILED_LETTERS + 1)}


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
