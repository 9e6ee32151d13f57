"""How much a key may ask for in any minute: exact in one router, and forgotten with it.

A service has one router. With several, each would keep counts of its own, and a key could have its limit of each.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from llumi.serve.keys import Key

WINDOW_SECONDS = 60.0


@dataclass
class Taken:
    """What was taken of a window at a time; `settle` puts what it came to in the place of what was expected."""

    at: float
    amount: int


class Window:
    """At most `limit` in any WINDOW_SECONDS: every taking is remembered until it is that old."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._taken: deque[Taken] = deque()
        self._total = 0

    def wait_seconds(self, amount: int, limit: int) -> float:
        """How long until `amount` fits; 0 where it does now. More than `limit` fits once nothing else is taken."""
        now = self._forget()
        excess = self._total + min(amount, limit) - limit
        wait = 0.0
        for taken in self._taken:
            if excess <= 0:
                break
            excess -= taken.amount
            wait = taken.at + WINDOW_SECONDS - now
        return wait

    def take(self, amount: int) -> Taken:
        """Take `amount` now."""
        taken = Taken(self._clock(), amount)
        self._taken.append(taken)
        self._total += amount
        return taken

    def settle(self, taken: Taken, amount: int) -> None:
        """What was `taken` came to `amount`."""
        self._forget()
        if taken.at > self._clock() - WINDOW_SECONDS:
            self._total += amount - taken.amount
            taken.amount = amount

    def _forget(self) -> float:
        now = self._clock()
        while self._taken and self._taken[0].at <= now - WINDOW_SECONDS:
            self._total -= self._taken.popleft().amount
        return now


class Limits:
    """The windows of every key that was used."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests: dict[str, Window] = {}
        self._tokens: dict[str, Window] = {}

    def requests_of(self, key: Key) -> Window:
        """The requests of a key."""
        return self._requests.setdefault(key.id, Window(self._clock))

    def tokens_of(self, key: Key) -> Window:
        """The tokens of a key: those of its prompts and those of the answers."""
        return self._tokens.setdefault(key.id, Window(self._clock))
