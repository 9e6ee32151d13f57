"""Published pairs -> the token columns that TRL's trainers collate.

TRL would tokenize by itself, but it quotes decoded text in a warning, truncates without a word, and writes its work to
a cache on disk. Here text becomes token ids in memory, once, and what does not fit is treated by rule and counted: a
model never learns from half a reply.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from llumi.errors import ModelError

Objective = Literal["sft", "dpo"]
TooLong = Literal["drop", "truncate", "refuse"]
IGNORED = -100
"""The label that every loss skips."""

MIN_PROMPT_TOKENS = 32
"""What a cut must leave of a prompt; a reply that leaves less room is too long by itself."""

_BATCH_ROWS = 512
_IDS = pa.list_(pa.int32())
_ID_COLUMN: dict[Objective, str] = {"sft": "example_id", "dpo": "pair_id"}
_COMPLETIONS: dict[Objective, tuple[str, ...]] = {"sft": ("completion",), "dpo": ("chosen", "rejected")}
_SCHEMAS: dict[Objective, pa.Schema] = {
    "sft": pa.schema({"row": pa.int32(), "input_ids": _IDS, "labels": _IDS}),
    "dpo": pa.schema({"row": pa.int32(), "prompt_ids": _IDS, "chosen_ids": _IDS, "rejected_ids": _IDS, "weight": pa.float64()}),
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the examples of one split: examples == kept + too_long, and `truncated` are among the kept."""

    examples: int
    too_long: int
    kept: int
    truncated: int = 0


@dataclass(frozen=True)
class Examples:
    """One split as tokens. `rows` has its own number in the column `row`; `ids` names the example of each number."""

    rows: pa.Table
    ids: list[str]
    counts: Counts

    def lengths(self, joined: bool = False) -> list[int]:
        """Tokens of each example: of the whole conversation, for DPO with the longer reply, or with both where `joined`."""
        names = [name for name in ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids") if name in self.rows.schema.names]
        sizes = {name: [len(ids) for ids in self.rows[name].to_pylist()] for name in names}
        if "input_ids" in sizes:
            return sizes["input_ids"]
        parts = zip(sizes["prompt_ids"], sizes["chosen_ids"], sizes["rejected_ids"], strict=True)
        together = sum if joined else max
        return [prompt + together((chosen, rejected)) for prompt, chosen, rejected in parts]

    def first(self, num: int) -> "Examples":
        """At most so many of them."""
        return Examples(self.rows.slice(0, num), self.ids[:num], self.counts)


def encode(
    files: Sequence[Path], objective: Objective, tokenizer: Any, max_length: int, too_long: TooLong = "drop"
) -> Examples:
    """Token columns of one split, and what was left out of it.

    `sft` gives `input_ids` and `labels` (the prompt masked with `IGNORED`), `dpo` gives `prompt_ids`, `chosen_ids`,
    `rejected_ids` and the pair's `weight`. An example is too long when its prompt and its (longer) completion exceed
    `max_length` tokens: `drop` leaves it out; `truncate` takes tokens out of the middle of its prompt, so that the
    instruction and the end (IM: of the draft) stay, and leaves it out only where the completion itself has no room;
    `refuse` counts it, for the caller to refuse. Raises ModelError where the chat template cannot render the conversation.
    """
    num_examples = num_truncated = 0
    rows: list[dict[str, Any]] = []
    ids: list[str] = []
    names = _COMPLETIONS[objective]
    weights = ("weight",) if objective == "dpo" else ()
    for batch in _batches(files, (_ID_COLUMN[objective], "prompt", *names, *weights)):
        num_examples += len(batch)
        for example, (prompt, completions) in zip(batch, _tokenize(batch, names, tokenizer), strict=True):
            room = max_length - max(map(len, completions))
            if len(prompt) > room and (too_long != "truncate" or room < MIN_PROMPT_TOKENS):
                continue
            num_truncated += len(prompt) > room
            row = _row(objective, _without_middle(prompt, room), completions)
            rows.append(row | {"row": len(rows)} | {name: _weight(example[name]) for name in weights})
            ids.append(str(example[_ID_COLUMN[objective]]))
    table = pa.Table.from_pylist(rows, schema=_SCHEMAS[objective])
    return Examples(table, ids, Counts(num_examples, num_examples - len(rows), len(rows), num_truncated))


def _weight(value: float | None) -> float:
    """Pairs of older artifacts have no weight."""
    return 1.0 if value is None else value


def _without_middle(prompt: list[int], room: int) -> list[int]:
    if len(prompt) <= room:
        return prompt
    tail = room // 2
    return prompt[: room - tail] + prompt[-tail:]


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
