import numpy as np
import pytest

from llumi.evaluate.like_length import compare_at_like_length
from llumi.evaluate.statistics import compare_arms

SETTINGS = {"num_bootstrap": 1000, "confidence": 0.95, "seed": 17}
NAN = np.nan


def test_by_hand() -> None:
    words = {"human": np.array([8.0, 10, 10, 0, 10, 10]), "model": np.array([10.0, 8, 13, 0, 10, 10])}
    values = {"human": np.array([1.0, 1, 1, 1, 1, NAN]), "model": np.array([2.0, 4, 50, 60, 3, 70])}
    human, model = compare_at_like_length(values, words, "human", ratio=1.25, **SETTINGS)
    # Kept: 8 to 10 words either way and 10 to 10; not 10 to 13, no word at all, nor the post without both values.
    assert (model.matched_n, model.matched_difference) == (3, 2.0)
    assert 1 <= model.matched_low < 2 < model.matched_high <= 3
    assert human.matched_n is None
    assert np.isnan([human.matched_difference, human.matched_low, human.matched_high]).all()


def test_each_arm_keeps_its_own_posts() -> None:
    words = {"human": np.full(4, 20.0), "short": np.array([20.0, 5, 5, 5]), "long": np.array([50.0, 20, 20, 20])}
    values = {"human": np.zeros(4), "short": np.array([1.0, 7, 7, 7]), "long": np.array([9.0, 2, 2, 2])}
    _, short, long = compare_at_like_length(values, words, "human", ratio=1.25, **SETTINGS)
    assert (short.matched_n, short.matched_difference, long.matched_n, long.matched_difference) == (1, 1, 3, 2)
    assert np.isnan([short.matched_low, short.matched_high]).all()


def test_no_post_of_like_length() -> None:
    words = {"human": np.full(3, 20.0), "model": np.full(3, 90.0)}
    values = {"human": np.zeros(3), "model": np.ones(3)}
    _, model = compare_at_like_length(values, words, "human", ratio=1.25, **SETTINGS)
    assert model.matched_n == 0
    assert np.isnan([model.matched_difference, model.matched_low, model.matched_high]).all()


def test_what_length_alone_did_is_gone_and_what_it_did_not_stays() -> None:
    """One figure follows length alone, the other lies 0.5 above at every length; the model writes half as long again."""
    generator = np.random.default_rng(5)
    words = {"human": generator.integers(20, 100, 600).astype(float), "model": generator.integers(30, 150, 600).astype(float)}
    noise = {arm: generator.normal(0, 0.2, 600) for arm in words}
    follows = {arm: np.log(words[arm]) + noise[arm] for arm in words}
    raw = compare_arms(follows, "human", **SETTINGS)[1]
    matched = compare_at_like_length(follows, words, "human", ratio=1.1, **SETTINGS)[1]
    assert raw.low > 0.3
    assert matched.matched_low < 0 < matched.matched_high
    above = {arm: noise[arm] + 0.5 * (arm == "model") for arm in words}
    matched = compare_at_like_length(above, words, "human", ratio=1.1, **SETTINGS)[1]
    assert matched.matched_low < 0.5 < matched.matched_high
    assert matched.matched_high - matched.matched_low < 0.2
    assert matched.matched_n == pytest.approx(80, abs=40)
