"""One static batch of the `hf` engine: its rows sample, stream and end each for itself."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from llumi.engine.base import Delta, FinishReason, Sampling
from llumi.errors import EngineError

_INCOMPLETE = "\ufffd"
_LIKELY_NUCLEUS = 256
"""How many candidates usually hold the mass of a nucleus: picking them out is 20 times faster than sorting all."""


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
    """One request in a batch: what it asks, and where its deltas (or the error that ends it) go."""

    def __init__(self, prompt: list[int], sampling: Sampling, emit: Callable[[Delta | EngineError], None]) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.finished = False
        self._emit = emit
        self._text: TextStream
        self._num_tokens = 0

    def start(self, tokenizer: Any) -> None:
        """Make ready for the first token."""
        self._text = TextStream(tokenizer)

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


class RowSampler(LogitsProcessor):  # type: ignore[misc]
    """Temperature, top-p and seed per row, so that greedy decoding after it draws an exact sample of each row.

    The Gumbel-max trick: argmax(logits + G) with independent Gumbel noise G is a sample of softmax(logits) (Gumbel 1954;
    Maddison et al. 2014, arXiv 1411.0030). Noise comes from a generator per row: what shares the batch does not matter.
    """

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        self._rows = [index for index, row in enumerate(rows) if row.sampling.temperature > 0]
        chosen = [rows[index].sampling for index in self._rows]
        self._generators = [torch.Generator(device).manual_seed(sampling.seed) for sampling in chosen]
        self._temperature = torch.tensor([[sampling.temperature] for sampling in chosen], device=device)
        self._top_p = torch.tensor([[sampling.top_p] for sampling in chosen], device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits of shape (rows, vocabulary) in, perturbed logits of the same shape out; greedy rows stay as they are."""
        if self._rows:
            logits = nucleus(scores[self._rows] / self._temperature, self._top_p)
            scores[self._rows] = logits + self._gumbel(logits)
        return scores

    def _gumbel(self, like: torch.Tensor) -> torch.Tensor:
        noise = torch.empty_like(like)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        # An exponential draw may round to 0, whose logarithm would be infinite.
        return -noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_()


def nucleus(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Mask all but the smallest set of most probable tokens whose mass reaches `top_p` (arXiv 1904.09751).

    `logits` has shape (rows, vocabulary), `top_p` (rows, 1); masked logits are -inf.
    """
    total = logits.logsumexp(-1, keepdim=True)
    ranked = logits.topk(min(_LIKELY_NUCLEUS, logits.shape[-1])).values
    if ((ranked - total).exp().sum(-1, keepdim=True) < top_p).any():
        ranked = logits.sort(descending=True).values
    mass = (ranked - total).exp()
    kept = mass.cumsum(-1) - mass < top_p
    smallest = ranked.masked_fill(~kept, torch.inf).amin(-1, keepdim=True)
    return logits.masked_fill(logits < smallest, -torch.inf)


class RowStopper(StoppingCriteria):  # type: ignore[misc]
    """Hands each row its token as soon as it is drawn, and tells `generate` which rows are at their end."""

    def __init__(self, rows: Sequence[Row], stop_tokens: Collection[int]) -> None:
        self._rows = rows
        self._stop_tokens = stop_tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """`input_ids` has shape (rows, length); gives a bool per row."""
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            row.push(token, self._stop_tokens)
        return torch.tensor([row.finished for row in self._rows], device=input_ids.device)
