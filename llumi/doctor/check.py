"""What a verdict is, and how numbers stand in one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NAMED = 5
"""So many problems of one kind are named; the rest is counted."""

Reports = Mapping[str, Mapping[str, Any]]
"""What each node says of itself (see node.look), by the node's name."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what was found: one line, and rows of figures where there are several."""

    name: str
    passed: bool
    detail: str
    rows: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Silence:
    """In the place of an answer: why a node gave none."""

    reason: str


def gib(num_bytes: float) -> str:
    """Bytes as GiB, for a person to read."""
    return f"{num_bytes / 2**30:.3g} GiB"


def verdict(name: str, problems: Iterable[str], found: str, rows: tuple[Mapping[str, Any], ...] = (), right: str = "") -> Check:
    """A check that fails with the first of `problems` in one line, and what would be `right` for all of them.

    It passes with what was `found` where there are none.
    """
    wrong = list(problems)
    rest = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    return Check(name, not wrong, "; ".join(wrong[:NAMED]) + rest + right if wrong else found, rows)
