"""Replies and pairs of replies -> the tables that training and evaluation read.

`pairs` is what `endorse.select_pairs` gives, with the post's `text` and `community` and the pair's `example_id`;
`replies` has the columns of its chosen side.
"""

from collections.abc import Iterable

import polars as pl
import pyarrow as pa

from llumi.prompts import Message, answer, gm_prompt
from llumi.records import DPO_SCHEMA, HELD_OUT_SCHEMA, MESSAGES, SFT_SCHEMA


def gm_sft(replies: pl.DataFrame) -> pa.Table:
    """Examples (SFT_SCHEMA): post -> an endorsed reply."""
    return sft_table(replies, (gm_prompt(post) for post in replies["text"]))


def gm_dpo(pairs: pl.DataFrame) -> pa.Table:
    """Preference rows (DPO_SCHEMA): post -> the endorsed reply over the other."""
    return dpo_table(pairs, (gm_prompt(post) for post in pairs["text"]))


def held_out(replies: pl.DataFrame) -> pa.Table:
    """Posts that no model has seen (HELD_OUT_SCHEMA), each with its most and its least endorsed reply."""
    return pa.table(
        {
            "post_id": replies["post_id"].to_arrow(),
            "community": replies["community"].to_arrow(),
            "post": replies["text"].to_arrow(),
            "reply": replies["body"].to_arrow(),
            "reply_score": replies["score"].to_arrow(),
            "draft": replies["body_rejected"].to_arrow(),
            "draft_score": replies["score_rejected"].to_arrow(),
        }
    ).cast(HELD_OUT_SCHEMA)


def sft_table(rows: pl.DataFrame, prompts: Iterable[list[Message]]) -> pa.Table:
    """`rows` as completions of `prompts`."""
    columns = {
        "example_id": rows["example_id"].to_arrow(),
        "post_id": rows["post_id"].to_arrow(),
        "community": rows["community"].to_arrow(),
        "prompt": _conversations(prompts),
        "completion": _answers(rows["body"]),
        "score": rows["score"].to_arrow(),
    }
    return pa.table(columns).cast(SFT_SCHEMA)


def dpo_table(pairs: pl.DataFrame, prompts: Iterable[list[Message]]) -> pa.Table:
    """`pairs` as chosen and rejected answers to `prompts`."""
    columns = {
        "pair_id": pairs["example_id"].to_arrow(),
        "post_id": pairs["post_id"].to_arrow(),
        "community": pairs["community"].to_arrow(),
        "prompt": _conversations(prompts),
        "chosen": _answers(pairs["body"]),
        "rejected": _answers(pairs["body_rejected"]),
        "chosen_score": pairs["score"].to_arrow(),
        "rejected_score": pairs["score_rejected"].to_arrow(),
    }
    return pa.table(columns).cast(DPO_SCHEMA)


def _answers(bodies: pl.Series) -> pa.Array:
    return _conversations(answer(body) for body in bodies)


def _conversations(conversations: Iterable[list[Message]]) -> pa.Array:
    """Messages as a column, put together from flat ones: several times faster than from nested dictionaries."""
    roles: list[str] = []
    contents: list[str] = []
    offsets = [0]
    for conversation in conversations:
        roles.extend(turn["role"] for turn in conversation)
        contents.extend(turn["content"] for turn in conversation)
        offsets.append(len(roles))
    turns = pa.StructArray.from_arrays(
        [pa.array(roles, pa.string()), pa.array(contents, pa.string())], fields=list(MESSAGES.value_type)
    )
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), turns)
