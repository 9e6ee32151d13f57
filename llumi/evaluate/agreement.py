"""How far raters agree with each other on a scale: Krippendorff's alpha and the intraclass correlation, by dimension.

What is rated is a text: one arm's reply to one item. Repeats take no part; `llumi.evaluate.consistency` reads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llumi.evaluate.ratings import HIGHEST, LOWEST, Estimate, Resampling, ScaleRating, Unknown, by_dimension, score_table
from llumi.evaluate.statistics import FloatArray, percentile_intervals, resampled_sums

Scores = Mapping[tuple[str, str], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Intraclass:
    """The reliability of one rater's score, ICC(2,1), and of the mean over these raters, ICC(2,k); n counts texts."""

    one_rater: Estimate
    mean_of_raters: Estimate
    num_raters: int


def alphas(ratings: Sequence[ScaleRating], resampling: Resampling) -> dict[str, Estimate | Unknown]:
    """Krippendorff's ordinal alpha of each dimension; n counts the texts that two raters or more have scored."""
    return {dimension: _alpha(score_table(rated), resampling) for dimension, rated in by_dimension(ratings).items()}


def intraclass_correlations(ratings: Sequence[ScaleRating], confidence: float) -> dict[str, Intraclass | Unknown]:
    """ICC(2,1) and ICC(2,k) of each dimension, over the texts that every one of its raters has scored."""
    return {dimension: _intraclass(score_table(rated), confidence) for dimension, rated in by_dimension(ratings).items()}


def _alpha(scores: Scores, resampling: Resampling) -> Estimate | Unknown:
    if alone := _one_rater(scores):
        return alone
    counts = np.zeros((len(scores), HIGHEST - LOWEST + 1))
    for row, of_text in enumerate(scores.values()):
        for score in of_text.values():
            counts[row, score - LOWEST] += 1
    return ordinal_alpha(counts, resampling)


def ordinal_alpha(counts: FloatArray, resampling: Resampling) -> Estimate | Unknown:
    """Krippendorff's alpha for ordinal values, 1 - observed / expected disagreement; raters may have missed texts.

    `counts[u, v]` says how many raters gave text u the v-th of the ordered values; texts with one score are left out
    (Krippendorff 2011, Computing Krippendorff's alpha-reliability). The interval is the
    percentile bootstrap over whole texts (Zapf et al. 2016, BMC Medical Research Methodology 16:93).
    """
    paired = counts[counts.sum(axis=1) > 1]
    if len(paired) < 2:
        return Unknown("fewer than two texts have scores by two raters")
    num_values = paired.shape[1]
    pairs = paired[:, :, None] * paired[:, None, :] - paired[:, :, None] * np.eye(num_values)
    coincidences = pairs / (paired.sum(axis=1) - 1)[:, None, None]
    value = _alpha_of(coincidences.sum(axis=0)[None])[0]
    if np.isnan(value):
        return Unknown("every score is the same, so that agreement cannot be told from habit")
    flat = coincidences.reshape(len(paired), -1)
    sums = resampled_sums(flat, resampling.num_bootstrap, resampling.seed).reshape(-1, num_values, num_values)
    low, high = percentile_intervals(_alpha_of(sums)[:, None], resampling.confidence, len(paired))[0]
    return Estimate(float(value), float(low), float(high), len(paired))


def _alpha_of(coincidences: FloatArray) -> FloatArray:
    """Alpha of each matrix of coincidences, shape (matrices, values, values); NaN where only one value was given."""
    totals = coincidences.sum(axis=2)
    # The ordinal distance of two values: how many scores lie between their middles, squared.
    middles = totals.cumsum(axis=1) - totals / 2
    distances = (middles[:, :, None] - middles[:, None, :]) ** 2
    observed = (coincidences * distances).sum(axis=(1, 2))
    expected = (totals[:, :, None] * totals[:, None, :] * distances).sum(axis=(1, 2))
    varied = expected > 0
    return np.where(varied, 1 - (totals.sum(axis=1) - 1) * observed / np.where(varied, expected, 1), np.nan)


def _intraclass(scores: Scores, confidence: float) -> Intraclass | Unknown:
    if alone := _one_rater(scores):
        return alone
    raters = sorted({rater for of_text in scores.values() for rater in of_text})
    complete = [[of_text[rater] for rater in raters] for of_text in scores.values() if len(of_text) == len(raters)]
    if len(complete) < 2:
        return Unknown(f"fewer than two texts have scores by all {len(raters)} raters; alpha allows for missing scores")
    return intraclass(np.array(complete, dtype=np.float64), confidence)


def intraclass(matrix: FloatArray, confidence: float) -> Intraclass | Unknown:
    """ICC(2,1) and ICC(2,k) of `matrix`, shape (texts, raters), both above 1: raters are a sample, and their levels count.

    From the mean squares of the two-way analysis of variance (Shrout and Fleiss 1979, Psychological Bulletin 86(2); the same
    as ICC(A,1) and ICC(A,k) of McGraw and Wong 1996, Psychological Methods 1(1)), with the F intervals of both papers; that
    of the mean is the other one stepped up by Spearman and Brown.
    """
    from scipy.special import fdtri

    n, k = matrix.shape
    by_text, by_rater = matrix.mean(axis=1), matrix.mean(axis=0)
    residuals = matrix - by_text[:, None] - by_rater + matrix.mean()
    texts = k * by_text.var(ddof=1)
    raters = n * by_rater.var(ddof=1)
    error = (residuals**2).sum() / ((n - 1) * (k - 1))
    total = texts + (k - 1) * error + k * (raters - error) / n
    if np.isclose(total, 0):
        return Unknown("every score is the same, so that agreement cannot be told from habit")
    single = (texts - error) / total
    of_raters, of_error = k * single * raters, (n * (1 + (k - 1) * single) - k * single) * error
    spread = of_raters**2 / (k - 1) + of_error**2 / ((n - 1) * (k - 1))
    # Raters who agree everywhere leave no error; any degrees of freedom then give the point itself.
    degrees = (of_raters + of_error) ** 2 / spread if spread > 0 else 1.0
    upper, lower = fdtri([n - 1, degrees], [degrees, n - 1], (1 + confidence) / 2)
    others = k * raters + (k * n - k - n) * error
    low = n * (texts - upper * error) / (upper * others + n * texts)
    high = n * (lower * texts - error) / (others + n * lower * texts)
    one = Estimate(float(single), float(low), float(high), n)
    return Intraclass(one, Estimate(_of_mean(one.value, k), _of_mean(one.low, k), _of_mean(one.high, k), n), k)


def _of_mean(single: float, k: int) -> float:
    """Spearman and Brown: the reliability of a mean of `k`; minus infinity where raters disagree more than by chance alone."""
    scale = 1 + (k - 1) * single
    return k * single / scale if scale > 0 else -np.inf


def _one_rater(scores: Scores) -> Unknown | None:
    raters = {rater for of_text in scores.values() for rater in of_text}
    return Unknown("one rater alone: agreement needs two") if len(raters) < 2 else None
