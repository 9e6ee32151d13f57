"""Published pairs -> the token columns that TRL's trainers collate.

TRL would tokenize by itself, but it quotes decoded text in a warning, truncates without a word, and writes its work to
a cache on disk. Here text becomes token ids in memory, once, and an example that does not fit is left out and counted:
a model never learns from half a reply.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from llumi.errors import ModelError

Objective = Literal["sft", "dpo"]
IGNORED = -100
"""The label that every loss skips."""

_BATCH_ROWS = 512
_IDS = pa.list_(pa.int32())
_COMPLETIONS: dict[Objective, tuple[str, ...]] = {"sft": ("completion",), "dpo": ("chosen", "rejected")}
_SCHEMAS: dict[Objective, pa.Schema] = {
    "sft": pa.schema({"input_ids": _IDS, "labels": _IDS}),
    "dpo": pa.schema({"prompt_ids": _IDS, "chosen_ids": _IDS, "rejected_ids": _IDS}),
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the examples of one split."""

    examples: int
    too_long: int
    kept: int


def encode(files: Sequence[Path], objective: Objective, tokenizer: Any, max_length: int) -> tuple[pa.Table, Counts]:
    """Token columns of one split, and what was left out of it.

    `sft` gives `input_ids` and `labels` (the prompt masked with `IGNORED`), `dpo` gives `prompt_ids`, `chosen_ids` and
    `rejected_ids`. An example is too long when its prompt and its (longer) completion exceed `max_length` tokens.
    Raises ModelError where the chat template cannot render the conversation.
    """
    num_examples, rows = 0, []
    for batch in _batches(files, ("prompt", *_COMPLETIONS[objective])):
        num_examples += len(batch)
        for prompt, completions in _tokenize(batch, _COMPLETIONS[objective], tokenizer):
            if len(prompt) + max(map(len, completions)) <= max_length:
                rows.append(_row(objective, prompt, completions))
    table = pa.Table.from_pylist(rows, schema=_SCHEMAS[objective])
    return table, Counts(num_examples, num_examples - table.num_rows, table.num_rows)


def _batches(files: Sequence[Path], columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=list(columns)):
                yield batch.to_pylist()


def _tokenize(
    batch: Sequence[dict[str, Any]], names: Sequence[str], tokenizer: Any
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Each row as the tokens of its prompt, and of each completion behind it.

    A completion starts where the rendered prompt and the rendered conversation part: templates differ in what they put
    behind a prompt, and tokens may merge across the border.
    """
    try:
        prompts = _render(tokenizer, [row["prompt"] for row in batch], add_generation_prompt=True)
        wholes = [_render(tokenizer, [row["prompt"] + row[name] for row in batch]) for name in names]
    except Exception as error:
        # The cause may quote the conversation, so it is not chained.
        raise ModelError(f"the model's chat template cannot render these pairs ({type(error).__name__})") from None
    for prompt, *conversations in zip(prompts, *wholes, strict=True):
        start = min(_common_prefix(prompt, conversation) for conversation in conversations)
        yield prompt[:start], [conversation[start:] for conversation in conversations]


def _render(tokenizer: Any, conversations: list[Any], add_generation_prompt: bool = False) -> list[list[int]]:
    rendered = tokenizer.apply_chat_template(
        conversations, tokenize=True, return_dict=True, add_generation_prompt=add_generation_prompt
    )
    ids: list[list[int]] = rendered["input_ids"]
    return ids


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    for position, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return position
    return min(len(one), len(other))


def _row(objective: Objective, prompt: list[int], completions: list[list[int]]) -> dict[str, list[int]]:
    if objective == "dpo":
        return {"prompt_ids": prompt, "chosen_ids": completions[0], "rejected_ids": completions[1]}
    return {"input_ids": prompt + completions[0], "labels": [IGNORED] * len(prompt) + completions[0]}
