"""One replica of a role: an engine on a model, healthy as long as it generates."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

from llumi.config import EngineConfig
from llumi.engine import Delta, Request, Sampling, open_engine
from llumi.errors import EngineError, LlumiError
from llumi.models import fetch_model
from llumi.prompts import gm_prompt
from llumi.storage import Storage

PROBE = Request(tuple(gm_prompt("Hello.")), Sampling(max_new_tokens=1, temperature=0))


class EngineReplica:
    """What Serve runs for a role.

    Errors of ours are returned, not raised: Serve writes a traceback into its log for each exception of a replica, which
    buries the one line that matters.
    """

    def __init__(self, engine: EngineConfig, storage: Storage, model: str) -> None:
        """Load the artifact `models/<model>` (`echo` needs none); raises ModelError or EngineError."""
        folder = Path() if engine.kind == "echo" else fetch_model(storage, model)
        self._engine = open_engine(engine, folder)
        self._generated = False

    async def complete(self, request: Request) -> Delta | LlumiError:
        """The whole answer as one delta."""
        taken, first_token = time.monotonic(), None
        text: list[str] = []
        async for item in self.stream(request):
            if isinstance(item, LlumiError):
                return item
            if not text and request.in_pieces:  # else the first piece is the last one
                first_token = item.first_token_seconds
            text.append(item.text)
            last = item
        replica_seconds = time.monotonic() - taken
        return replace(last, text="".join(text), first_token_seconds=first_token, replica_seconds=replica_seconds)

    async def stream(self, request: Request) -> AsyncGenerator[Delta | LlumiError, None]:
        """The answer piece by piece."""
        taken, first = time.monotonic(), True
        try:
            async for delta in self._engine.generate(request):
                self._generated = True
                if first:
                    first, seconds = False, time.monotonic() - taken
                    yield replace(delta, first_token_seconds=seconds, replica_seconds=seconds)
                else:
                    yield delta
        except LlumiError as error:
            yield error

    async def check_health(self) -> None:
        """Called by Serve from time to time: raises unless the engine generated since, or does so now."""
        if self._generated:
            self._generated = False
            return
        answer = await self.complete(PROBE)
        if isinstance(answer, LlumiError):
            raise EngineError(str(answer))

    async def __del__(self) -> None:
        """Free the model."""
        await asyncio.shield(self._engine.close())
