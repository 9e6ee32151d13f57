"""Replies and pairs of replies -> the tables that training and evaluation read.

A frame of pairs has the columns example_id, post_id, post_author, author, author_rejected, community, risk, text, body,
body_rejected, score, score_rejected, weight and, for IM, similarity; a frame of replies has those of its chosen side.
"""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from llumi.prompts import Message, answer, gm_prompt, im_prompt
from llumi.records import DPO_SCHEMA, HELD_OUT_SCHEMA, SFT_SCHEMA

EXAMPLES = {
    f"{name}/{split}": schema
    for name, schema in (("gm-sft", SFT_SCHEMA), ("gm-dpo", DPO_SCHEMA), ("im-sft", SFT_SCHEMA), ("im-dpo", DPO_SCHEMA))
    for split in ("train", "test")
} | {"drafts": HELD_OUT_SCHEMA, "held-out": HELD_OUT_SCHEMA}
"""The folders of `pairs/<name>` and what lies in them."""

_HERE = "\0"
"""Stands for a text in a template; cleaning leaves none in a text."""


def gm_sft(replies: pl.DataFrame) -> pa.Table:
    """Examples (SFT_SCHEMA): post -> an endorsed reply."""
    replies = replies.with_columns(author_rejected=pl.lit(None, pl.String))
    return sft_table(replies, gm_prompts(replies))


def gm_dpo(pairs: pl.DataFrame) -> pa.Table:
    """Preference rows (DPO_SCHEMA): post -> the endorsed reply over the other."""
    pairs = pairs.with_columns(similarity=pl.lit(None, pl.Float64))
    return dpo_table(pairs, gm_prompts(pairs))


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


def gm_prompts(rows: pl.DataFrame) -> pl.Series:
    """The conversation that asks GM for a reply to `text`, for each row."""
    return _conversations(gm_prompt(_HERE), [rows["text"]])


def im_prompts(rows: pl.DataFrame) -> pl.Series:
    """The conversation that asks IM to revise `body_rejected`, a reply to `text`, for each row."""
    return _conversations(im_prompt(_HERE, _HERE), [rows["text"], rows["body_rejected"]])


def sft_table(rows: pl.DataFrame, prompts: pl.Series) -> pa.Table:
    """`rows` as completions of `prompts`."""
    columns = {"draft_author": "author_rejected"}
    return _table(rows, columns, {"prompt": prompts, "completion": _answers(rows["body"])}, SFT_SCHEMA)


def dpo_table(pairs: pl.DataFrame, prompts: pl.Series) -> pa.Table:
    """`pairs` as chosen and rejected answers to `prompts`."""
    columns = {
        "pair_id": "example_id",
        "chosen_author": "author",
        "rejected_author": "author_rejected",
        "chosen_score": "score",
        "rejected_score": "score_rejected",
    }
    conversations = {
        "prompt": prompts,
        "chosen": _answers(pairs["body"]),
        "rejected": _answers(pairs["body_rejected"]),
    }
    return _table(pairs, columns, conversations, DPO_SCHEMA)


def _table(rows: pl.DataFrame, columns: dict[str, str], conversations: dict[str, pl.Series], schema: pa.Schema) -> pa.Table:
    """The fields of `schema`: conversations as given, all others from the column that `columns` names, or their own."""
    series = [conversations[name] if name in conversations else rows[columns.get(name, name)] for name in schema.names]
    frame = pl.DataFrame([one.alias(name) for name, one in zip(schema.names, series, strict=True)])
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)


def _answers(bodies: pl.Series) -> pl.Series:
    return _conversations(answer(_HERE), [bodies])


def _conversations(template: Sequence[Message], texts: Sequence[pl.Series]) -> pl.Series:
    """A conversation for each row: the template, with the row's texts one after the other in the place of `_HERE`.

    The wording stays that of `llumi.prompts`, and no text leaves its column.
    """
    rest = iter(range(len(texts)))
    frame = pl.DataFrame([text.alias(str(number)) for number, text in enumerate(texts)])
    turns = []
    for turn in template:
        first, *others = turn["content"].split(_HERE)
        pieces = [pl.lit(first), *(piece for other in others for piece in (pl.col(str(next(rest))), pl.lit(other)))]
        turns.append(pl.struct(role=pl.lit(turn["role"]), content=pl.concat_str(pieces)))
    return frame.select(pl.concat_list(turns)).to_series()
