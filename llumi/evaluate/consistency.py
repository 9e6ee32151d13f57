"""Whether a rater who is shown the same once more judges as before."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llumi.errors import RatingsError
from llumi.evaluate.agreement import ordinal_alpha
from llumi.evaluate.proportion import wilson
from llumi.evaluate.ratings import HIGHEST, LOWEST, Choice, Estimate, Resampling, ScaleRating, Unknown, by_dimension

NO_REPEATS = Unknown("no rater was shown anything twice")


@dataclass(frozen=True, slots=True)
class ScaleConsistency:
    """The share of repeats with the very same score, and alpha between first and second time, which allows for chance."""

    same: Estimate
    alpha: Estimate | Unknown


def scale_consistency(ratings: Sequence[ScaleRating], resampling: Resampling) -> dict[str, ScaleConsistency | Unknown]:
    """The consistency of raters with themselves in each dimension, over all raters; n counts repeats.

    A rater who gives the same score to everything is consistent; alpha is what tells (`ordinal_alpha`, its two raters being
    the two times). Raises RatingsError for a repeat of what the rater has not scored before.
    """
    return {dimension: _scale(rated, resampling) for dimension, rated in by_dimension(ratings).items()}


def choice_consistency(choices: Iterable[Choice], confidence: float) -> Estimate | Unknown:
    """The share of repeated choices with the same verdict (the same arm, or a tie again), whichever side the arms were on.

    Wilson's interval; n counts repeats. Raises RatingsError for a repeat of what the rater has not chosen before.
    """
    chosen = list(choices)
    keys = [(choice.rater, choice.item, *sorted((choice.left, choice.right))) for choice in chosen]
    pairs = list(_first_and_repeat([(key, choice.is_repeat, choice.winner) for key, choice in zip(keys, chosen, strict=True)]))
    return wilson(sum(first == again for first, again in pairs), len(pairs), confidence) if pairs else NO_REPEATS


def _scale(ratings: Sequence[ScaleRating], resampling: Resampling) -> ScaleConsistency | Unknown:
    judged = [((rating.rater, rating.item, rating.arm), rating.is_repeat, rating.score) for rating in ratings]
    pairs = list(_first_and_repeat(judged))
    same = wilson(sum(first == again for first, again in pairs), len(pairs), resampling.confidence)
    if isinstance(same, Unknown):
        return NO_REPEATS
    scores = np.array(pairs)[:, :, None] == np.arange(LOWEST, HIGHEST + 1)
    return ScaleConsistency(same, ordinal_alpha(scores.sum(axis=1).astype(np.float64), resampling))


def _first_and_repeat(judged: Sequence[tuple[tuple[str, ...], bool, object]]) -> Iterator[tuple[object, object]]:
    """The verdict of each repeat behind the first one of the same key, from (key, is_repeat, verdict) in any order."""
    first = {key: verdict for key, is_repeat, verdict in judged if not is_repeat}
    for key, is_repeat, verdict in judged:
        if not is_repeat:
            continue
        if key not in first:
            raise RatingsError(f"rater {key[0]}, item {key[1]}: marked is_repeat, and was not judged before")
        yield first[key], verdict
