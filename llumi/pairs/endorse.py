"""Which reply is endorsed over which other reply to the same post.

A preset is put together from small rules, each with its reason in the account:

- who may be chosen and who rejected (`mark_eligible`): thresholds of the community (`paper`), a least score (`shp`);
- how far below the chosen score a rejected one must be (`reach`): a gap (`margin`, `paper`), a ratio (`shp`);
- what else two replies must have in common (`pair_rules`): the order in which they were written, their lengths.

| preset | source |
|---|---|
| `margin` | any reply over any other, `min_gap` apart; the pair's weight is the log ratio of its scores |
| `paper` | arXiv 2605.30273: chosen from the top `chosen_top` of the scores of its community, rejected from the bottom |
| `shp` | Stanford Human Preferences (Ethayarajh et al. 2022, arXiv 2110.08420): both endorsed, twice the score, written later |

Frames named `replies` hold one row for each top-level reply: post_id, id, community, score, created_utc,
post_created_utc, length (characters), reason and veto (null where nothing speaks against it).
"""

import polars as pl

from llumi.config import PairsConfig

HISTOGRAM_SCHEMA = {"community": pl.String, "score": pl.Int64, "num_replies": pl.Int64}
THRESHOLDS_SCHEMA = {"community": pl.String, "chosen_at_least": pl.Int64, "rejected_at_most": pl.Int64}

_PAIRS_PER_POST = {"margin": 4, "paper": 4, "shp": 5}
_COMPARED = 32
"""Where two replies must have more in common than their scores, so many of a post's best and worst are compared."""

_RANKED = ["post_id", "id", "score", "created_utc", "post_created_utc", "length", "community"]

Rule = tuple[str, pl.Expr]
"""A reason to drop a pair, and the expression that holds for a pair that it keeps."""


def max_pairs_per_post(config: PairsConfig) -> int:
    """The configured number, or the preset's own."""
    return config.max_pairs_per_post or _PAIRS_PER_POST[config.preset]


def max_compared(config: PairsConfig) -> int:
    """How many of a post's best and of its worst replies are compared with each other."""
    limit = max_pairs_per_post(config)
    return max(limit, _COMPARED) if pair_rules(config) else limit


def reach(config: PairsConfig) -> pl.Expr:
    """The highest score over which a reply of `score` is endorsed."""
    match config.preset:
        case "margin":
            return pl.col("score") - config.margin.min_gap
        case "paper":
            return pl.col("score") - config.paper.min_gap
        case "shp":
            least = (pl.col("score") / config.shp.min_ratio).floor().cast(pl.Int64)
            return pl.min_horizontal(least, pl.col("score") - 1)


def out_of_reach(config: PairsConfig) -> str:
    """The reason for a pair whose scores are too near to each other."""
    return "ratio_too_small" if config.preset == "shp" else "gap_too_small"


def pair_rules(config: PairsConfig) -> list[Rule]:
    """What a pair must fulfil beside its scores: the order rule and the balance of lengths."""
    rules: list[Rule] = []
    chosen, rejected = pl.col("created_utc"), pl.col("created_utc_rejected")
    known = (chosen > 0) & (rejected > 0)
    match config.order or ("later" if config.preset == "shp" else "any"):
        case "later":
            rules.append(("not_later", known & (chosen > rejected)))
        case "earlier":
            rules.append(("not_earlier", known & (chosen < rejected)))
        case "matched":
            since_chosen, since_rejected = ((time - pl.col("post_created_utc")).clip(1) for time in (chosen, rejected))
            known &= pl.col("post_created_utc") > 0
            rules.append(("not_matched", known & _alike(since_chosen, since_rejected, config.matched_ratio)))
        case "any":
            pass
    if config.length_balance == "match":
        rules.append(("length_unmatched", _alike(pl.col("length"), pl.col("length_rejected"), config.length_ratio)))
    return rules


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
    """`replies` with the columns may_choose and may_reject: what the preset asks of each reply for itself."""
    match config.preset:
        case "margin":
            return replies.with_columns(may_choose=pl.lit(True), may_reject=pl.lit(True))
        case "shp":
            is_endorsed = pl.col("score") >= config.shp.min_score
            return replies.with_columns(may_choose=is_endorsed, may_reject=is_endorsed)
        case "paper":
            marked = replies.join(thresholds, on="community", how="left", maintain_order="left").with_columns(
                may_choose=(pl.col("score") >= pl.col("chosen_at_least")).fill_null(False),
                may_reject=(pl.col("score") <= pl.col("rejected_at_most")).fill_null(False),
            )
            return marked.drop("chosen_at_least", "rejected_at_most")


def select_pairs(replies: pl.DataFrame, config: PairsConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The widest pairs of each post, and what the pair rules dropped (community, reason, num).

    Wants kept replies marked by `mark_eligible`. A pair has the columns of its chosen reply, those of the rejected one
    with `_rejected`, and its `weight`. Ties follow the replies' hashed ids, which are as good as random and the same on
    every machine.

    A post with n replies has n^2 pairs, so it is trimmed first to its best K and its worst K replies, K being the
    number of pairs that it may give. That loses nothing: were a reply below the best K part of one of the K widest
    pairs, each of the K better ones would form a pair at least as wide with the same rejected reply, and precede it.
    With pair rules K is larger, and what lies beyond it falls under the cap.
    """
    limit, compared, rules = max_pairs_per_post(config), max_compared(config), pair_rules(config)
    best = ranked(replies.filter(pl.col("may_choose"), pl.col("veto").is_null()), best_first=True, limit=compared)
    worst = ranked(replies.filter("may_reject"), best_first=False, limit=compared).drop("community", "post_created_utc")
    pairs = best.join(worst, on="post_id", suffix="_rejected").filter(pl.col("score_rejected") <= reach(config))
    pairs = pairs.with_columns(reason=pl.coalesce(None, *(pl.when(~holds).then(pl.lit(reason)) for reason, holds in rules)))
    dropped = pairs.drop_nulls("reason").group_by("community", "reason").agg(num=pl.len().cast(pl.Int64))
    widest = (
        pairs.filter(pl.col("reason").is_null())
        .with_columns(gap=pl.col("score") - pl.col("score_rejected"), weight=weight(config))
        .sort("post_id", "gap", "rank", "rank_rejected", descending=[False, True, False, False])
        .group_by("post_id", maintain_order=True)
        .head(limit)
    )
    return widest.drop("gap", "rank", "rank_rejected", "reason"), dropped.select("community", "reason", "num")


def weight(config: PairsConfig) -> pl.Expr:
    """How much a pair counts: 1, or in preset `margin` log((1 + s_c) / (1 + s_r)) * n / (n + shrinkage).

    s_c and s_r are the scores, counted from 0 or from a negative s_r, n is their sum: few votes say little (a
    James-Stein-like shrinkage towards 0).
    """
    if config.preset != "margin":
        return pl.lit(1.0)
    base = pl.col("score_rejected").clip(upper_bound=0)
    chosen, rejected = pl.col("score") - base, pl.col("score_rejected") - base
    num_votes = chosen + rejected
    return ((1 + chosen) / (1 + rejected)).log() * num_votes / (num_votes + config.margin.shrinkage)


def ranked(replies: pl.DataFrame, *, best_first: bool, limit: int) -> pl.DataFrame:
    """The first `limit` replies of each post from either end of the scores, with their `rank` from 0."""
    return (
        replies.select(_RANKED)
        .sort("post_id", "score", "id", descending=[False, best_first, False])
        .with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int64).over("post_id"))
        .filter(pl.col("rank") < limit)
    )


def _alike(one: pl.Expr, other: pl.Expr, ratio: float) -> pl.Expr:
    """Whether two positive numbers are within a factor of each other."""
    return pl.max_horizontal(one, other) <= pl.min_horizontal(one, other) * ratio


def _share(total: pl.Expr, fraction: float) -> pl.Expr:
    """The share of `total`, rounded up; a product that only floating point lifts above a whole number stays there."""
    return (total * fraction - 1e-9).ceil().clip(lower_bound=1)
