"""Differences between arms, paired by post: bootstrap intervals, effect sizes, and p-values that allow for their number.

The post is the unit: every arm answers the same posts, so a difference is taken within a post, and a resample draws
whole posts with all their replies (a cluster bootstrap).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_CHUNK_VALUES = 2**16
"""Random draws held at once: they stay in the processor's cache, and memory does not grow with the number of posts."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of one arm over the `n` paired posts, and its difference to the reference arm.

    `low` and `high` bound the bootstrap interval of the mean difference, `effect_size` is Cohen's d_z, `p_value` is
    two-sided. All five are NaN for the reference itself, and all but the difference below two posts.
    """

    arm: str
    n: int
    mean: float
    sd: float
    difference: float
    low: float
    high: float
    effect_size: float
    p_value: float


def compare_arms(
    values: Mapping[str, FloatArray], reference: str, *, num_bootstrap: int, confidence: float, seed: int
) -> list[Comparison]:
    """Each arm of `values` beside the arm `reference`, in the order of `values`.

    The arrays are aligned: entry i is post i, NaN where the arm has no value. Only posts with a value in every arm count.
    """
    arms = list(values)
    paired = np.column_stack([values[arm] for arm in arms])[paired_posts(values)]
    differences = paired - paired[:, [arms.index(reference)]]
    compared = np.column_stack(
        [
            _means(differences),
            bootstrap_intervals(differences, num_bootstrap, confidence, seed),
            effect_sizes(differences),
            sign_flip_p_values(differences, num_bootstrap, seed),
        ]
    )
    compared[arms.index(reference)] = np.nan
    rows = np.column_stack([_means(paired), _sds(paired), compared])
    return [Comparison(arm, len(paired), *map(float, row)) for arm, row in zip(arms, rows, strict=True)]


def paired_posts(values: Mapping[str, FloatArray]) -> npt.NDArray[np.bool_]:
    """Which posts have a value in every arm."""
    return np.asarray(np.isfinite(np.column_stack(list(values.values()))).all(axis=1))


def bootstrap_intervals(differences: FloatArray, num_bootstrap: int, confidence: float, seed: int) -> FloatArray:
    """Expanded percentile intervals of the mean differences, shape (arms, 2); NaN below two posts.

    `differences` has shape (posts, arms); all arms share each resample of posts (Efron and Tibshirani 1993, chapter 13).
    """
    num_posts, num_arms = differences.shape
    if num_posts < 2:
        return np.full((num_arms, 2), np.nan)
    means = resampled_sums(differences, num_bootstrap, seed) / num_posts
    return percentile_intervals(means, confidence, num_posts)


def resampled_sums(contributions: FloatArray, num_bootstrap: int, seed: int) -> FloatArray:
    """What the units of each bootstrap resample add up to, shape (resamples, columns).

    `contributions` has shape (units, columns): any figure that depends on the units through sums can be resampled so.
    """
    num_units = len(contributions)
    generator = np.random.default_rng([seed, 0])
    sums = []
    for size in _chunks(num_bootstrap, num_units):
        drawn = generator.integers(0, num_units, size=(size, num_units))
        # How often each unit was drawn, in every resample: all columns then share one matrix product.
        cells = (drawn + np.arange(size)[:, None] * num_units).ravel()
        num_drawn = np.bincount(cells, minlength=size * num_units).reshape(size, num_units)
        sums.append(num_drawn @ contributions)
    return np.concatenate(sums)


def percentile_intervals(resampled: FloatArray, confidence: float, num_units: int) -> FloatArray:
    """The middle of each column of `resampled`, shape (columns, 2), that holds `confidence`; NaN entries take no part.

    With few units, whole resamples spread too little: the tails are those that make the interval of a mean as wide as
    Student's t would, Phi(-t sqrt(n / (n - 1))) each (the expanded percentile interval, Hesterberg 2015, What Teachers
    Should Know About the Bootstrap, The American Statistician 69, section 4).
    """
    from scipy.special import ndtr, stdtrit  # whoever only reads configs need not wait for it

    tail = ndtr(stdtrit(num_units - 1, (1 - confidence) / 2) * np.sqrt(num_units / (num_units - 1)))
    return np.asarray(np.nanquantile(resampled, [tail, 1 - tail], axis=0).T)


def sign_flip_p_values(differences: FloatArray, num_flips: int, seed: int) -> FloatArray:
    """Two-sided p of each mean difference if either arm could have stood in the other's place, shape (arms,).

    A permutation test: within each post the sign of the difference is drawn anew. (1 + hits) / (1 + draws), so that p is
    never 0 (Phipson and Smyth 2010, Permutation p-values should never be zero). NaN below two posts.
    """
    num_posts, num_arms = differences.shape
    if num_posts < 2:
        return np.full(num_arms, np.nan)
    generator = np.random.default_rng([seed, 1])
    # Sums that are equal on paper differ in the last bits with the order of their terms.
    observed = np.abs(differences.sum(axis=0)) * (1 - 1e-9)
    num_hits = np.zeros(num_arms)
    for size in _chunks(num_flips, num_posts):
        signs = generator.integers(0, 2, size=(size, num_posts)) * 2.0 - 1
        num_hits += (np.abs(signs @ differences) >= observed).sum(axis=0)
    return np.asarray((1 + num_hits) / (1 + num_flips))


def effect_sizes(differences: FloatArray) -> FloatArray:
    """Cohen's d_z of each arm: mean over standard deviation of its differences (Lakens 2013, eq. 7), shape (arms,).

    NaN below two posts, or where an arm's differences are all the same.
    """
    return np.asarray(_means(differences) / spreads(differences))


def spreads(differences: FloatArray) -> FloatArray:
    """Sample standard deviations of the columns; NaN below two rows, or where a column's entries are all the same."""
    sds = _sds(differences)
    # Equal differences leave a spread of rounding errors, which would pass for a huge effect, or for certainty.
    return np.where(sds > 1e-12 * np.abs(differences).max(axis=0, initial=0), sds, np.nan)


def holm(p_values: FloatArray) -> FloatArray:
    """p-values that hold the family-wise error over all of them (Holm 1979); NaN entries stay out of the family."""
    adjusted = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1)
    return adjusted


def _chunks(total: int, num_posts: int) -> Iterator[int]:
    """Sizes that sum to `total`, each small enough for `_CHUNK_VALUES`."""
    size = max(1, _CHUNK_VALUES // num_posts)
    for start in range(0, total, size):
        yield min(size, total - start)


def _means(matrix: FloatArray) -> FloatArray:
    """Means of the columns; NaN without rows."""
    return np.asarray(matrix.mean(axis=0)) if len(matrix) else np.full(matrix.shape[1], np.nan)


def _sds(matrix: FloatArray) -> FloatArray:
    """Sample standard deviations of the columns; NaN below two rows."""
    return np.asarray(matrix.std(axis=0, ddof=1)) if len(matrix) > 1 else np.full(matrix.shape[1], np.nan)
