"""Replies and pairs of replies -> the tables that training and evaluation read.

A frame of pairs has the columns example_id, post_id, post_author, author, author_rejected, community, risk, text, body,
body_rejected, score, score_rejected, weight and, for IM, similarity; a frame of replies has those of its chosen side.
"""

from collections.abc import Iterable

import polars as pl
import pyarrow as pa

from llumi.prompts import Message, answer, gm_prompt
from llumi.records import DPO_SCHEMA, HELD_OUT_SCHEMA, MESSAGES, SFT_SCHEMA


def gm_sft(replies: pl.DataFrame) -> pa.Table:
    """Examples (SFT_SCHEMA): post -> an endorsed reply."""
    replies = replies.with_columns(author_rejected=pl.lit(None, pl.String))
    return sft_table(replies, (gm_prompt(post) for post in replies["text"]))


def gm_dpo(pairs: pl.DataFrame) -> pa.Table:
    """Preference rows (DPO_SCHEMA): post -> the endorsed reply over the other."""
    pairs = pairs.with_columns(similarity=pl.lit(None, pl.Float64))
    return dpo_table(pairs, (gm_prompt(post) for post in pairs["text"]))


def held_out(pairs: pl.DataFrame) -> pa.Table:
    """Posts (HELD_OUT_SCHEMA), each with the replies of its widest pair: one row for each of `pairs`."""
    columns = {
        "post": "text",
        "reply": "body",
        "reply_author": "author",
        "reply_score": "score",
        "draft": "body_rejected",
        "draft_author": "author_rejected",
        "draft_score": "score_rejected",
    }
    return _table(pairs, columns, {}, HELD_OUT_SCHEMA)


def sft_table(rows: pl.DataFrame, prompts: Iterable[list[Message]]) -> pa.Table:
    """`rows` as completions of `prompts`."""
    columns = {"draft_author": "author_rejected"}
    return _table(rows, columns, {"prompt": _conversations(prompts), "completion": _answers(rows["body"])}, SFT_SCHEMA)


def dpo_table(pairs: pl.DataFrame, prompts: Iterable[list[Message]]) -> pa.Table:
    """`pairs` as chosen and rejected answers to `prompts`."""
    columns = {
        "pair_id": "example_id",
        "chosen_author": "author",
        "rejected_author": "author_rejected",
        "chosen_score": "score",
        "rejected_score": "score_rejected",
    }
    conversations = {
        "prompt": _conversations(prompts),
        "chosen": _answers(pairs["body"]),
        "rejected": _answers(pairs["body_rejected"]),
    }
    return _table(pairs, columns, conversations, DPO_SCHEMA)


def _table(rows: pl.DataFrame, columns: dict[str, str], conversations: dict[str, pa.Array], schema: pa.Schema) -> pa.Table:
    """The fields of `schema`: conversations as given, all others from the column that `columns` names, or their own."""
    arrays = {
        name: conversations[name] if name in conversations else rows[columns.get(name, name)].to_arrow() for name in schema.names
    }
    return pa.table(arrays).cast(schema)


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
