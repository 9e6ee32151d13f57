"""The account of the candidate pairs: every one is kept, or dropped for one reason.

A candidate is an unordered pair of top-level replies to one post that differ in score, before any cleaning. A post
with n replies has about n^2/2 of them, so they are counted from how many replies have which score, never one by one.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import polars as pl

from llumi.config import PairsConfig
from llumi.pairs.endorse import mark_eligible, min_gap

OVER_CAP = "over_cap_per_post"


@dataclass
class PairAccount:
    """How many candidates there were and what became of them: candidates == kept + sum of dropped."""

    candidates: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def from_counts(cls, counts: dict[str, Any]) -> Self:
        """Back from `as_counts`."""
        return cls(counts["candidates"], counts["kept"], Counter(counts["dropped"]))

    def add(self, other: Self) -> None:
        """Take in the account of another part of the posts."""
        self.candidates += other.candidates
        self.kept += other.kept
        self.dropped.update(other.dropped)

    def as_counts(self) -> dict[str, Any]:
        """For the manifest: the reasons by weight, the heaviest first; reasons that dropped nothing are left out."""
        dropped = sorted(((reason, n) for reason, n in self.dropped.items() if n), key=lambda entry: (-entry[1], entry[0]))
        return {"candidates": self.candidates, "kept": self.kept, "dropped": dict(dropped)}


def account_for(replies: pl.DataFrame, num_kept: int, config: PairsConfig, thresholds: pl.DataFrame) -> PairAccount:
    """The account of all candidates among `replies`, `num_kept` of which became pairs.

    `replies` holds every top-level reply, dropped ones too: post_id, community, score (null where it has none),
    reason (null where it was kept) and post_reason (the same of its post). The first reason in this order counts:
    post, higher reply, lower reply, the rules of the preset, the cap.
    """
    levels = _levels(replies, config, thresholds)
    account = PairAccount(candidates=_total(levels, "num", "below"), kept=num_kept)
    for reason, part in _by_reason(levels.drop_nulls("post_reason"), "post_reason"):
        account.dropped[f"post_{reason}"] = _total(part, "num", "below")
    levels = levels.filter(pl.col("post_reason").is_null())
    drops = replies.drop_nulls("reason").group_by("post_id", "score", "reason").agg(num_dropped=pl.len())
    for reason, part in _by_reason(drops.join(levels, on=["post_id", "score"]), "reason"):
        account.dropped[f"chosen_{reason}"] = _total(part, "num_dropped", "below")
        account.dropped[f"rejected_{reason}"] = _total(part, "num_dropped", "kept_above")
    account.dropped["not_in_top"] = _total(levels, "kept", "kept_below") - _total(levels, "top", "kept_below")
    account.dropped["not_in_bottom"] = _total(levels, "top", "kept_below") - _total(levels, "top", "bottom_below")
    num_eligible = _total(levels, "top", "bottom_far_below")
    account.dropped["gap_too_small"] = _total(levels, "top", "bottom_below") - num_eligible
    account.dropped[OVER_CAP] = num_eligible - num_kept
    return account


def _levels(replies: pl.DataFrame, config: PairsConfig, thresholds: pl.DataFrame) -> pl.DataFrame:
    """One row for each score that replies to a post have: how many have it, and how many are below and above.

    num counts all replies, kept those that cleaning kept, top and bottom those of them that may be chosen or rejected.
    """
    is_kept = pl.col("reason").is_null()
    marked = mark_eligible(replies.drop_nulls("score"), config, thresholds)
    levels = (
        marked.group_by("post_id", "score")
        .agg(
            post_reason=pl.col("post_reason").first(),
            num=pl.len().cast(pl.Int64),
            kept=is_kept.cast(pl.Int64).sum(),
            top=(is_kept & pl.col("may_choose")).cast(pl.Int64).sum(),
            bottom=(is_kept & pl.col("may_reject")).cast(pl.Int64).sum(),
        )
        .sort("post_id", "score")
        .with_columns(bottom_up_to=pl.col("bottom").cum_sum().over("post_id"))
        .with_columns(
            below=pl.col("num").cum_sum().over("post_id") - pl.col("num"),
            kept_below=pl.col("kept").cum_sum().over("post_id") - pl.col("kept"),
            kept_above=pl.col("kept").sum().over("post_id") - pl.col("kept").cum_sum().over("post_id"),
            bottom_below=pl.col("bottom_up_to") - pl.col("bottom"),
            far_below=pl.col("score") - min_gap(config),
        )
    )
    return _with_bottom_far_below(levels)


def _with_bottom_far_below(levels: pl.DataFrame) -> pl.DataFrame:
    """`levels` with how many replies that may be rejected are at least the gap below each score."""
    # The rows are sorted by post and score; polars cannot verify that within groups and would warn.
    reached = levels.select("post_id", reached="score", bottom_far_below="bottom_up_to")
    joined = levels.join_asof(
        reached, left_on="far_below", right_on="reached", by="post_id", strategy="backward", check_sortedness=False
    )
    return joined.with_columns(pl.col("bottom_far_below").fill_null(0))


def _by_reason(levels: pl.DataFrame, column: str) -> Iterator[tuple[str, pl.DataFrame]]:
    for (reason,), part in levels.partition_by(column, as_dict=True).items():
        yield str(reason), part


def _total(levels: pl.DataFrame, replies: str, others: str) -> int:
    """The number of pairs of each of `replies` with each of its `others`."""
    return int(levels.select((pl.col(replies) * pl.col(others)).sum()).item())
