"""`llumi serve` with engines that fail as a post asks them to, its words in their mouths: a process for test_silence.py."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

from llumi import cli
from llumi.config import EngineConfig
from llumi.engine import Delta, Request
from llumi.engine.echo import EchoEngine
from llumi.serve import rollout
from llumi.serve.api import ServedModel
from llumi.serve.replica import EngineReplica
from llumi.storage import Storage

BEGINNING = "One sentence is out. And half of another"
PID_FILE = "LLUMI_TEST_PID_FILE"
"""Where a replica writes which process it is, each time that it is asked to wait."""


class FailingEngine(EchoEngine):
    """Says the last words again, unless the post asks for something else."""

    async def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
        said = request.messages[-1]["content"]
        if "please break" in said:
            if "please break later" in said:
                yield Delta(BEGINNING)
            try:
                float(said)
            except ValueError as error:
                raise ValueError(f"cannot take {said!r}") from error
        if "please wait" in said:
            with Path(os.environ[PID_FILE]).open("a", encoding="utf-8") as pids:
                pids.write(f"{os.getpid()}\n")
            yield Delta(BEGINNING)
            try:
                await asyncio.sleep(60)
            finally:
                raise RuntimeError(said)  # what it comes to when it is cancelled
        if "please be harsh" in said:
            yield Delta(f"Just get over it, {said}.")
            yield Delta("", "stop", 3, 3)
            return
        async for delta in super().generate(request):
            yield delta


class FailingReplica(EngineReplica):
    def __init__(self, engine: EngineConfig, storage: Storage, model: ServedModel) -> None:
        super().__init__(engine, storage, model)
        self._engine = FailingEngine()


if __name__ == "__main__":
    rollout.EngineReplica = FailingReplica
    cli.main()
