"""One replica of a role: an engine on a model, healthy as long as it generates."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

from llumi.config import EngineConfig
from llumi.engine import Delta, Request, Sampling, open_engine
from llumi.errors import EngineError, LlumiError
from llumi.models import fetch_model
from llumi.prompts import gm_prompt
from llumi.serve.unforeseen import kind_and_place
from llumi.storage import Storage

_log = logging.getLogger(__name__)
PROBE = Request(tuple(gm_prompt("Hello.")), Sampling(max_new_tokens=1, temperature=0))


class EngineReplica:
    """What Serve runs for a role.

    Errors are returned, not raised: Serve writes a traceback into its log for each exception of a replica, which buries the
    one line that matters, and whose message may hold the text that the engine failed at.
    """

    def __init__(self, engine: EngineConfig, storage: Storage, model: str) -> None:
        """Load the artifact `models/<model>` (`echo` needs none); raises ModelError or EngineError."""
        folder = Path() if engine.kind == "echo" else fetch_model(storage, model)
        self._engine = open_engine(engine, folder)
        self._generated = False

    async def complete(self, request: Request) -> Delta | LlumiError:
        """The whole answer as one delta."""
        text: list[str] = []
        async for item in self.stream(request):
            if isinstance(item, LlumiError):
                return item
            text.append(item.text)
            last = item
        return replace(last, text="".join(text))

    async def stream(self, request: Request) -> AsyncGenerator[Delta | LlumiError, None]:
        """The answer piece by piece."""
        try:
            async with contextlib.aclosing(self._engine.generate(request)) as deltas:
                async for delta in deltas:
                    self._generated = True
                    yield delta
        except LlumiError as error:
            yield error
        except Exception as error:
            self._generated = False  # Serve's next look at this replica tries whether it still answers
            _log.error("the engine failed: %s", kind_and_place(error))
            yield EngineError(f"the engine failed ({type(error).__name__}); Ray's log of this replica says where")

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
