"""How long work tells the one who waits: a callable, so that a job needs no terminal and a test no mock."""

from collections.abc import Callable
from typing import Protocol

Tell = Callable[[str], None]
"""Called with one line for the one who waits, about something that was decided; never with text of a person."""


class Progress(Protocol):
    """Called as work advances, at most a few times a second; never with text of a person."""

    def __call__(self, what: str, done: float, total: float | None = None) -> None:
        """Say that `done` of `total` units of the step `what` are finished; `total` is None while unknown."""


def silent(what: str, done: float, total: float | None = None) -> None:
    """The default: nobody watches."""


def untold(line: str) -> None:
    """The default: nobody listens."""
