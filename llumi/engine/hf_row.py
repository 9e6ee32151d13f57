"""One request of the `hf` engine: what it asks, what it draws from, and its tokens as pieces of text."""

from collections.abc import Callable, Collection
from typing import Any

import torch

from llumi.engine.base import Delta, FinishReason, Sampling
from llumi.errors import EngineError

_INCOMPLETE = "\ufffd"


class TextStream:
    """Turns the tokens of one reply into pieces of text that hold whole characters only."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context_start = 0  # tokens before `_told` that the next ones may merge with
        self._told = 0

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is still open."""
        self._ids.append(token)
        text = self._new_text()
        if not text or text.endswith(_INCOMPLETE):
            return ""
        self._context_start, self._told = self._told, len(self._ids)
        return text

    def finish(self) -> str:
        """What is left, without a character that was cut off."""
        return self._new_text().rstrip(_INCOMPLETE)

    def _new_text(self) -> str:
        known = self._decode(self._ids[self._context_start : self._told])
        return self._decode(self._ids[self._context_start :])[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class Row:
    """One request in a batch: what it asks, and where its deltas (or the error that ends it) go.

    `generator` is its own source of chance, so that what shares the batch does not matter.
    """

    def __init__(
        self,
        prompt: list[int],
        sampling: Sampling,
        emit: Callable[[Delta | EngineError], None],
        adapter: str | None = None,
    ) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.adapter = adapter
        self.finished = False
        self.generator: torch.Generator
        self._emit = emit
        self._text: TextStream
        self._num_tokens = 0

    def start(self, tokenizer: Any, device: torch.device) -> None:
        """Make ready for the first token."""
        self._text = TextStream(tokenizer)
        self.generator = torch.Generator(device).manual_seed(self.sampling.seed)

    def push(self, token: int, stop_tokens: Collection[int]) -> None:
        """Take the next token; emits the text it completes, and the last delta where the reply ends."""
        if self.finished:
            return
        self._num_tokens += 1
        if token in stop_tokens:
            self._finish("stop", "")
            return
        text = self._text.push(token)
        if self._num_tokens >= self.sampling.max_new_tokens:
            self._finish("length", text)
        elif text:
            self._emit(Delta(text))

    def fail(self, error: EngineError) -> None:
        """End the reply with an error."""
        if not self.finished:
            self.finished = True
            self._emit(error)

    def cancel(self) -> None:
        """End the reply: nobody reads it any more."""
        self.finished = True

    def _finish(self, reason: FinishReason, text: str) -> None:
        self.finished = True
        self._emit(Delta(text + self._text.finish(), reason, len(self.prompt), self._num_tokens))
