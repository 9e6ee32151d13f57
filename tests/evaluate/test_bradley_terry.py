from dataclasses import replace
from itertools import combinations

import choix
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from llumi.errors import RatingsError
from llumi.evaluate.bradley_terry import BradleyTerry, bradley_terry, fit_davidson
from llumi.evaluate.preference import win_rates
from llumi.evaluate.ratings import Choice, Estimate, Resampling, Unknown
from tests.evaluate.studies import davidson_choices, simulated_choices

RESAMPLING = Resampling(num_bootstrap=400)
STRENGTHS = {"gm-dpo2": 0.9, "gm-sft": 0.3, "human-reply": 0.0}


def fitted(choices: list[Choice], reference: str) -> BradleyTerry:
    model = bradley_terry(choices, reference, RESAMPLING)
    assert isinstance(model, BradleyTerry)
    return model


def test_davidson_s_own_example() -> None:
    model = fitted(davidson_choices(), "1")
    strengths = np.exp([0, *(model.log_odds[arm].value for arm in "23456")])
    # Davidson 1970, example 2; seven steps of his iteration leave the fourth decimal open.
    published = [0.1388, 0.1730, 0.1617, 0.1654, 0.1587, 0.2024]
    assert strengths / strengths.sum() == pytest.approx(published, abs=2e-4)
    assert model.tie.value == pytest.approx(0.7468, abs=2e-4)
    assert (model.log_odds["6"].n, model.tie.n, model.num_items) == (51 + 54 + 41 + 51 + 44, 745, 745)
    # Standard errors of the R package PlackettLuce for the same data: each tasting is an item here, as it takes them.
    for arm, error in {"2": 0.1872, "3": 0.1935, "4": 0.1882, "5": 0.1927, "6": 0.1924}.items():
        estimate = model.log_odds[arm]
        assert (estimate.high - estimate.low) / (2 * 1.96) == pytest.approx(error, rel=0.12)


def test_without_ties_it_agrees_with_choix() -> None:
    choices = [choice for choice in davidson_choices() if choice.verdict != "tie"]
    wins = [(int(choice.winner or 0) - 1, int(({choice.left, choice.right} - {choice.winner}).pop()) - 1) for choice in choices]
    theirs = choix.ilsr_pairwise(6, wins)
    model = fitted(choices, "1")
    assert [model.log_odds[arm].value for arm in "23456"] == pytest.approx(theirs[1:] - theirs[0], abs=1e-5)
    assert (model.tie.value, model.tie.low, model.tie.high) == (0, 0, 0)


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_it_reaches_the_maximum_that_scipy_reaches(spread: float) -> None:
    generator = np.random.default_rng(8)
    pairs = list(combinations(range(4), 2))
    counts = np.exp(generator.normal(0, spread, size=(5, 6, 3))) + 0.01
    strengths, nu = fit_davidson(counts, pairs, 4)
    for of_study, ours in zip(counts, np.column_stack([strengths, np.log(nu)]), strict=True):

        def loss(x: np.ndarray, of_study: np.ndarray = of_study) -> float:
            halves = np.array([(x[first] - x[second]) / 2 for first, second in pairs])
            logits = np.column_stack([halves, -halves, np.full(len(pairs), x[-1])])
            return float(-(of_study * log_softmax(logits, axis=1)).sum() / of_study.sum())

        theirs = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
        assert loss(ours) <= theirs.fun + 1e-9
        assert ours[:-1].sum() == pytest.approx(0, abs=1e-6)


def test_a_known_preference_is_recovered() -> None:
    """In 90 or more of 100 studies of 80 items and 3 raters the intervals hold the truth, no wider than they must be."""
    generator = np.random.default_rng(21)
    held = {"strong": 0, "weak": 0, "tie": 0, "share": 0}
    widths = []
    for _ in range(100):
        choices = simulated_choices(generator, STRENGTHS, num_items=80, raters_per_item=3)
        model = fitted(choices, "human-reply")
        strong, weak = model.log_odds["gm-dpo2"], model.log_odds["gm-sft"]
        share = win_rates(choices, 0.95)["gm-dpo2", "human-reply"].share
        assert isinstance(share, Estimate)
        held["strong"] += strong.low <= 0.9 <= strong.high
        held["weak"] += weak.low <= 0.3 <= weak.high
        held["tie"] += model.tie.low <= 0.5 <= model.tie.high
        held["share"] += share.low <= 1 / (1 + np.exp(-0.9)) <= share.high
        widths.append((strong.high - strong.low, model.tie.high - model.tie.low, share.high - share.low))
    assert min(held.values()) >= 90, held
    # By hand: 80 decided choices of a pair, and half as many by way of the third arm, leave a standard error near 0.23.
    assert np.mean(widths, axis=0) == pytest.approx([0.9, 0.37, 0.22], rel=0.25)


def test_raters_of_the_same_items_widen_the_interval() -> None:
    """Six raters share each item's luck: over items the interval holds the truth, as independent choices it would not."""
    generator = np.random.default_rng(22)
    luck = generator.normal(0, 1.5, 10**6)
    truth = float(np.mean(1 / (1 + np.exp(-(0.6 + luck)))))
    by_item = as_independent = 0
    for _ in range(100):
        choices = simulated_choices(
            generator, {"im": 0.6, "draft": 0.0}, num_items=60, raters_per_item=6, nu=0, item_spread=1.5
        )
        estimate = fitted(choices, "draft").log_odds["im"]
        share = win_rates(choices, 0.95)["im", "draft"].share
        assert isinstance(share, Estimate)
        assert estimate.value == pytest.approx(np.log(share.value / (1 - share.value)))
        by_item += estimate.low <= np.log(truth / (1 - truth)) <= estimate.high
        as_independent += share.low <= truth <= share.high
    assert by_item >= 90
    assert as_independent < 85


def test_strengths_without_a_bound_say_so() -> None:
    won = [Choice("r", f"i{item}", "a", "b", "left") for item in range(5)]
    reason = "b never won against a, not even by way of other arms: their distance has no bound"
    assert bradley_terry(won, "a", RESAMPLING) == Unknown(reason)
    # Ties alone do not bound it, and two arms that met nobody in common cannot be compared.
    assert bradley_terry([*won, Choice("r", "i9", "a", "b", "tie")], "a", RESAMPLING) == Unknown(reason)
    apart = [replace(choice, left=left, right=right) for choice in won for left, right in ("ab", "ba", "cd", "dc")]
    assert isinstance(bradley_terry(apart, "a", RESAMPLING), Unknown)
    # A circle of wins bounds all three, though each pair has one winner.
    circle = [replace(choice, left=left, right=right) for choice in won for left, right in ("ab", "bc", "ca")]
    assert fitted(circle, "a").log_odds["b"].value == pytest.approx(0, abs=1e-9)


def test_a_lone_defeat_has_a_wide_interval() -> None:
    choices = [Choice("r", f"i{item}", "a", "b", "left") for item in range(11)] + [Choice("r", "i11", "a", "b", "right")]
    estimate = fitted(choices, "b").log_odds["a"]
    assert estimate.value == pytest.approx(np.log(11))
    assert estimate.low < np.log(4)
    # Every third resample has no defeat at all.
    assert estimate.high > 10


def test_what_cannot_be_told_says_why() -> None:
    one_item = [Choice("r1", "i", "a", "b", "left"), Choice("r2", "i", "a", "b", "right")]
    assert bradley_terry(one_item, "a", RESAMPLING) == Unknown("choices for one item alone: an interval needs two")
    with pytest.raises(RatingsError, match="no choice has the arm c; there are a, b"):
        bradley_terry(one_item, "c", RESAMPLING)
    with pytest.raises(RatingsError, match="no choices"):
        bradley_terry([], "a", RESAMPLING)


def test_repeats_take_no_part_and_the_seed_decides() -> None:
    choices = simulated_choices(np.random.default_rng(9), STRENGTHS, num_items=40, raters_per_item=2)
    repeats = [replace(choice, verdict="right", is_repeat=True) for choice in choices]
    model = fitted(choices, "gm-sft")
    assert fitted([*choices, *repeats], "gm-sft") == model
    assert bradley_terry(choices, "gm-sft", replace(RESAMPLING, seed=18)) != model
