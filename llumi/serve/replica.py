"""One replica of a role: an engine on a model, healthy as long as it generates."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

from llumi.config import EngineConfig
from llumi.engine import Delta, Request, Sampling, open_engine
from llumi.errors import ArtifactError, EngineError, LlumiError
from llumi.models import fetch_model
from llumi.prompts import gm_prompt
from llumi.serve.api import ServedModel
from llumi.serve.unforeseen import kind_and_place
from llumi.storage import Storage

_log = logging.getLogger(__name__)
VERSION_LENGTH = 12
PROBE = Request(tuple(gm_prompt("Hello.")), Sampling(max_new_tokens=1, temperature=0))


class EngineReplica:
    """What Serve runs for a role.

    Errors are returned, not raised: Serve writes a traceback into its log for each exception of a replica, which buries the
    one line that matters, and whose message may hold the text that the engine failed at.
    """

    def __init__(self, engine: EngineConfig, storage: Storage, model: ServedModel) -> None:
        """Load the artifact `models/<name>` (`echo` needs none); raises ModelError, EngineError, or ArtifactError where
        another version of it stands by now: all replicas of a version have the same weights.
        """
        folder = Path()
        if engine.kind != "echo":
            folder = fetch_model(storage, model.name)
            require_version(storage, model)
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


def version_of(storage: Storage, name: str) -> str:
    """What changes with the weights of `models/<name>`; raises ArtifactError where it does not stand."""
    return storage.manifest(f"models/{name}").as_input().sha256[:VERSION_LENGTH]


def require_version(storage: Storage, model: ServedModel) -> None:
    """Raise ArtifactError unless `model` is what stands in the store under its name."""
    if (standing := version_of(storage, model.name)) != model.version:
        raise ArtifactError(
            f"models/{model.name}: version {model.version} was replaced by {standing}, and is not in the store any more; "
            "serve what stands with: llumi serve deploy"
        )
