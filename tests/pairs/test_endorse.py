import itertools
import math
from typing import Any

import polars as pl
import pytest

from llumi.config import MarginConfig, PairsConfig
from llumi.pairs.endorse import max_pairs_per_post, score_histogram, score_thresholds, select_pairs
from tests.pairs.threads import START, in_use, margin, marked, paper, random_replies, replies, shp

PRESETS = {
    "margin": margin(1, 3),
    "one": margin(4, 1),
    "paper": paper(0.3, 0.4, 3, 5),
    "shp": shp(order="any"),
}


def pairs_of(frame: pl.DataFrame, config: PairsConfig) -> pl.DataFrame:
    return select_pairs(marked(frame, config), config)[0]


def scores_of(frame: pl.DataFrame, config: PairsConfig) -> list[tuple[int, int]]:
    return list(pairs_of(frame, config).select("score", "score_rejected").iter_rows())


def dropped_of(frame: pl.DataFrame, config: PairsConfig) -> dict[str, int]:
    return dict(select_pairs(marked(frame, config), config)[1].select("reason", "num").iter_rows())


class TestMargin:
    def test_the_widest_gaps_come_first(self) -> None:
        assert scores_of(replies({"p": [6, 1, 9, 3]}), margin(2, 3)) == [(9, 1), (9, 3), (6, 1)]

    def test_what_is_too_close_or_of_another_post_stays_apart(self) -> None:
        assert scores_of(replies({"p": [5, 4], "q": [5], "r": [5, 5, 5]}), margin(2)) == []
        assert scores_of(replies({"p": [5, 3]}), margin(2)) == [(5, 3)]

    def test_a_pair_carries_both_replies(self) -> None:
        frame = replies({"p": [1, 8]})
        (pair,) = pairs_of(frame, margin(2)).to_dicts()
        assert {name: pair[name] for name in ("post_id", "community", "id", "id_rejected", "length", "length_rejected")} == {
            "post_id": "p",
            "community": "porch",
            "id": frame["id"][1],
            "id_rejected": frame["id"][0],
            "length": 101,
            "length_rejected": 100,
        }

    def test_a_vetoed_reply_is_rejected_at_most(self) -> None:
        frame = replies({"p": [1, 5, 9]}, veto=[None, None, "minimising"])
        assert scores_of(frame, margin(2)) == [(5, 1)]
        assert scores_of(frame.with_columns(veto=pl.Series(["minimising", None, None])), margin(2)) == [(9, 1), (9, 5), (5, 1)]


class TestWeight:
    def weights(self, scores: list[int], shrinkage: float = 5) -> dict[tuple[int, int], float]:
        config = PairsConfig(margin=MarginConfig(min_gap=1, shrinkage=shrinkage), max_pairs_per_post=50)
        found = pairs_of(replies({"p": scores}), config)
        return {(high, low): weight for high, low, weight in found.select("score", "score_rejected", "weight").iter_rows()}

    def test_it_is_the_shrunk_log_ratio_of_the_scores(self) -> None:
        weights = self.weights([0, 3, 20])
        assert weights[20, 3] == pytest.approx(math.log(21 / 4) * 23 / 28)
        assert weights[3, 0] == pytest.approx(math.log(4) * 3 / 8)

    def test_negative_scores_are_counted_from_the_rejected_one(self) -> None:
        weights = self.weights([-6, -2, 4])
        assert weights[4, -6] == pytest.approx(math.log(11) * 10 / 15)
        assert weights[-2, -6] == pytest.approx(math.log(5) * 4 / 9)
        assert weights[4, -2] == pytest.approx(math.log(7) * 6 / 11)
        assert all(weight > 0 for weight in weights.values())

    def test_more_votes_at_the_same_ratio_weigh_more_unless_nothing_is_shrunk(self) -> None:
        assert self.weights([1, 3])[3, 1] < self.weights([9, 19])[19, 9] < math.log(2)
        assert self.weights([1, 3], 0)[3, 1] == pytest.approx(self.weights([9, 19], 0)[19, 9]) == pytest.approx(math.log(2))

    def test_other_presets_weigh_all_pairs_alike(self) -> None:
        for config in (paper(0.5, 0.5, 1), shp(order="any")):
            assert set(pairs_of(replies({"p": [2, 4, 9]}), config)["weight"]) == {1.0}


class TestPaper:
    def test_thresholds_are_the_scores_at_the_configured_ranks(self) -> None:
        frame = replies({"p": list(range(1, 101))})
        (row,) = score_thresholds(score_histogram(frame), paper(0.02, 0.15, 15)).to_dicts()
        assert row == {"community": "porch", "chosen_at_least": 99, "rejected_at_most": 15}

    def test_equal_scores_are_alike_and_every_community_has_its_own_thresholds(self) -> None:
        frame = pl.concat([replies({"p": [1] * 90 + [7] * 10}), replies({"q": [3, 30]}, community="other")])
        rows = score_thresholds(score_histogram(frame), paper(0.02, 0.15, 15)).sort("community").rows()
        assert rows == [("other", 30, 3), ("porch", 7, 1)]

    def test_histograms_of_parts_add_up(self) -> None:
        frame = in_use(random_replies(1))
        whole = score_thresholds(score_histogram(frame), paper(0.1, 0.3, 5)).sort("community")
        parts = pl.concat([score_histogram(frame[:50]), score_histogram(frame[50:])])
        assert score_thresholds(parts, paper(0.1, 0.3, 5)).sort("community").equals(whole)

    def test_only_top_over_bottom_with_the_gap(self) -> None:
        frame = replies({"p": [0, 40, 41, 60], "q": [0, 59, 20], "r": [30] * 13})
        assert scores_of(frame, paper(0.1, 0.1, 15)) == [(60, 0), (59, 0)]
        assert scores_of(frame, paper(0.1, 0.1, 60)) == [(60, 0)]


class TestShp:
    def test_both_are_endorsed_and_one_twice_as_much(self) -> None:
        assert scores_of(replies({"p": [1, 2, 3, 4, 5]}), shp()) == [(5, 2), (4, 2)]

    def test_the_chosen_one_came_later(self) -> None:
        assert scores_of(replies({"p": [9, 2]}), shp()) == []
        assert dropped_of(replies({"p": [9, 2]}), shp()) == {"not_later": 1}
        assert scores_of(replies({"p": [9, 2]}), shp(order="any")) == [(9, 2)]

    def test_a_ratio_of_one_still_asks_for_another_score(self) -> None:
        assert scores_of(replies({"p": [3, 3, 4]}), shp(min_ratio=1)) == [(4, 3), (4, 3)]

    def test_it_gives_five_pairs_a_post_by_itself(self) -> None:
        assert [max_pairs_per_post(PairsConfig(preset=preset)) for preset in ("shp", "margin", "paper")] == [5, 4, 4]


class TestPairRules:
    def timed(self, chosen: int, rejected: int, order: str, post: int = START) -> dict[str, int]:
        frame = replies({"p": [9, 1]}, created_utc=[chosen, rejected], post_created_utc=[post, post])
        return dropped_of(frame, margin(2, order=order))

    def test_any_order_drops_nothing(self) -> None:
        assert self.timed(START + 9, START + 1, "any") == self.timed(0, START, "any") == {}

    def test_later(self) -> None:
        assert self.timed(START + 9, START + 1, "later") == {}
        assert self.timed(START + 1, START + 9, "later") == self.timed(START + 1, START + 1, "later") == {"not_later": 1}

    def test_earlier(self) -> None:
        assert self.timed(START + 1, START + 9, "earlier") == {}
        assert self.timed(START + 9, START + 1, "earlier") == {"not_earlier": 1}

    def test_matched_compares_the_time_that_both_had(self) -> None:
        assert self.timed(START + 100, START + 200, "matched") == self.timed(START + 200, START + 100, "matched") == {}
        assert self.timed(START + 100, START + 201, "matched") == {"not_matched": 1}
        assert self.timed(START - 50, START + 2, "matched") == {}  # a clock that runs behind

    @pytest.mark.parametrize("order", ["later", "earlier", "matched"])
    def test_unknown_times_have_no_order(self, order: str) -> None:
        assert self.timed(0, START + 1, order) == self.timed(START + 1, 0, order) == {f"not_{order}": 1}

    def test_without_the_time_of_the_post_nothing_is_matched(self) -> None:
        assert self.timed(START + 1, START + 2, "matched", post=0) == {"not_matched": 1}

    @pytest.mark.parametrize(("lengths", "is_kept"), [((30, 20), True), ((2, 3), True), ((31, 20), False), ((20, 31), False)])
    def test_lengths_match_within_their_ratio_and_at_its_border(self, lengths: tuple[int, int], is_kept: bool) -> None:
        frame = replies({"p": [9, 1]}, length=list(lengths))
        assert dropped_of(frame, margin(2, length_balance="match")) == ({} if is_kept else {"length_unmatched": 1})

    def test_other_forms_of_balance_drop_nothing(self) -> None:
        for balance in ("none", "weigh"):
            assert dropped_of(replies({"p": [9, 1]}, length=[900, 1]), margin(2, length_balance=balance)) == {}


def widest_by_force(frame: pl.DataFrame, config: PairsConfig) -> list[tuple[str, int, int]]:
    """All pairs that the scores allow, the widest of each post first (of equal gaps the best chosen, then the worst)."""
    far = {
        "margin": lambda high, low: high - low >= config.margin.min_gap,
        "paper": lambda high, low: high - low >= config.paper.min_gap,
        "shp": lambda high, low: high > low and high >= config.shp.min_ratio * low,
    }[config.preset]
    rows = marked(frame, config).to_dicts()
    found: dict[str, list[tuple[Any, ...]]] = {}
    for high, low in itertools.permutations(rows, 2):
        same_post = high["post_id"] == low["post_id"]
        may = high["may_choose"] and low["may_reject"] and not high["veto"]
        if same_post and may and far(high["score"], low["score"]):
            order = (low["score"] - high["score"], -high["score"], high["id"], low["score"], low["id"])
            found.setdefault(high["post_id"], []).append((order, high["id"], low["id"]))
    limit = max_pairs_per_post(config)
    return [(post, high, low) for post in sorted(found) for _, high, low in sorted(found[post])[:limit]]


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("seed", range(5))
def test_trimming_loses_none_of_the_widest_pairs(config: PairsConfig, seed: int) -> None:
    frame = in_use(random_replies(seed, num_posts=60))
    expected = widest_by_force(frame, config)
    assert list(pairs_of(frame, config).select("post_id", "id", "id_rejected").iter_rows()) == expected
    assert len(expected) > 10


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_the_order_of_the_rows_changes_nothing(config: PairsConfig) -> None:
    frame = in_use(random_replies(5))
    shuffled = frame.sample(fraction=1, shuffle=True, seed=1)
    assert pairs_of(shuffled, config).equals(pairs_of(frame, config))


def test_no_replies_no_pairs() -> None:
    for config in PRESETS.values():
        pairs, dropped = select_pairs(marked(replies({"p": [1]})[:0], config), config)
        assert pairs.height == dropped.height == 0
        assert {"community", "weight", "id_rejected", "length_rejected"} <= set(pairs.columns)


def test_a_post_with_fifty_thousand_replies_is_no_burden() -> None:
    frame = replies({"p": [number % 1000 for number in range(50_000)]})
    assert scores_of(frame, margin(2)) == [(999, 0)] * 4
    assert scores_of(frame, margin(2, order="later")) == [(999, 0)] * 4
