from dataclasses import replace

import krippendorff
import pytest

from llumi.errors import RatingsError
from llumi.evaluate.consistency import ScaleConsistency, choice_consistency, scale_consistency
from llumi.evaluate.proportion import wilson
from llumi.evaluate.ratings import Choice, Estimate, Resampling, ScaleRating, Unknown

RESAMPLING = Resampling(num_bootstrap=500)
FIRST, AGAIN = (1, 2, 3, 4, 5, 3), (1, 3, 3, 4, 4, 3)


def scored(scores: tuple[int, ...], is_repeat: bool) -> list[ScaleRating]:
    return [ScaleRating("r1", f"i{item}", "gm", "empathy", score, is_repeat) for item, score in enumerate(scores)]


def test_scores_by_hand_and_by_the_library() -> None:
    never_repeated = ScaleRating("r2", "i0", "gm", "empathy", 5)
    # The repeats may come first: what tells them is their mark.
    ratings = [*scored(AGAIN, is_repeat=True), *scored(FIRST, is_repeat=False), never_repeated]
    consistency = scale_consistency(ratings, RESAMPLING)["empathy"]
    assert isinstance(consistency, ScaleConsistency)
    assert consistency.same == wilson(4, 6, 0.95)
    assert isinstance(consistency.alpha, Estimate)
    assert consistency.alpha.value == pytest.approx(krippendorff.alpha([FIRST, AGAIN], level_of_measurement="ordinal"))


def test_the_same_score_for_everything_is_consistent_and_tells_nothing() -> None:
    ratings = [*scored((4, 4, 4), is_repeat=False), *scored((4, 4, 4), is_repeat=True)]
    consistency = scale_consistency(ratings, RESAMPLING)["empathy"]
    assert isinstance(consistency, ScaleConsistency)
    assert consistency.same.value == 1
    assert isinstance(consistency.alpha, Unknown)


def test_choices_are_the_same_whichever_side() -> None:
    first = [Choice("r1", f"i{item}", "a", "b", verdict) for item, verdict in enumerate(("left", "left", "tie", "right"))]
    again = [
        Choice("r1", "i0", "b", "a", "right", is_repeat=True),  # a again
        Choice("r1", "i1", "b", "a", "left", is_repeat=True),  # b now
        Choice("r1", "i2", "a", "b", "tie", is_repeat=True),
    ]
    assert choice_consistency([*first, *again], 0.95) == wilson(2, 3, 0.95)


def test_without_repeats_there_is_a_reason_and_a_repeat_of_nothing_is_an_error() -> None:
    none = Unknown("no rater was shown anything twice")
    assert scale_consistency(scored(FIRST, is_repeat=False), RESAMPLING)["empathy"] == none
    choice = Choice("r1", "i0", "a", "b", "left")
    assert choice_consistency([choice], 0.95) == choice_consistency([], 0.95) == none
    with pytest.raises(RatingsError, match="rater r1, item i0: marked is_repeat, and was not judged before"):
        scale_consistency(scored(FIRST, is_repeat=True), RESAMPLING)
    with pytest.raises(RatingsError, match="not judged before"):
        choice_consistency([choice, replace(choice, rater="r2", is_repeat=True)], 0.95)
