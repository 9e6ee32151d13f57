import numpy as np
import pytest
from scipy.stats import binomtest

from llumi.evaluate.proportion import sign_test, wilson
from llumi.evaluate.ratings import Estimate, Unknown


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 12), (1, 3), (7, 7), (173, 211), (25_000, 50_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_agrees_with_scipy(successes: int, n: int, confidence: float) -> None:
    share = wilson(successes, n, confidence)
    theirs = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert isinstance(share, Estimate)
    assert (share.value, share.n) == (successes / n, n)
    assert [share.low, share.high] == pytest.approx([theirs.low, theirs.high], abs=1e-12)
    assert 0 <= share.low <= share.value <= share.high <= 1


def test_wilson_covers_the_truth_where_the_plain_interval_does_not() -> None:
    successes = np.random.default_rng(5).binomial(12, 0.9, size=2000)
    bounds = {count: wilson(count, 12, 0.95) for count in range(13)}
    assert 0.93 <= np.mean([bounds[count].low <= 0.9 <= bounds[count].high for count in successes]) <= 0.98
    plain = 1.96 * np.sqrt(successes / 12 * (1 - successes / 12) / 12)
    assert np.mean(np.abs(successes / 12 - 0.9) <= plain) < 0.75


def test_nothing_counted() -> None:
    assert wilson(0, 0, 0.95) == Unknown("nothing was counted")
    assert sign_test(0, 0) == 1


@pytest.mark.parametrize(("successes", "n"), [(0, 9), (3, 9), (5, 10), (140, 250)])
def test_sign_test_agrees_with_scipy(successes: int, n: int) -> None:
    assert sign_test(successes, n) == pytest.approx(binomtest(successes, n).pvalue, rel=1e-9)
