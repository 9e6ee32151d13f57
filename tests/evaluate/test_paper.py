import pytest
from scipy.stats import binomtest

from llumi.evaluate.paper import preference_beside_paper, scores_beside_paper
from llumi.evaluate.ratings import Choice, Estimate, Resampling, ScaleRating, Unknown

RESAMPLING = Resampling(num_bootstrap=500)


def test_scores_stand_beside_the_paper_s() -> None:
    scores = [("r1", "i1", 4), ("r2", "i1", 5), ("r1", "i2", 3)]
    ratings = [ScaleRating(rater, item, "gm-dpo2", "empathy", score) for rater, item, score in scores]
    empathy, connection = scores_beside_paper(ratings, "gm-dpo2", "human-reply", RESAMPLING)
    assert (empathy.dimension, empathy.paper_model, empathy.paper_other) == ("empathy", 4.41, 4.34)
    assert (connection.dimension, connection.paper_model, connection.paper_other) == ("connection", 4.06, 3.97)
    # Items 4.5 and 3: an item with two raters counts no more than one with a single rater.
    assert empathy.model == Estimate(3.75, 3.0, 4.5, 2)
    assert empathy.other == Unknown("human-reply was scored for fewer than two items")
    assert isinstance(connection.model, Unknown)


def test_the_preference_stands_beside_the_paper_s() -> None:
    choices = [Choice("r1", f"i{item}", "human-draft", "im-dpo1", "right") for item in range(4)]
    beside = preference_beside_paper(choices, "im-dpo1", "human-draft", 0.95)
    interval = binomtest(173, 211).proportion_ci(0.95, method="wilson")
    assert isinstance(beside.paper, Estimate)
    assert (beside.paper.value, beside.paper.n) == (173 / 211, 211)
    assert [beside.paper.low, beside.paper.high] == pytest.approx([interval.low, interval.high])
    assert isinstance(beside.ours, Estimate)
    assert (beside.ours.value, beside.ours.n) == (1, 4)
    never = preference_beside_paper(choices, "im-sft", "human-draft", 0.95)
    assert never.ours == Unknown("im-sft and human-draft were never shown side by side")
