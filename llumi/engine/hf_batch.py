"""The running batch of the `hf` engine: rows join it, take one token a step, and leave it, each for itself.

Rows lie padded on the left, so that all take their next token in the same column. Rows that join are computed on their own
first; then their keys and values are laid below those of the others. Where rows leave, so do columns that they alone filled.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch.nn import functional
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from llumi.engine.hf_load import LoadedModel
from llumi.engine.hf_row import Row
from llumi.engine.hf_sampling import draw

ROOM = 64
"""Columns that are set aside at once: transformers' own cache copies all columns for each new one."""


class RowLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """Keys and values of one layer, each of shape (rows, heads, columns, width), in buffers with room for columns to come.

    A layer that looks at a window alone has all columns, too: the mask hides those before it.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by the model's attention with the new columns; returns all of them."""
        if not self.is_initialized:
            self.lay([key_states], [value_states], key_states.shape[2])
            return self.keys, self.values
        before, num = self.keys.shape[2], key_states.shape[2]
        if before + num > self._buffers[0].shape[2]:
            self.lay([self.keys], [self.values], before)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, before : before + num] = new
        self._show(before + num)
        return self.keys, self.values

    def lay(self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor], columns: int) -> None:
        """Hold the rows of all parts, one below the other, each part's last column at `columns`."""
        self._buffers = [_laid_together(parts, columns) for parts in (keys, values)]
        self.is_initialized = True
        self._show(columns)

    def _show(self, columns: int) -> None:
        self.keys, self.values = (buffer[:, :, :columns] for buffer in self._buffers)


def _laid_together(parts: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    """What is not filled is 0: padding has no weight in attention, but 0 times whatever lay in memory may be no number."""
    _, heads, _, width = parts[0].shape
    whole = parts[0].new_zeros((sum(len(part) for part in parts), heads, columns + ROOM, width))
    first = 0
    for part in parts:
        whole[first : first + len(part), :, columns - part.shape[2] : columns] = part
        first += len(part)
    return whole


class Batch:
    """Rows that are generated together.

    `mask` has shape (rows, columns) and is 1 where a row has a token; `newest` (rows, 1) are the tokens to be read next.
    """

    def __init__(self, model: LoadedModel, rows: Sequence[Row]) -> None:
        """Read the prompts of `rows` and let each take its first token."""
        self.rows = list(rows)
        self._model = model
        self._cache: Any = Cache(layer_class_to_replicate=RowLayer)
        for row in rows:
            row.start(model.tokenizer, model.device)
        longest, pad = max(len(row.prompt) for row in rows), min(model.stop_tokens)
        padding = [longest - len(row.prompt) for row in rows]
        self._mask = torch.tensor(
            [[0] * missing + [1] * len(row.prompt) for missing, row in zip(padding, rows, strict=True)], device=model.device
        )
        prompts = [[pad] * missing + row.prompt for missing, row in zip(padding, rows, strict=True)]
        self._newest = self._advanced(torch.tensor(prompts, device=model.device))

    def step(self) -> None:
        """Let each row take its next token."""
        self._mask = torch.cat([self._mask, torch.ones_like(self._newest)], dim=1)
        self._newest = self._advanced(self._newest)

    def join(self, other: Self) -> None:
        """Take the rows of another batch in, which is of no use afterwards."""
        columns = max(self._mask.shape[1], other._mask.shape[1])
        for mine, theirs in zip(self._layers(), other._layers(), strict=True):
            mine.lay([mine.keys, theirs.keys], [mine.values, theirs.values], columns)
        masks = [functional.pad(mask, (columns - mask.shape[1], 0)) for mask in (self._mask, other._mask)]
        self._mask, self._newest = torch.cat(masks), torch.cat([self._newest, other._newest])
        self.rows += other.rows

    def leave(self) -> None:
        """Let the rows go that are finished, and the columns in which no other has a token."""
        staying = [place for place, row in enumerate(self.rows) if not row.finished]
        if len(staying) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in staying]
        if not staying:
            return
        mask = self._mask[staying]
        first = int(mask.any(dim=0).int().argmax())
        self._mask, self._newest = mask[:, first:], self._newest[staying]
        for layer in self._layers():
            keys, values = ([held[place : place + 1, :, first:] for place in staying] for held in (layer.keys, layer.values))
            layer.lay(keys, values, self._mask.shape[1])

    def _layers(self) -> list[RowLayer]:
        """Those that keep anything: a layer may use what an earlier one keeps."""
        return [layer for layer in self._cache.layers if layer.is_initialized]

    def _advanced(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read `tokens` (rows, columns), the last ones of the mask; returns what each row draws and takes after them."""
        positions = (self._mask.cumsum(dim=1) - 1).clamp_(min=0)[:, -tokens.shape[1] :]
        adapters = [row.adapter for row in self.rows]
        drawn = draw(self._model.logits(tokens, self._mask, positions, self._cache, adapters), self.rows)
        for row, token in zip(self.rows, drawn.tolist(), strict=True):
            row.push(token, self._model.stop_tokens)
        return drawn[:, None]
