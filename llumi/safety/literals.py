"""Words that a text must hold for a regular expression to match it, so that most texts need no regular expression.

One combined expression of some hundred patterns with gaps would leave Rust's automaton no room to cache its states, and
run at a ten-thousandth of the speed of this search for words.
"""

from collections.abc import Iterable, Sequence
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

_COMMON = (
    "you your that this with have just will like want need what they when feel been some make time more much can the and "
    "for not are all was one out get has had but how who why now good well very help life know think people would could "
    "should there about other going take from them then here"
)
COMMON = frozenset(_COMMON.split())
MAX_SETS = 4
MIN_CHARACTERS = 3
MAX_WORDS = 2000
"""Beyond so many combinations, a part of a pattern is not spelled out."""

Words = frozenset[str]
_NOTHING: Words = frozenset([""])


def required_words(pattern: str) -> tuple[Words, ...]:
    """Sets of lower-case words without spaces and quotes: every text that the pattern matches holds one of each.

    The set that fewest texts meet comes first. Raises ValueError where there is none: a pattern of gaps alone.
    """
    found = {words for words in _required(parser.parse(pattern)) if _worth(words) > 0}
    if not found:
        raise ValueError("no word that every match must hold; name one outside of optional parts")
    rarest, *others = sorted(found, key=lambda words: (-_worth(words), sorted(words)))
    return (rarest, *(words for words in others[: MAX_SETS - 1] if _worth(words) >= MIN_CHARACTERS))


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
        return [frozenset().union(*(max(_required(branch), key=_worth) for branch in value[1]))]
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT) and value[0] > 0:
        return _required(value[2])
    return [_spelled(item) or _NOTHING]


def _spelled(item: Any) -> Words | None:
    """All strings that a part of a pattern can match, None where they are too many or hold a space or a quote."""
    code, value = item
    if code is codes.AT:
        return _NOTHING
    if code is codes.LITERAL:
        return frozenset([chr(value).lower()]) if chr(value) not in " '\"" else None
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


def _worth(words: Words) -> float:
    """The longer its shortest word, the fewer texts meet a set by chance; the commonest words say little."""
    return min(len(word) if word not in COMMON else 0.5 for word in words)
