"""The embedded engine: transformers' models with continuous batching, on a CPU or a GPU.

Requests join and leave the running batch between two of its steps; each streams, draws and ends for itself, and each may be
answered by another adapter. One worker thread computes. transformers' own continuous batching has one source of chance for
all requests, packs them into one row, which PEFT's adapters cannot tell apart, and is slower on CPUs.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch

from llumi.config import EngineConfig
from llumi.engine.base import Delta, Request, require_adapter
from llumi.engine.conversation import encode_conversation
from llumi.engine.hf_batch import Batch
from llumi.engine.hf_load import LoadedModel
from llumi.engine.hf_row import Row
from llumi.errors import EngineError

PAUSE_TOKENS = 512
"""About how many tokens of prompts are read at once while others wait for their next token."""


class HfEngine:
    """A model folder behind the engine protocol, with LoRA adapters beside it; see the module."""

    def __init__(self, config: EngineConfig, model: Path, adapters: Mapping[str, Path] = MappingProxyType({})) -> None:
        """Load `model` onto a GPU where `num_gpus` asks for one, else the CPU; raises ModelError or EngineError."""
        self._config = config
        self._model = LoadedModel(config, model, adapters)
        self._arriving: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._batch: Batch | None = None
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="hf-engine", daemon=True)
        self._worker.start()

    async def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Answer `request` piece by piece; raises PromptTooLongError, PromptRefusedError or EngineError."""
        if self._closed:
            raise _closed()
        model = self._model
        require_adapter(request.adapter, model.adapters)
        prompt = encode_conversation(model.tokenizer, request.messages, model.context_tokens)
        room = model.context_tokens - len(prompt)
        sampling = replace(request.sampling, max_new_tokens=min(room, request.sampling.max_new_tokens))
        deltas: asyncio.Queue[Delta | EngineError] = asyncio.Queue()
        row = Row(prompt, sampling, partial(_hand_over, asyncio.get_running_loop(), deltas), request.adapter)
        self._arriving.put(row)
        try:
            while True:
                delta = await deltas.get()
                if isinstance(delta, EngineError):
                    raise delta
                yield delta
                if delta.finish_reason:
                    return
        finally:
            row.cancel()

    async def close(self) -> None:
        """End what runs and waits with EngineError, then free the model."""
        self._closed = True
        self._arriving.put(None)
        await asyncio.to_thread(self._worker.join)
        self._batch = None
        on_gpu = self._model.device.type == "cuda"
        del self._model
        if on_gpu:
            torch.cuda.empty_cache()

    def _work(self) -> None:
        """The worker thread, until `close`."""
        with torch.inference_mode():
            self._answer_all()

    def _answer_all(self) -> None:
        """Rows join, all take a step, rows leave."""
        waiting: list[Row] = []
        while not self._closed:
            self._receive(waiting)
            self._let_join(waiting)
            if batch := self._batch:
                with self._failing(batch.rows):
                    batch.step()
                    batch.leave()
                if all(row.finished for row in batch.rows):
                    self._batch = None
        self._drain(waiting)
        for row in [*(self._batch.rows if self._batch else []), *waiting]:
            row.fail(_closed())

    def _receive(self, waiting: list[Row]) -> None:
        """Take all rows that have arrived; where there is nothing to do, wait for one, and a moment for others."""
        if self._batch is None and not waiting:
            deadline: float | None = None
            while not self._closed and len(waiting) < self._config.max_batch_size:
                try:
                    row = self._arriving.get(timeout=deadline and max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    break
                if row:
                    waiting.append(row)
                deadline = deadline or time.monotonic() + self._config.max_wait_seconds
        self._drain(waiting)

    def _drain(self, waiting: list[Row]) -> None:
        while not self._arriving.empty():
            if row := self._arriving.get():
                waiting.append(row)

    def _let_join(self, waiting: list[Row]) -> None:
        """Let rows that wait take the free places of the batch, a group at a time: those that run have to wait for it."""
        batch = self._batch
        free = self._config.max_batch_size - (len(batch.rows) if batch else 0)
        group = take_group(waiting, free, PAUSE_TOKENS if batch else None)
        if not group:
            return
        newcomers = None
        with self._failing(group):
            newcomers = Batch(self._model, group)
            newcomers.leave()
        if newcomers is None or not newcomers.rows:
            return
        if batch is None:
            self._batch = newcomers
            return
        with self._failing([*batch.rows, *newcomers.rows]):
            batch.join(newcomers)

    @contextlib.contextmanager
    def _failing(self, rows: Sequence[Row]) -> Iterator[None]:
        """End `rows` with EngineError where computing them fails; other rows and later ones go on."""
        try:
            yield
        except RuntimeError as error:  # torch's own, out of memory among them; its messages hold shapes, no text
            self._fail(rows, str(error).splitlines()[0][:200])
        except Exception as error:
            self._fail(rows, type(error).__name__)

    def _fail(self, rows: Sequence[Row], reason: str) -> None:
        for row in rows:
            row.fail(EngineError(f"generation failed on {self._model.device}: {reason}"))


def take_group(waiting: list[Row], size: int, most_tokens: int | None) -> list[Row]:
    """Move up to `size` rows out of `waiting` that are read together: the one that waits longest, and those nearest to it
    in length; where padded they would have more than `most_tokens`, fewer, but one at least.
    """
    waiting[:] = [row for row in waiting if not row.finished]
    if not waiting or not size:
        return []
    oldest = len(waiting[0].prompt)
    group: list[Row] = []
    for row in sorted(waiting, key=lambda row: abs(len(row.prompt) - oldest))[:size]:
        longest = max(len(each.prompt) for each in [*group, row])
        if group and most_tokens is not None and longest * (len(group) + 1) > most_tokens:
            break
        group.append(row)
    waiting[:] = [row for row in waiting if row not in group]
    return group


def _hand_over(loop: asyncio.AbstractEventLoop, deltas: asyncio.Queue[Delta | EngineError], delta: Delta | EngineError) -> None:
    """Wake the reader; where its loop is closed nobody reads any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(deltas.put_nowait, delta)


def _closed() -> EngineError:
    return EngineError("the engine is closed; open it again")
