from dataclasses import replace

import krippendorff
import numpy as np
import pytest

from llumi.errors import RatingsError
from llumi.evaluate.agreement import Intraclass, alphas, intraclass, intraclass_correlations, ordinal_alpha
from llumi.evaluate.ratings import Estimate, Resampling, ScaleRating, Unknown
from tests.evaluate.studies import simulated_scores

RESAMPLING = Resampling(num_bootstrap=1000)
NAN = np.nan

KRIPPENDORFF_2011 = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
"""Krippendorff 2011, Computing Krippendorff's alpha-reliability: four observers, twelve units."""

SHROUT_FLEISS_1979 = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7.0]])
"""Shrout and Fleiss 1979, table 2: six targets, four judges."""


def as_ratings(matrix: np.ndarray) -> list[ScaleRating]:
    return [
        ScaleRating(f"r{rater}", f"i{item:03}", "gm", "empathy", int(score))
        for (rater, item), score in np.ndenumerate(matrix)
        if np.isfinite(score)
    ]


def test_alpha_of_the_published_example() -> None:
    alpha = alphas(as_ratings(KRIPPENDORFF_2011), RESAMPLING)["empathy"]
    assert isinstance(alpha, Estimate)
    assert alpha.value == pytest.approx(0.815, abs=5e-4)
    assert alpha.low < alpha.value < alpha.high <= 1
    assert alpha.n == 11  # the twelfth was scored once


@pytest.mark.parametrize(("noise", "missing"), [(0.3, 0), (1.0, 0.3), (3.0, 0.6)])
def test_alpha_agrees_with_the_library(noise: float, missing: float) -> None:
    ratings = simulated_scores(np.random.default_rng(7), num_items=40, num_raters=5, noise=noise, missing=missing)
    texts = sorted({(rating.item, rating.arm) for rating in ratings})
    matrix = np.full((5, len(texts)), NAN)
    for rating in ratings:
        matrix[int(rating.rater[1:]), texts.index((rating.item, rating.arm))] = rating.score
    alpha = alphas(ratings, RESAMPLING)["empathy"]
    assert isinstance(alpha, Estimate)
    assert alpha.value == pytest.approx(krippendorff.alpha(matrix, level_of_measurement="ordinal"), abs=1e-12)


def test_alpha_s_interval_is_that_of_resampled_texts() -> None:
    """The library over texts drawn one by one gives the same bounds, but for the draw."""
    counts = np.random.default_rng(2).multinomial(4, [0.1, 0.2, 0.3, 0.2, 0.2], size=60).astype(float)
    counts[::2] = np.eye(5)[np.arange(30) % 5] * 4
    generator = np.random.default_rng(3)
    drawn = [
        krippendorff.alpha(value_counts=counts[generator.integers(0, 60, 60)], level_of_measurement="ordinal")
        for _ in range(1000)
    ]
    alpha = ordinal_alpha(counts, RESAMPLING)
    assert isinstance(alpha, Estimate)
    assert [alpha.low, alpha.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)


def test_icc_of_the_published_table() -> None:
    icc = intraclass(SHROUT_FLEISS_1979, 0.95)
    assert isinstance(icc, Intraclass)
    assert (round(icc.one_rater.value, 2), round(icc.mean_of_raters.value, 2)) == (0.29, 0.62)
    # The intervals, which the paper has not, are those of pingouin 0.7.0, ICC(A,1) and ICC(A,k).
    assert [icc.one_rater.low, icc.one_rater.high] == pytest.approx([0.02, 0.76], abs=0.005)
    assert [icc.mean_of_raters.low, icc.mean_of_raters.high] == pytest.approx([0.07, 0.93], abs=0.005)
    assert (icc.num_raters, icc.one_rater.n) == (4, 6)


def test_icc_of_scores_agrees_with_pingouin() -> None:
    matrix = np.array([[3, 4, 3], [4, 4, 3], [3, 4, 3], [1, 3, 2], [2, 3, 3], [3, 4, 3], [4, 2, 2], [5, 5, 4], [3, 3, 3]])
    matrix = np.vstack([matrix, [[3, 3, 2], [3, 3, 3], [4, 4, 3]]])
    icc = intraclass_correlations(as_ratings(matrix.T), 0.95)["empathy"]
    assert isinstance(icc, Intraclass)
    assert icc.one_rater.value == pytest.approx(0.451827, abs=1e-6)
    assert icc.mean_of_raters.value == pytest.approx(0.712042, abs=1e-6)
    assert [icc.mean_of_raters.low, icc.mean_of_raters.high] == pytest.approx([0.29, 0.91], abs=0.005)


def test_icc_covers_the_truth() -> None:
    """Texts of SD 1, raters of SD 0.5, noise of SD 1: ICC(2,1) is 1 / 2.25, that of three raters 3 / (3 + 1.25)."""
    generator = np.random.default_rng(4)
    covered = []
    for _ in range(200):
        scores = generator.normal(0, 1, (40, 1)) + generator.normal(0, 0.5, (1, 3)) + generator.normal(0, 1, (40, 3))
        icc = intraclass(scores, 0.95)
        assert isinstance(icc, Intraclass)
        covered.append(icc.mean_of_raters.low <= 3 / 4.25 <= icc.mean_of_raters.high)
        assert icc.one_rater.low <= icc.one_rater.value <= icc.one_rater.high
    assert 0.9 <= np.mean(covered) <= 0.99


def test_raters_who_agree_everywhere() -> None:
    same = np.repeat([[1.0], [3], [4]], 3, axis=1)
    icc = intraclass(same, 0.95)
    assert isinstance(icc, Intraclass)
    assert (icc.one_rater.low, icc.one_rater.value, icc.mean_of_raters.high) == (1, 1, 1)
    alpha = alphas(as_ratings(same.T), RESAMPLING)["empathy"]
    assert isinstance(alpha, Estimate)
    assert (alpha.low, alpha.value, alpha.high) == (1, 1, 1)


def test_what_cannot_be_told_says_why() -> None:
    alone = simulated_scores(np.random.default_rng(1), num_items=5, num_raters=1, noise=1)
    assert alphas(alone, RESAMPLING)["empathy"] == Unknown("one rater alone: agreement needs two")
    assert intraclass_correlations(alone, 0.95)["empathy"] == Unknown("one rater alone: agreement needs two")
    apart = [replace(rating, rater=f"r{rating.item}") for rating in alone]
    assert alphas(apart, RESAMPLING)["empathy"] == Unknown("fewer than two texts have scores by two raters")
    assert intraclass_correlations(apart, 0.95)["empathy"] == Unknown(
        "fewer than two texts have scores by all 5 raters; alpha allows for missing scores"
    )
    same = as_ratings(np.full((3, 4), 4))
    reason = "every score is the same, so that agreement cannot be told from habit"
    assert alphas(same, RESAMPLING)["empathy"] == intraclass_correlations(same, 0.95)["empathy"] == Unknown(reason)


def test_dimensions_are_apart_and_repeats_take_no_part() -> None:
    ratings = as_ratings(KRIPPENDORFF_2011)
    others = [replace(rating, dimension="safety", score=6 - rating.score) for rating in ratings[::2]]
    repeats = [replace(rating, score=1, is_repeat=True) for rating in ratings]
    both = alphas([*ratings, *others, *repeats], RESAMPLING)
    assert list(both) == ["empathy", "safety"]
    assert both["empathy"] == alphas(ratings, RESAMPLING)["empathy"]
    assert both["safety"] == alphas(others, RESAMPLING)["safety"]


def test_ratings_that_contradict_themselves() -> None:
    rating = ScaleRating("r1", "i1", "gm", "empathy", 4)
    with pytest.raises(RatingsError, match="rater r1, item i1, arm gm: two scores for empathy"):
        alphas([rating, rating], RESAMPLING)
    with pytest.raises(RatingsError, match="score 6; 1 to 5 is expected"):
        replace(rating, score=6)
