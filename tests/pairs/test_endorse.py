import itertools

import polars as pl
import pytest

from llumi.config import PairsConfig
from llumi.pairs.endorse import mark_eligible, min_gap, score_histogram, score_thresholds, select_pairs
from tests.pairs.threads import NO_THRESHOLDS, margin, paper, random_replies, replies, thresholds_of


def scores_of(pairs: pl.DataFrame) -> list[tuple[int, int]]:
    return list(pairs.select("score", "score_rejected").iter_rows())


def test_margin_takes_the_widest_gaps_first() -> None:
    kept = mark_eligible(replies({"p": [6, 1, 9, 3]}), margin(2, max_pairs_per_post=3), NO_THRESHOLDS)
    assert scores_of(select_pairs(kept, margin(2, max_pairs_per_post=3))) == [(9, 1), (9, 3), (6, 1)]


def test_margin_keeps_apart_what_is_too_close_and_what_is_of_another_post() -> None:
    kept = mark_eligible(replies({"p": [5, 4], "q": [5], "r": [5, 5, 5]}), margin(2), NO_THRESHOLDS)
    assert select_pairs(kept, margin(2)).height == 0


def test_the_pair_carries_both_replies() -> None:
    (pair,) = select_pairs(mark_eligible(replies({"p": [1, 8]}), margin(2), NO_THRESHOLDS), margin(2)).to_dicts()
    assert pair == {
        "post_id": "p",
        "id": "p-001",
        "score": 8,
        "body": "p 1",
        "id_rejected": "p-000",
        "score_rejected": 1,
        "body_rejected": "p 0",
    }


def test_thresholds_are_the_scores_at_the_configured_ranks() -> None:
    frame = replies({"p": list(range(1, 101))})
    (row,) = score_thresholds(score_histogram(frame), paper(0.02, 0.15, 15)).to_dicts()
    assert row == {"community": "porch", "chosen_at_least": 99, "rejected_at_most": 15}


def test_equal_scores_are_alike_and_every_community_has_its_own_thresholds() -> None:
    frame = pl.concat([replies({"p": [1] * 90 + [7] * 10}), replies({"q": [3, 30]}, community="other")])
    rows = score_thresholds(score_histogram(frame), paper(0.02, 0.15, 15)).sort("community").rows()
    assert rows == [("other", 30, 3), ("porch", 7, 1)]


def test_histograms_of_parts_add_up() -> None:
    frame = random_replies(1).drop_nulls("score")
    whole = score_thresholds(score_histogram(frame), paper(0.1, 0.3, 5)).sort("community")
    parts = pl.concat([score_histogram(frame[:50]), score_histogram(frame[50:])])
    assert score_thresholds(parts, paper(0.1, 0.3, 5)).sort("community").equals(whole)


def every_pair(kept: pl.DataFrame, config: PairsConfig) -> list[tuple[str, str, str, int]]:
    """All eligible pairs by brute force: post, chosen, rejected, gap."""
    rows = kept.to_dicts()
    return [
        (a["post_id"], a["id"], b["id"], a["score"] - b["score"])
        for a, b in itertools.permutations(rows, 2)
        if a["post_id"] == b["post_id"] and a["may_choose"] and b["may_reject"] and a["score"] - b["score"] >= min_gap(config)
    ]


@pytest.mark.parametrize("config", [margin(1, 3), margin(4, 1), paper(0.3, 0.4, 3, 5)], ids=["margin", "one", "paper"])
@pytest.mark.parametrize("seed", range(4))
def test_trimming_loses_none_of_the_widest_pairs(config: PairsConfig, seed: int) -> None:
    frame = random_replies(seed)
    kept = frame.filter(pl.col("reason").is_null(), pl.col("post_reason").is_null())
    kept = mark_eligible(kept, config, thresholds_of(frame, config))
    pairs = select_pairs(kept, config)
    eligible = every_pair(kept, config)
    assert {(p, c, r) for p, c, r in pairs.select("post_id", "id", "id_rejected").iter_rows()} <= {
        pair[:3] for pair in eligible
    }
    for post in {pair[0] for pair in eligible}:
        widest = sorted((pair[3] for pair in eligible if pair[0] == post), reverse=True)[: config.max_pairs_per_post]
        found = pairs.filter(pl.col("post_id") == post)
        assert (found["score"] - found["score_rejected"]).to_list() == widest
    assert pairs["post_id"].n_unique() == len({pair[0] for pair in eligible})


def test_the_order_of_the_rows_changes_nothing() -> None:
    frame = random_replies(5).drop_nulls("score")
    config = margin(1, 2)
    once = select_pairs(mark_eligible(frame, config, NO_THRESHOLDS), config)
    again = select_pairs(mark_eligible(frame.sample(fraction=1, shuffle=True, seed=1), config, NO_THRESHOLDS), config)
    assert once.equals(again)


def test_a_post_with_fifty_thousand_replies_is_no_burden() -> None:
    frame = mark_eligible(replies({"p": [number % 1000 for number in range(50_000)]}), margin(2), NO_THRESHOLDS)
    assert scores_of(select_pairs(frame, margin(2))) == [(999, 0)] * 4
