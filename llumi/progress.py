"""How long work tells the one who waits: a callable, so that a job needs no terminal and a test no mock."""

from typing import Protocol


class Progress(Protocol):
    """Called as work advances, at most a few times a second; never with text of a person."""

    def __call__(self, what: str, done: float, total: float | None = None) -> None:
        """Say that `done` of `total` units of the step `what` are finished; `total` is None while unknown."""


def silent(what: str, done: float, total: float | None = None) -> None:
    """The default: nobody watches."""
