"""What IM learns from: a draft, and a revision that says nearly the same, better.

A revision that is far from its draft would teach IM to replace what a person meant. So a pair counts only where the
cosine of both sentence embeddings lies in a window, whether the community's votes gave the revision or a local teacher
model wrote it. The rejected answer is the draft itself, unrevised, so that the model learns to revise and not to copy.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import polars as pl
import pyarrow as pa

from llumi.config import RevisionConfig
from llumi.pairs.examples import dpo_table, im_prompts, sft_table

TOO_FAR = "too_far"
TOO_NEAR = "too_near"

Vetoes = Callable[[pl.Series], pl.Series]
"""Replies in, for each the name of the safety rule that refuses it, or null."""

ANY_LINE = r"(?i)\b(hot|help|life|warm)[ -]?lines?\b|\bcrisis (text )?lines?\b|\b273[ .-]?talk\b"
"""A crisis line that is named without saying which."""


def im_dpo(pairs: pl.DataFrame) -> pa.Table:
    """Preference rows (DPO_SCHEMA): the post and its less endorsed reply as the draft -> the revision over it."""
    return dpo_table(pairs, im_prompts(pairs))


def im_sft(pairs: pl.DataFrame) -> pa.Table:
    """The same as examples (SFT_SCHEMA): post and draft -> the revision."""
    return sft_table(pairs, im_prompts(pairs))


def within_window(pairs: pl.DataFrame, config: RevisionConfig) -> tuple[pl.DataFrame, Counter[str]]:
    """The rows whose `similarity` lies in the window, its ends included, and how many lie outside on which side.

    A similarity that is null (nothing to compare) is too far.
    """
    side = pairs.select(window_side(config)).to_series()
    return pairs.filter(side.is_null()), Counter(side.drop_nulls())


def window_side(config: RevisionConfig) -> pl.Expr:
    """On which side of the window the column `similarity` lies: too_far, too_near, or null within it."""
    similarity = pl.col("similarity")
    return (
        pl.when(similarity.is_null() | (similarity < config.min_similarity))
        .then(pl.lit(TOO_FAR))
        .when(similarity > config.max_similarity)
        .then(pl.lit(TOO_NEAR))
    )


def in_sample(pair_ids: pl.Series, bound: int | None) -> pl.Series:
    """Whether the hash of each id, a number of 64 bits, is at most `bound`; None takes all.

    A bound of 2^64 times a share takes about that share, the same one whatever the order of the pairs or the cluster, and
    a smaller share is part of a larger one.
    """
    if bound is None:
        return pl.Series(np.full(len(pair_ids), fill_value=True))
    digests = (hashlib.blake2b(pair_id.encode(), digest_size=8, person=b"sample").digest() for pair_id in pair_ids)
    return pl.Series(np.frombuffer(b"".join(digests), dtype=">u8") <= np.uint64(bound))


def judge(revisions: pl.DataFrame, vetoes: Vetoes, resources: Iterable[str]) -> pl.Series:
    """Why each of a teacher's revisions is no target, before nearness is asked; null where nothing speaks against it.

    `revisions` has one row for each draft: draft, and as generated revision, finish_reason, error and generation_id (null
    where the teacher was not given the draft). `resources` are patterns, one for each crisis line. The first reason counts:
    not_generated, failed, empty, unfinished, unchanged, unsafe_<rule>, removed_resource.
    """
    revision = pl.col("revision").fill_null("")
    refused = vetoes(revisions["revision"].fill_null("")).cast(pl.String)
    checks: list[tuple[pl.Expr, pl.Expr]] = [
        (pl.col("generation_id").is_null(), pl.lit("not_generated")),
        (pl.col("error").is_not_null(), pl.lit("failed")),
        (words(revision) == "", pl.lit("empty")),
        (pl.col("finish_reason").ne_missing("stop"), pl.lit("unfinished")),
        (words(revision) == words(pl.col("draft")), pl.lit("unchanged")),
        (pl.col("refused").is_not_null(), pl.lit("unsafe_") + pl.col("refused")),
        (_removes_resource(pl.col("draft"), revision, resources), pl.lit("removed_resource")),
    ]
    reason = pl.coalesce(*(pl.when(holds).then(name) for holds, name in checks))
    return revisions.with_columns(refused=refused).select(reason=reason).to_series()


def words(text: pl.Expr) -> pl.Expr:
    """The text without what is only spacing or case."""
    return text.str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


def _removes_resource(draft: pl.Expr, revision: pl.Expr, resources: Iterable[str]) -> pl.Expr:
    """Whether the draft names a crisis line that the revision does not."""
    return pl.any_horizontal(draft.str.contains(line) & ~revision.str.contains(line) for line in (*resources, ANY_LINE))
