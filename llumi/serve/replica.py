"""One replica of a role: an engine on a model, healthy as long as it generates."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

from llumi.adapters import fetch_adapter
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

    def __init__(self, engine: EngineConfig, storage: Storage, model: str, adapter: str | None = None) -> None:
        """Load the artifact `models/<model>`, and the `adapter` that answers in its place; `echo` needs neither.

        Raises ArtifactError, ModelError or EngineError.
        """
        if engine.kind == "echo":
            self._engine, self._adapter = open_engine(engine, Path()), None
        else:
            adapters = {adapter: fetch_adapter(storage, adapter)} if adapter else {}
            self._engine, self._adapter = open_engine(engine, fetch_model(storage, model), adapters), adapter
        self._generated = False

    async def complete(self, request: Request) -> Delta | LlumiError:
        """The whole answer as one delta."""
        text: list[str] = []
        async for item in self.stream(replace(request, in_pieces=False)):
            if isinstance(item, LlumiError):
                return item
            text.append(item.text)
            last = item
        return replace(last, text="".join(text))

    async def stream(self, request: Request) -> AsyncGenerator[Delta | LlumiError, None]:
        """The answer piece by piece."""
        try:
            asked = request if self._adapter is None else replace(request, adapter=self._adapter)
            async for delta in self._engine.generate(asked):
                self._generated = True
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
