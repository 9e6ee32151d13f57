from dataclasses import replace

import numpy as np
import pytest

from llumi.errors import RatingsError
from llumi.evaluate.preference import PositionBias, position_bias, win_rates
from llumi.evaluate.proportion import wilson
from llumi.evaluate.ratings import Choice, Unknown
from tests.evaluate.studies import simulated_choices

CHOICES = [
    Choice("r1", "i1", "im", "draft", "left"),
    Choice("r1", "i2", "draft", "im", "right"),
    Choice("r2", "i1", "draft", "im", "left"),
    Choice("r2", "i2", "im", "draft", "tie"),
    Choice("r2", "i3", "im", "gm", "left"),
    Choice("r2", "i3", "im", "gm", "right", is_repeat=True),
]


def test_wins_by_hand_whichever_side() -> None:
    rates = win_rates(CHOICES, 0.95)
    assert list(rates) == [("draft", "im"), ("gm", "im"), ("im", "draft"), ("im", "gm")]
    of_im = rates["im", "draft"]
    assert (of_im.wins, of_im.ties, of_im.losses) == (2, 1, 1)
    assert of_im.share == wilson(2, 3, 0.95)
    against = rates["draft", "im"]
    assert (against.wins, against.ties, against.losses) == (1, 1, 2)
    assert (rates["im", "gm"].wins, rates["im", "gm"].losses) == (1, 0)  # the repeat takes no part


def test_only_ties_give_no_share() -> None:
    rates = win_rates([Choice("r1", "i1", "a", "b", "tie")], 0.95)
    assert (rates["a", "b"].ties, rates["a", "b"].share) == (1, Unknown("nothing was counted"))
    assert position_bias([Choice("r1", "i1", "a", "b", "tie")], 0.95) == Unknown("no choice was decided for a side")


def test_position_by_hand() -> None:
    bias = position_bias(CHOICES, 0.95)
    assert isinstance(bias, PositionBias)
    assert (bias.left, bias.ties, bias.right) == (3, 1, 1)
    assert bias.share == wilson(3, 4, 0.95)
    assert bias.p_value == pytest.approx(2 * 5 / 16)


def test_a_bias_towards_the_left_is_found_and_a_strong_arm_is_none() -> None:
    generator = np.random.default_rng(6)
    strengths = {"im": 2.0, "draft": 0.0}
    p_values = []
    for _ in range(100):
        fair = position_bias(simulated_choices(generator, strengths, num_items=60, raters_per_item=1), 0.95)
        assert isinstance(fair, PositionBias)
        p_values.append(fair.p_value)
    assert np.mean(np.array(p_values) < 0.05) <= 0.09
    drawn = position_bias(simulated_choices(generator, strengths, num_items=400, raters_per_item=1, towards_left=1.0), 0.95)
    assert isinstance(drawn, PositionBias)
    assert drawn.p_value < 0.001
    assert drawn.share.low > 0.5


def test_an_arm_against_itself() -> None:
    with pytest.raises(RatingsError, match="im against itself; two arms are expected"):
        replace(CHOICES[0], right="im")
