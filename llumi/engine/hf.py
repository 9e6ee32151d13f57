"""The embedded engine: transformers' `generate` over static batches, on a CPU or a GPU.

Requests that wait together run together, padded on the left, in one worker thread; each streams and ends for itself.
A request that comes while a batch runs waits for the next one: `vllm` is the engine for heavy traffic.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncGenerator, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from llumi.config import EngineConfig
from llumi.engine.base import Delta, Request
from llumi.engine.conversation import encode_conversation
from llumi.engine.hf_batch import Row, RowSampler, RowStopper
from llumi.errors import EngineError, ModelError
from llumi.models import check_model_folder


class HfEngine:
    """A model folder behind the engine protocol; see the module."""

    def __init__(self, config: EngineConfig, model: Path) -> None:
        """Load `model` onto a GPU where `num_gpus` asks for one, else the CPU; raises ModelError or EngineError."""
        check_model_folder(model)
        self._config = config
        self._device = _device(config)
        self._tokenizer, self._model = _load(model, self._device, _precision(config, self._device))
        self._context_tokens: int = self._model.config.max_position_embeddings
        self._stop_tokens = _stop_tokens(self._tokenizer, self._model.generation_config)
        # Sampling defaults that a model brings along would silently join ours.
        self._model.generation_config = GenerationConfig()
        self._waiting: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._running: list[Row] = []
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="hf-engine", daemon=True)
        self._worker.start()

    async def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Answer `request` piece by piece; raises PromptTooLongError, PromptRefusedError or EngineError."""
        prompt = encode_conversation(self._tokenizer, request.messages, self._context_tokens)
        room = self._context_tokens - len(prompt)
        sampling = replace(request.sampling, max_new_tokens=min(room, request.sampling.max_new_tokens))
        deltas: asyncio.Queue[Delta | EngineError] = asyncio.Queue()
        row = Row(prompt, sampling, partial(_hand_over, asyncio.get_running_loop(), deltas))
        self._waiting.put(row)
        if self._closed:
            row.fail(_closed())
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
        self._waiting.put(None)
        for row in list(self._running):
            row.fail(_closed())
        await asyncio.to_thread(self._worker.join)
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _work(self) -> None:
        """The worker thread: batch after batch until `close`."""
        pending: list[Row] = []
        while not self._closed:
            self._wait_for_rows(pending)
            self._running = take_batch(pending, self._config.max_batch_size)
            if self._running:
                self._run(self._running)
        self._drain(pending)
        for row in pending:
            row.fail(_closed())

    def _wait_for_rows(self, pending: list[Row]) -> None:
        """Wait for a first request, then a moment for others, and take all that are there."""
        if not pending and (first := self._waiting.get()):
            pending.append(first)
        deadline = time.monotonic() + self._config.max_wait_seconds
        while not self._closed and len(pending) < self._config.max_batch_size:
            try:
                row = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return
            if row:
                pending.append(row)
        self._drain(pending)

    def _drain(self, pending: list[Row]) -> None:
        while not self._waiting.empty():
            if row := self._waiting.get():
                pending.append(row)

    def _run(self, rows: list[Row]) -> None:
        try:
            with torch.inference_mode():
                self._generate(rows)
        except RuntimeError as error:  # torch's own, out of memory among them; its messages hold shapes, no text
            failure = EngineError(f"generation failed on {self._device}: {str(error).splitlines()[0][:200]}")
            for row in rows:
                row.fail(failure)
        except Exception as error:
            for row in rows:
                row.fail(EngineError(f"generation failed on {self._device}: {type(error).__name__}"))

    def _generate(self, rows: list[Row]) -> None:
        for row in rows:
            row.start(self._tokenizer)
        length = max(len(row.prompt) for row in rows)
        pad = min(self._stop_tokens)
        padded = [[pad] * (length - len(row.prompt)) + row.prompt for row in rows]
        mask = [[0] * (length - len(row.prompt)) + [1] * len(row.prompt) for row in rows]
        self._model.generate(
            torch.tensor(padded, device=self._device),
            attention_mask=torch.tensor(mask, device=self._device),
            generation_config=GenerationConfig(
                max_new_tokens=max(row.sampling.max_new_tokens for row in rows), do_sample=False, pad_token_id=pad
            ),
            logits_processor=LogitsProcessorList([RowSampler(rows, self._device)]),
            stopping_criteria=StoppingCriteriaList([RowStopper(rows, self._stop_tokens)]),
        )


def take_batch(pending: list[Row], size: int) -> list[Row]:
    """Move the next batch out of `pending`: the request that waits longest, and those nearest to it in length."""
    pending[:] = [row for row in pending if not row.finished]
    if not pending:
        return []
    oldest = len(pending[0].prompt)
    batch = sorted(pending, key=lambda row: abs(len(row.prompt) - oldest))[:size]
    pending[:] = [row for row in pending if row not in batch]
    return batch


def _device(config: EngineConfig) -> torch.device:
    if not config.num_gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EngineError(f"engine.num_gpus: {config.num_gpus:g} asked, but torch sees no GPU here; set it to 0 for the CPU")
    return torch.device("cuda")


def _precision(config: EngineConfig, device: torch.device) -> torch.dtype:
    """bf16 on GPUs, fp32 on CPUs: without AMX a CPU is slower in bf16."""
    if config.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


def _load(model: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        weights = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    except Exception as error:  # each format of weights brings errors of its own
        reason = str(error).splitlines()[0][:200]
        raise ModelError(f"{model}: transformers cannot load it ({type(error).__name__}: {reason})") from None
    return tokenizer, weights.to(device).eval()


def _stop_tokens(tokenizer: Any, defaults: GenerationConfig) -> Collection[int]:
    """Every token that ends a reply: the tokenizer's, and those that the model's generation config names."""
    named = defaults.eos_token_id
    tokens = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    if not tokens:
        raise ModelError("the model names no end-of-sequence token; set eos_token in tokenizer_config.json")
    return frozenset(tokens)


def _hand_over(loop: asyncio.AbstractEventLoop, deltas: asyncio.Queue[Delta | EngineError], delta: Delta | EngineError) -> None:
    """Wake the reader; where its loop is closed nobody reads any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(deltas.put_nowait, delta)


def _closed() -> EngineError:
    return EngineError("the engine is closed; open it again")
