from math import comb

import numpy as np
import pytest

from llumi.evaluate import statistics
from llumi.evaluate.statistics import (
    bootstrap_intervals,
    compare_arms,
    effect_sizes,
    holm,
    sign_flip_p_values,
)

SETTINGS = {"num_bootstrap": 2000, "confidence": 0.95, "seed": 17}
NAN = np.nan


def test_by_hand() -> None:
    values = {"human": np.array([1.0, 2, 3, 4]), "model": np.array([2.0, 4, 4, 8])}
    human, model = compare_arms(values, "human", **SETTINGS)
    assert (human.n, human.mean) == (4, 2.5)
    assert human.sd == pytest.approx(np.sqrt(5 / 3))
    assert np.isnan([human.difference, human.low, human.high, human.effect_size, human.p_value]).all()
    # Differences 1, 2, 1, 4: mean 2, variance (1 + 0 + 1 + 4) / 3 = 2.
    assert (model.n, model.mean, model.difference) == (4, 4.5, 2.0)
    assert model.effect_size == pytest.approx(2 / np.sqrt(2))
    assert 1 <= model.low < 2 < model.high <= 4
    # All signs equal in 2 of the 16 ways to draw them.
    assert model.p_value == pytest.approx(2 / 16, abs=0.025)


def test_only_posts_with_every_arm_are_paired() -> None:
    values = {"human": np.array([1.0, 2, 3, NAN]), "base": np.array([1.0, NAN, 5, 6]), "sft": np.array([4.0, 9, 6, 6])}
    comparisons = compare_arms(values, "human", **SETTINGS)
    assert [comparison.arm for comparison in comparisons] == ["human", "base", "sft"]
    assert [comparison.n for comparison in comparisons] == [2, 2, 2]
    assert [comparison.mean for comparison in comparisons] == [2, 3, 5]
    assert [comparison.difference for comparison in comparisons[1:]] == [1, 3]


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_posts_give_no_interval(n: int) -> None:
    human, model = compare_arms({"human": np.zeros(n), "model": np.ones(n)}, "human", **SETTINGS)
    assert human.n == model.n == n
    assert np.isnan([model.low, model.high, model.effect_size, model.p_value, model.sd]).all()
    assert model.difference == 1 if n else np.isnan(model.difference)


def test_equal_differences_have_no_effect_size_and_a_point_for_an_interval() -> None:
    values = {"human": np.array([0.1, 0.2, 0.3]), "same": np.array([0.1, 0.2, 0.3]), "more": np.array([0.4, 0.5, 0.6])}
    _, same, more = compare_arms(values, "human", **SETTINGS)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert np.isnan([same.effect_size, more.effect_size]).all()
    assert [more.low, more.high] == pytest.approx([0.3, 0.3])


def test_p_agrees_with_the_exact_sign_test() -> None:
    # With differences of +-1 the permutation test is the sign test: 9 or more equal signs of 12.
    differences = np.array([1.0] * 9 + [-1.0] * 3)[:, None]
    exact = 2 * sum(comb(12, k) for k in (9, 10, 11, 12)) / 2**12
    assert sign_flip_p_values(differences, 20_000, 17)[0] == pytest.approx(exact, abs=0.01)


def test_p_is_never_zero() -> None:
    assert sign_flip_p_values(np.ones((60, 1)), 999, 17)[0] == pytest.approx(1 / 1000)


def test_interval_agrees_with_scipy() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    differences = np.random.default_rng(3).gamma(2.0, size=(80, 1))
    ours = bootstrap_intervals(differences, 20_000, 0.9, 17)[0]
    theirs = scipy_stats.bootstrap(
        (differences[:, 0],), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", rng=5
    ).confidence_interval
    assert ours == pytest.approx([theirs.low, theirs.high], abs=0.02)


def test_coverage() -> None:
    """An interval of 90 % holds the true mean in about 90 of 100 draws: 400 studies of 40 posts in one call each."""
    studies = np.random.default_rng(11).normal(0.3, 1.0, size=(40, 400))
    low, high = bootstrap_intervals(studies, 1000, 0.9, 17).T
    covered = ((low <= 0.3) & (high >= 0.3)).mean()
    assert 0.85 <= covered <= 0.94
    few = np.random.default_rng(12).normal(0.3, 1.0, size=(8, 2000))
    low, high = bootstrap_intervals(few, 1000, 0.9, 17).T
    assert 0.88 <= ((low <= 0.3) & (high >= 0.3)).mean() <= 0.92  # the plain percentiles hold it in 83
    rejected = (sign_flip_p_values(studies - 0.3, 1000, 17) <= 0.1).mean()
    assert 0.06 <= rejected <= 0.14


def test_same_seed_same_figures_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(1).normal(size=(50, 3))
    whole = bootstrap_intervals(differences, 500, 0.95, 17), sign_flip_p_values(differences, 500, 17)
    monkeypatch.setattr(statistics, "_CHUNK_VALUES", 70 * 50)
    parts = bootstrap_intervals(differences, 500, 0.95, 17), sign_flip_p_values(differences, 500, 17)
    np.testing.assert_allclose(parts[0], whole[0])
    np.testing.assert_allclose(parts[1], whole[1])
    assert not np.array_equal(bootstrap_intervals(differences, 500, 0.95, 18), whole[0])


def test_effect_sizes_per_arm() -> None:
    assert effect_sizes(np.array([[1.0, -2.0], [3.0, -2.0]])) == pytest.approx([np.sqrt(2), NAN], nan_ok=True)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.04 times 3, 2, 1; 0.04 stays, the untested one takes no part.
    assert holm(np.array([0.04, NAN, 0.01, 0.02])) == pytest.approx([0.04, NAN, 0.03, 0.04], nan_ok=True)
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1.0, 1.0])
    # A smaller p never ends above a larger one: 0.03 * 2 = 0.06 carries over to 0.05 * 1.
    assert holm(np.array([0.03, 0.05])) == pytest.approx([0.06, 0.06])
    assert len(holm(np.array([]))) == 0
