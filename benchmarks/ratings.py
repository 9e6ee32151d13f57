"""Agreement and Bradley-Terry with bootstrap intervals over many ratings, beside the libraries that one would call.

    python benchmarks/ratings.py [--ratings 50000] [--resamples 500] [--json]

By hand: `krippendorff.alpha` and `choix.ilsr_pairwise_dense`, once for the figure and once for each resample of whole items,
each item's counts made beforehand. Ours: `alphas` and `bradley_terry`, as a study calls them. Both sides start from the same
records and draw as many resamples, in one process, on one thread; no choice is a tie, which choix does not know. Their
figures must agree.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import choix
import krippendorff
import numpy as np
from threadpoolctl import threadpool_limits

from llumi.evaluate.agreement import alphas
from llumi.evaluate.bradley_terry import BradleyTerry, bradley_terry
from llumi.evaluate.ratings import HIGHEST, Choice, Estimate, Resampling, ScaleRating
from llumi.evaluate.statistics import FloatArray

RATERS_PER_ITEM = 5
STRENGTHS = {"gm-base": -0.5, "gm-dpo1": 0.4, "gm-dpo2": 0.6, "human-reply": 0.0}
ARMS = list(STRENGTHS)
REFERENCE = ARMS.index("human-reply")


def made_up_scores(num_ratings: int) -> list[ScaleRating]:
    """Five scores for each text, around what it deserves."""
    generator = np.random.default_rng(17)
    deserved = generator.normal(3, 1, size=(num_ratings // RATERS_PER_ITEM, 1))
    scores = np.clip(np.round(deserved + generator.normal(0, 0.8, size=(len(deserved), RATERS_PER_ITEM))), 1, HIGHEST)
    return [
        ScaleRating(f"r{rater}", f"i{item}", "gm-dpo2", "empathy", int(score))
        for (item, rater), score in np.ndenumerate(scores)
    ]


def made_up_choices(num_ratings: int) -> list[Choice]:
    """Five choices for each item, between two arms of four."""
    generator = np.random.default_rng(18)
    choices = []
    for item in range(num_ratings // RATERS_PER_ITEM):
        left, right = (str(arm) for arm in generator.choice(ARMS, size=2, replace=False))
        left_wins = generator.random(RATERS_PER_ITEM) < 1 / (1 + np.exp(STRENGTHS[right] - STRENGTHS[left]))
        choices += [
            Choice(f"r{rater}", f"i{item}", left, right, "left" if won else "right") for rater, won in enumerate(left_wins)
        ]
    return choices


def by_the_libraries(
    counts: FloatArray, figures_of: Callable[[FloatArray], Any], num_resamples: int
) -> tuple[FloatArray, FloatArray]:
    """The figures over all items, and their intervals over resamples; `counts` has one entry for each item."""
    generator = np.random.default_rng(17)
    drawn = [figures_of(counts[generator.integers(0, len(counts), len(counts))]) for _ in range(num_resamples)]
    return np.atleast_1d(figures_of(counts)), np.quantile(drawn, [0.025, 0.975], axis=0)


def alpha_by_hand(ratings: Sequence[ScaleRating], num_resamples: int) -> tuple[FloatArray, FloatArray]:
    """`krippendorff.alpha` over the number of raters who gave each text each score."""
    items = {item: row for row, item in enumerate(dict.fromkeys(rating.item for rating in ratings))}
    counts = np.zeros((len(items), HIGHEST), dtype=int)
    for rating in ratings:
        counts[items[rating.item], rating.score - 1] += 1
    return by_the_libraries(
        counts, lambda drawn: krippendorff.alpha(value_counts=drawn, level_of_measurement="ordinal"), num_resamples
    )


def strengths_by_hand(choices: Sequence[Choice], num_resamples: int) -> tuple[FloatArray, FloatArray]:
    """`choix.ilsr_pairwise_dense` over the wins of each arm over each other, summed over the items that were drawn."""
    items = {item: row for row, item in enumerate(dict.fromkeys(choice.item for choice in choices))}
    wins = np.zeros((len(items), len(ARMS), len(ARMS)))
    for choice in choices:
        won, lost = (choice.left, choice.right) if choice.verdict == "left" else (choice.right, choice.left)
        wins[items[choice.item], ARMS.index(won), ARMS.index(lost)] += 1

    def log_odds(drawn: FloatArray) -> FloatArray:
        strengths = choix.ilsr_pairwise_dense(drawn.sum(axis=0))
        return np.delete(strengths - strengths[REFERENCE], REFERENCE)

    return by_the_libraries(wins, log_odds, num_resamples)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long `work` takes, and what it gives."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def check(ours: Sequence[Estimate], theirs: tuple[FloatArray, FloatArray]) -> None:
    """The same figures; intervals the same but for the draw."""
    np.testing.assert_allclose([estimate.value for estimate in ours], theirs[0], atol=1e-4)
    np.testing.assert_allclose([(estimate.low, estimate.high) for estimate in ours], theirs[1].reshape(2, -1).T, atol=0.05)


def run(num_ratings: int, num_resamples: int) -> dict[str, float]:
    """All figures of one run."""
    resampling = Resampling(num_bootstrap=num_resamples)
    scores, choices = made_up_scores(num_ratings), made_up_choices(num_ratings)
    library_alpha_seconds, library_alpha = seconds(lambda: alpha_by_hand(scores, num_resamples))
    alpha_seconds, by_dimension = seconds(lambda: alphas(scores, resampling))
    check([by_dimension["empathy"]], library_alpha)
    library_fit_seconds, library_strengths = seconds(lambda: strengths_by_hand(choices, num_resamples))
    fit_seconds, model = seconds(lambda: bradley_terry(choices, "human-reply", resampling))
    assert isinstance(model, BradleyTerry)
    check([model.log_odds[arm] for arm in ARMS if arm != "human-reply"], library_strengths)
    return {
        "ratings": len(scores),
        "choices": len(choices),
        "krippendorff_seconds": library_alpha_seconds,
        "alphas_seconds": alpha_seconds,
        "alphas_over_krippendorff": library_alpha_seconds / alpha_seconds,
        "choix_seconds": library_fit_seconds,
        "bradley_terry_seconds": fit_seconds,
        "bradley_terry_over_choix": library_fit_seconds / fit_seconds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=int, default=50_000)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with threadpool_limits(1):
        figures = {name: round(figure, 2) for name, figure in run(options.ratings, options.resamples).items()}
    if options.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name.replace('_', ' '):45} {figure:>12,.2f}")


if __name__ == "__main__":
    main()
