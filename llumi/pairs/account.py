"""The account of the candidate pairs: every one is kept, or dropped for one reason.

A candidate is an unordered pair of top-level replies to one post that differ in score, before any cleaning. A post
with n replies has about n^2/2 of them, so they are counted from how many replies have which score, never one by one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import polars as pl

from llumi.config import PairsConfig
from llumi.pairs.endorse import mark_eligible, out_of_reach, reach

OVER_CAP = "over_cap_per_post"


@dataclass
class PairAccount:
    """How many candidates there were and what became of them: candidates == kept + sum of dropped."""

    candidates: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> Self:
        """Back from `as_counts`."""
        return cls(counts["candidates"], counts["kept"], Counter(counts["dropped"]))

    def add(self, other: Self) -> None:
        """Take in the account of another part of the posts."""
        self.candidates += other.candidates
        self.kept += other.kept
        self.dropped.update(other.dropped)

    def drop(self, reasons: Mapping[str, int]) -> None:
        """Some of the kept pairs are dropped after all."""
        self.kept -= sum(reasons.values())
        self.dropped.update(reasons)

    def as_counts(self) -> dict[str, Any]:
        """For the manifest: the reasons by weight, the heaviest first; reasons that dropped nothing are left out."""
        dropped = sorted(((reason, n) for reason, n in self.dropped.items() if n), key=lambda entry: (-entry[1], entry[0]))
        return {"candidates": self.candidates, "kept": self.kept, "dropped": dict(dropped)}


Accounts = dict[str, PairAccount]
"""By community; "" stands for posts that are not in the corpus."""


def total(accounts: Iterable[PairAccount]) -> PairAccount:
    """All of them together."""
    together = PairAccount()
    for account in accounts:
        together.add(account)
    return together


def account_for(
    replies: pl.DataFrame, kept: pl.DataFrame, dropped: pl.DataFrame, config: PairsConfig, thresholds: pl.DataFrame
) -> Accounts:
    """The accounts of all candidates among `replies`.

    `replies` holds every top-level reply, dropped ones too: post_id, community, score (null where it has none),
    reason (null where it was kept), post_reason (the same of its post) and veto (null where it is safe). `kept` (community,
    num) and `dropped` (community, reason, num) are what `select_pairs` kept and what its pair rules dropped. The first
    reason in this order counts: post, higher reply, lower reply, the preset's demands on either, the veto, the
    distance of their scores, the pair rules, the cap.
    """
    levels = _levels(replies.with_columns(pl.col("community").fill_null("")), config, thresholds)
    in_use = levels.filter(pl.col("post_reason").is_null())
    drops = replies.drop_nulls("reason").group_by("post_id", "score", "reason").agg(num_dropped=pl.len())
    of_drops = drops.join(in_use, on=["post_id", "score"])
    far = {"not_in_top": ("kept", "top"), "chosen_vetoed": ("top", "safe")}
    parts = [
        _pairs(levels, pl.lit(""), "num", "below"),
        _pairs(levels.drop_nulls("post_reason"), "post_" + pl.col("post_reason"), "num", "below"),
        _pairs(of_drops, "chosen_" + pl.col("reason"), "num_dropped", "below"),
        _pairs(of_drops, "rejected_" + pl.col("reason"), "num_dropped", "kept_above"),
        *(_lost(in_use, name, (wide, "kept_below"), (narrow, "kept_below")) for name, (wide, narrow) in far.items()),
        _lost(in_use, "not_in_bottom", ("safe", "kept_below"), ("safe", "bottom_below")),
        _lost(in_use, out_of_reach(config), ("safe", "bottom_below"), ("safe", "bottom_far_below")),
        dropped,
    ]
    accounts: Accounts = {}
    for community, reason, num in pl.concat(parts).iter_rows():
        account = accounts.setdefault(community, PairAccount())
        if reason:
            account.dropped[reason] += num
        else:
            account.candidates += num
    for community, num in kept.iter_rows():
        accounts.setdefault(community, PairAccount()).kept = num
    for account in accounts.values():
        account.dropped[OVER_CAP] = account.candidates - account.kept - account.dropped.total()
    return accounts


def _levels(replies: pl.DataFrame, config: PairsConfig, thresholds: pl.DataFrame) -> pl.DataFrame:
    """One row for each score that replies to a post have: how many have it, and how many are below and above.

    num counts all replies, kept those that cleaning kept, top and bottom those of them that may be chosen or rejected,
    safe those of the top that nothing vetoes.
    """
    is_kept = pl.col("reason").is_null()
    marked = mark_eligible(replies.drop_nulls("score"), config, thresholds)
    levels = (
        marked.group_by("post_id", "score")
        .agg(
            community=pl.col("community").first(),
            post_reason=pl.col("post_reason").first(),
            num=pl.len().cast(pl.Int64),
            kept=is_kept.cast(pl.Int64).sum(),
            top=(is_kept & pl.col("may_choose")).cast(pl.Int64).sum(),
            safe=(is_kept & pl.col("may_choose") & pl.col("veto").is_null()).cast(pl.Int64).sum(),
            bottom=(is_kept & pl.col("may_reject")).cast(pl.Int64).sum(),
        )
        .sort("post_id", "score")
        .with_columns(bottom_up_to=pl.col("bottom").cum_sum().over("post_id"))
        .with_columns(
            below=pl.col("num").cum_sum().over("post_id") - pl.col("num"),
            kept_below=pl.col("kept").cum_sum().over("post_id") - pl.col("kept"),
            kept_above=pl.col("kept").sum().over("post_id") - pl.col("kept").cum_sum().over("post_id"),
            bottom_below=pl.col("bottom_up_to") - pl.col("bottom"),
            far_below=reach(config),
        )
    )
    return _with_bottom_far_below(levels)


def _with_bottom_far_below(levels: pl.DataFrame) -> pl.DataFrame:
    """`levels` with how many replies that may be rejected are within reach below each score."""
    # The rows are sorted by post and score; polars cannot verify that within groups and would warn.
    reached = levels.select("post_id", reached="score", bottom_far_below="bottom_up_to")
    joined = levels.join_asof(
        reached, left_on="far_below", right_on="reached", by="post_id", strategy="backward", check_sortedness=False
    )
    return joined.with_columns(pl.col("bottom_far_below").fill_null(0))


def _pairs(levels: pl.DataFrame, reason: pl.Expr, replies: str, others: str) -> pl.DataFrame:
    """The number of pairs of each of `replies` with each of its `others`: community, reason, num."""
    of_level = levels.select("community", reason=reason, num=pl.col(replies).cast(pl.Int64) * pl.col(others))
    return of_level.group_by("community", "reason").agg(pl.col("num").sum())


def _lost(levels: pl.DataFrame, reason: str, before: tuple[str, str], after: tuple[str, str]) -> pl.DataFrame:
    """How many pairs a rule dropped, from their numbers before and after it."""
    pairs_before, pairs_after = (pl.col(replies) * pl.col(others) for replies, others in (before, after))
    of_level = levels.select("community", reason=pl.lit(reason), num=pairs_before - pairs_after)
    return of_level.group_by("community", "reason").agg(pl.col("num").sum())
