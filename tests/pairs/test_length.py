import random
from collections import Counter

import polars as pl
import pytest

from llumi.pairs.length import BIN_WIDTH, LENGTH_EDGES, add_figures, as_metrics, balance, count_bins, length_bin, length_figures


def pairs(seed: int = 17, num: int = 3000) -> pl.DataFrame:
    """Pairs whose chosen reply tends to be the longer one, and weighs more where it is."""
    chance = random.Random(seed)
    lengths = [(chance.randint(20, 600), chance.randint(20, 400)) for _ in range(num)]
    weights = [chance.random() * (2 if chosen > rejected else 1) for chosen, rejected in lengths]
    return pl.DataFrame({"weight": weights}).with_columns(
        length=pl.Series([chosen for chosen, _ in lengths]), length_rejected=pl.Series([rejected for _, rejected in lengths])
    )


def test_a_bin_is_signed_and_one_quarter_of_a_doubling_wide() -> None:
    frame = pl.DataFrame({"length": [100, 200, 100, 119, 1, 90_000], "length_rejected": [100, 100, 200, 100, 90_000, 1]})
    assert length_bin(frame).to_list() == [0, round(1 / BIN_WIDTH), -round(1 / BIN_WIDTH), 1, -16, 16]


@pytest.mark.parametrize("weight", [pl.lit(1.0), pl.col("weight")], ids=["alike", "weighted"])
def test_at_every_ratio_the_longer_reply_is_as_often_chosen(weight: pl.Expr) -> None:
    frame = pairs().with_columns(weight=weight)
    balanced = balance(frame, count_bins(frame)).with_columns(bin=length_bin(frame))
    weights = dict(balanced.group_by("bin").agg(pl.col("weight").sum()).iter_rows())
    assert len(weights) > 20
    before = dict(frame.with_columns(bin=length_bin(frame)).group_by("bin").agg(pl.col("weight").sum()).iter_rows())
    for number, sum_of_weights in weights.items():
        opposite = weights.get(-number, 0)
        assert sum_of_weights == pytest.approx(opposite, rel=1e-4, abs=1e-4)
        assert sum_of_weights == pytest.approx(min(before[number], before.get(-number, 0)), rel=1e-4, abs=1e-4)
    figures = [as_metrics(length_figures(some)) for some in (frame, balanced.filter(pl.col("bin") != 0))]
    assert figures[0]["weighted_share_longer_chosen"] > 0.6
    assert figures[1]["weighted_share_longer_chosen"] == pytest.approx(0.5, abs=1e-4)
    assert (balanced["weight"] <= frame["weight"]).all()


def test_bins_of_parts_add_up_in_any_order() -> None:
    frame = pairs()
    parts = [count_bins(frame[start : start + 100]) for start in range(0, frame.height, 100)]
    random.Random(1).shuffle(parts)
    assert sum(parts, Counter()) == count_bins(frame)
    assert balance(frame[:0], count_bins(frame)).height == 0


def test_figures_count_every_pair() -> None:
    frame = pairs()
    figures = length_figures(frame)
    assert sum(figures["chosen"]) == sum(figures["rejected"]) == frame.height
    num_equal = frame.filter(pl.col("length") == pl.col("length_rejected")).height
    assert figures["num_longer"] + figures["num_shorter"] + num_equal == frame.height
    assert len(figures["chosen"]) == len(LENGTH_EDGES)


def test_figures_of_parts_add_up() -> None:
    frame = pairs()
    together: dict[str, float] = {}
    for start in range(0, frame.height, 700):
        together = add_figures(together, length_figures(frame[start : start + 700]))
    assert as_metrics(together) == as_metrics(length_figures(frame))
    assert as_metrics(add_figures({}, length_figures(frame[:0])))["share_longer_chosen"] is None
    assert as_metrics({}) == {}


def test_the_last_class_of_lengths_is_open() -> None:
    frame = pl.DataFrame({"length": [3200, 40_000, 50], "length_rejected": [1, 49, 3199], "weight": [1.0, 1.0, 1.0]})
    figures = length_figures(frame)
    assert figures["chosen"] == [0, 1, 0, 0, 0, 0, 0, 2]
    assert figures["rejected"] == [2, 0, 0, 0, 0, 0, 1, 0]
