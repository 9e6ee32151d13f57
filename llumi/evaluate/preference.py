"""Which arm raters preferred, side by side, and whether the side itself drew them.

Ties are left out of a share and counted beside it: a share of the decided choices is the same quantity for which
Bradley-Terry with ties has its odds, and it has an exact interval, which half wins have not. Repeats take no part.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from llumi.evaluate.proportion import sign_test, wilson
from llumi.evaluate.ratings import Choice, Estimate, Unknown, first_time


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often an arm was preferred to another: `share` is wins / (wins + losses), and its n that sum."""

    wins: int
    ties: int
    losses: int
    share: Estimate | Unknown


@dataclass(frozen=True, slots=True)
class PositionBias:
    """How often the side that is read first was preferred: `share` is left / (left + right), `p_value` against one half."""

    left: int
    ties: int
    right: int
    share: Estimate
    p_value: float


def win_rates(choices: Iterable[Choice], confidence: float) -> dict[tuple[str, str], WinRate]:
    """(arm, other arm) -> how often the first was preferred to the second, in both orders of every pair that met.

    Intervals are Wilson's, which take the choices as independent: where several raters judge an item, or the same rater many,
    they are too narrow, and the intervals of `bradley_terry`, drawn over whole items, are the ones to read.
    """
    wins: Counter[tuple[str, str]] = Counter()
    ties: Counter[tuple[str, str]] = Counter()
    for choice in first_time(choices):
        pair = (choice.left, choice.right)
        if choice.verdict == "tie":
            ties.update((pair, pair[::-1]))
        else:
            wins[pair if choice.verdict == "left" else pair[::-1]] += 1
    met = sorted({pair for won in (*wins, *ties) for pair in (won, won[::-1])})
    return {
        (arm, other): WinRate(
            wins=wins[arm, other],
            ties=ties[arm, other],
            losses=wins[other, arm],
            share=wilson(wins[arm, other], wins[arm, other] + wins[other, arm], confidence),
        )
        for arm, other in met
    }


def position_bias(choices: Iterable[Choice], confidence: float) -> PositionBias | Unknown:
    """Whether the left side was preferred as such, by Wilson's interval and an exact sign test.

    It supposes that lots were drawn for the sides: then each arm is on the left as often as on the right, and without a bias
    the share is one half whichever arm is better.
    """
    verdicts = Counter(choice.verdict for choice in first_time(choices))
    left, right = verdicts["left"], verdicts["right"]
    share = wilson(left, left + right, confidence)
    if isinstance(share, Unknown):
        return Unknown("no choice was decided for a side")
    return PositionBias(left, verdicts["tie"], right, share, sign_test(left, left + right))
