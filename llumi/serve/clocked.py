"""A backend that is timed: how long a request waited for a replica, and when the model's first token came."""

import contextlib
import time
from collections.abc import AsyncGenerator

from llumi.engine import Delta, Request
from llumi.serve.call import Call
from llumi.serve.guard import Source


class Clocked:
    """Tells `call` the times of what `source` answers.

    Clocks of two machines differ, so a replica sends durations of its own (see EngineReplica), and what is left of the
    time here was the wait for it. A source that sends none tells of its first token alone, and that in a stream.
    """

    def __init__(self, source: Source, call: Call) -> None:
        self._source = source
        self._call = call

    async def complete(self, request: Request) -> Delta:
        """The whole answer as one delta."""
        asked = time.monotonic()
        answer = await self._source.complete(request)
        if answer.replica_seconds is not None:
            waited = self._waited(asked, answer.replica_seconds)
            if answer.first_token_seconds is not None:
                self._call.first_token(asked + waited + answer.first_token_seconds)
        return answer

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """The answer piece by piece."""
        asked, first = time.monotonic(), True
        async with contextlib.aclosing(self._source.stream(request)) as deltas:
            async for delta in deltas:
                if first:
                    first = False
                    self._call.first_token(time.monotonic())
                    if delta.replica_seconds is not None:
                        self._waited(asked, delta.replica_seconds)
                yield delta

    def _waited(self, asked: float, replica_seconds: float) -> float:
        seconds = max(0.0, time.monotonic() - asked - replica_seconds)
        self._call.queue_seconds = (self._call.queue_seconds or 0.0) + seconds  # a second draw waits once more
        return seconds
