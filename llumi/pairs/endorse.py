"""Which reply is endorsed over which other reply to the same post.

A preset says which replies may be chosen, which may be rejected, and how far apart in score the two must be:

- `margin`: any reply over any other, `min_gap` apart;
- `paper` (arXiv 2605.30273): chosen from the top `chosen_top` of the scores of its community, rejected from the bottom
  `rejected_bottom`, `min_gap` apart.

Frames named `replies` hold one row for each top-level reply: post_id, id, community, score.
"""

import polars as pl

from llumi.config import PairsConfig

HISTOGRAM_SCHEMA = {"community": pl.String, "score": pl.Int64, "num_replies": pl.Int64}
THRESHOLDS_SCHEMA = {"community": pl.String, "chosen_at_least": pl.Int64, "rejected_at_most": pl.Int64}


def min_gap(config: PairsConfig) -> int:
    """How far above the rejected reply the chosen one must be, in the preset of `config`."""
    return config.paper.min_gap if config.preset == "paper" else config.margin.min_gap


def score_histogram(replies: pl.DataFrame) -> pl.DataFrame:
    """How many replies of a community have which score (HISTOGRAM_SCHEMA); histograms of parts add up."""
    return replies.group_by("community", "score").agg(num_replies=pl.len().cast(pl.Int64)).select(*HISTOGRAM_SCHEMA)


def score_thresholds(histogram: pl.DataFrame, config: PairsConfig) -> pl.DataFrame:
    """For each community the score of its n-th best and of its m-th worst reply (THRESHOLDS_SCHEMA).

    n and m are the configured shares of its replies, rounded up. Replies of equal score are alike, so all that share
    the threshold's score are in.
    """
    levels = histogram.group_by("community", "score").agg(pl.col("num_replies").sum()).sort("community", "score")
    total = pl.col("num_replies").sum().over("community")
    up_to = pl.col("num_replies").cum_sum().over("community")
    from_here = total - up_to + pl.col("num_replies")
    return (
        levels.with_columns(
            is_chosen=from_here >= _share(total, config.paper.chosen_top),
            is_rejected=up_to >= _share(total, config.paper.rejected_bottom),
        )
        .group_by("community", maintain_order=True)
        .agg(
            chosen_at_least=pl.col("score").filter("is_chosen").max(),
            rejected_at_most=pl.col("score").filter("is_rejected").min(),
        )
        .select(*THRESHOLDS_SCHEMA)
    )


def mark_eligible(replies: pl.DataFrame, config: PairsConfig, thresholds: pl.DataFrame) -> pl.DataFrame:
    """`replies` with the columns may_choose and may_reject; preset `margin` needs no thresholds."""
    if config.preset == "margin":
        return replies.with_columns(may_choose=pl.lit(True), may_reject=pl.lit(True))
    marked = replies.join(thresholds, on="community", how="left", maintain_order="left").with_columns(
        may_choose=(pl.col("score") >= pl.col("chosen_at_least")).fill_null(False),
        may_reject=(pl.col("score") <= pl.col("rejected_at_most")).fill_null(False),
    )
    return marked.drop("chosen_at_least", "rejected_at_most")


def select_pairs(replies: pl.DataFrame, config: PairsConfig) -> pl.DataFrame:
    """The widest `max_pairs_per_post` pairs of each post: post_id, id, score, body, and the rejected reply's with `_rejected`.

    Wants kept replies marked by `mark_eligible`. Ties follow the pseudonyms, which are as good as random and the same
    on every machine.

    A post with n replies has n^2 pairs, so it is trimmed first to its best K and its worst K replies. That loses
    nothing: were a reply below the best K part of one of the K widest pairs, each of the K better ones would form a
    pair at least as wide with the same rejected reply, and precede it. The same holds from below.
    """
    columns = ["post_id", "id", "score", "body"]
    limit = config.max_pairs_per_post
    best = ranked(replies.filter("may_choose").select(columns), best_first=True, limit=limit)
    worst = ranked(replies.filter("may_reject").select(columns), best_first=False, limit=limit)
    return (
        best.join(worst, on="post_id", suffix="_rejected")
        .with_columns(gap=pl.col("score") - pl.col("score_rejected"))
        .filter(pl.col("gap") >= min_gap(config))
        .sort("post_id", "gap", "rank", "rank_rejected", descending=[False, True, False, False])
        .group_by("post_id", maintain_order=True)
        .head(limit)
        .drop("gap", "rank", "rank_rejected")
    )


def ranked(replies: pl.DataFrame, *, best_first: bool, limit: int) -> pl.DataFrame:
    """The first `limit` replies of each post from either end of the scores, with their `rank` from 0."""
    return (
        replies.sort("post_id", "score", "id", descending=[False, best_first, False])
        .group_by("post_id", maintain_order=True)
        .head(limit)
        .with_columns(rank=pl.int_range(pl.len()).over("post_id"))
    )


def _share(total: pl.Expr, fraction: float) -> pl.Expr:
    """The share of `total`, rounded up; a product that only floating point lifts above a whole number stays there."""
    return (total * fraction - 1e-9).ceil().clip(lower_bound=1)
