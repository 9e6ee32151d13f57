"""Shares of a count: their interval, and their test against one half."""

from math import sqrt
from statistics import NormalDist

from llumi.evaluate.ratings import Estimate, Unknown


def wilson(successes: int, n: int, confidence: float) -> Estimate | Unknown:
    """The share `successes / n` and its score interval (Wilson 1927, Journal of the American Statistical Association 22).

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). It stays within 0 and 1 and has a width at either end. It
    takes the n outcomes as independent.
    """
    if n == 0:
        return Unknown("nothing was counted")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = share + z**2 / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    # At 0 and at 1 the bound is the share itself, which rounding would miss by a hair.
    low = (centre - half) / scale if successes > 0 else 0.0
    high = (centre + half) / scale if successes < n else 1.0
    return Estimate(share, low, high, n)


def sign_test(successes: int, n: int) -> float:
    """Two-sided exact binomial p of `successes` of `n` where both outcomes are as likely; 1 where n is 0."""
    from scipy.special import bdtr

    return min(1.0, float(2 * bdtr(min(successes, n - successes), n, 0.5)))
