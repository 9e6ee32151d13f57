import numpy as np
import pytest
from scipy.stats import ttest_1samp

from llumi.config import EvaluateConfig
from llumi.errors import ConfigError
from llumi.evaluate.equivalence import check_margins, compare_within_margin, tost_p_values

NAN = np.nan


def test_by_hand() -> None:
    # Differences 1, 2, 1, 4: mean 2, sd sqrt(2), standard error sqrt(1/2). Towards the upper margin of 4 that is
    # t = -2 / sqrt(1/2) = -2.828 on 3 degrees of freedom, whose p is 0.0331; the lower margin is farther away.
    assert tost_p_values(np.array([[1.0], [2], [1], [4]]), 4)[0] == pytest.approx(0.0331, abs=1e-4)


@pytest.mark.parametrize("margin", [0.05, 0.3, 2.0])
def test_agrees_with_scipy_s_one_sided_tests(margin: float) -> None:
    differences = np.random.default_rng(3).normal(0.1, 1.0, size=(60, 4))
    below = ttest_1samp(differences, -margin, alternative="greater").pvalue
    above = ttest_1samp(differences, margin, alternative="less").pvalue
    assert tost_p_values(differences, margin) == pytest.approx(np.maximum(below, above), rel=1e-9)


def test_at_the_margin_it_errs_as_often_as_it_may() -> None:
    """A true difference that lies on the margin passes in 5 of 100 studies, and an arm without one nearly always."""
    studies = np.random.default_rng(11).normal(0, 1.0, size=(50, 4000))
    assert 0.04 <= (tost_p_values(studies + 0.5, 0.5) < 0.05).mean() <= 0.06
    assert (tost_p_values(studies, 0.5) < 0.05).mean() > 0.9


def test_few_or_equal_differences_give_none() -> None:
    assert np.isnan(tost_p_values(np.ones((1, 2)), 3)).all()
    assert tost_p_values(np.array([[0.1 + 0.2, 1.0], [0.3, 2.0]]), 3) == pytest.approx([NAN, 0.102], abs=1e-3, nan_ok=True)


def test_arms_are_paired_and_the_reference_has_no_p() -> None:
    values = {"human": np.array([1.0, 2, 3, NAN]), "model": np.array([2.0, 2, 4, 90])}
    human, model = compare_within_margin(values, "human", 3.0)
    assert (human.margin, model.margin) == (3, 3)
    assert np.isnan(human.p_equivalence)
    assert model.p_equivalence == pytest.approx(ttest_1samp([1.0, 0, 1], 3, alternative="less").pvalue)
    assert all(np.isnan([one.margin, one.p_equivalence]).all() for one in compare_within_margin(values, "human", None))


def test_a_margin_of_no_measure_is_refused() -> None:
    check_margins(EvaluateConfig(equivalence={"words": 5, "mattr": 0.02}))
    with pytest.raises(ConfigError, match=r"^evaluate\.equivalence\.empathy: no such measure; there are words, sentences, "):
        check_margins(EvaluateConfig(equivalence={"words": 5, "empathy": 1}))
