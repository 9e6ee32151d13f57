"""One strength for each arm out of all side-by-side choices: Bradley-Terry with ties, and intervals over items."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from llumi.errors import RatingsError
from llumi.evaluate.ratings import Choice, Estimate, Resampling, Unknown, first_time
from llumi.evaluate.statistics import FloatArray, percentile_intervals, resampled_sums

_FARTHEST = 20.0
"""Log-strengths from the mean at which the search stops: in a resample where an arm never loses, there is no maximum."""

_LONGEST_STEP = 1.0
"""Newton's step is shortened to it: from far away, the whole step would overshoot."""

_MAX_STEPS = 100
_TOLERANCE = 1e-9
WIN, LOSS, TIE = range(3)


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """Each arm's log-odds of being preferred to the reference, ties aside; n counts the choices that the arm was part of.

    `tie` is Davidson's nu: two arms of the same strength tie with probability nu / (2 + nu).
    """

    reference: str
    log_odds: dict[str, Estimate]
    tie: Estimate
    num_items: int


def bradley_terry(choices: Iterable[Choice], reference: str, resampling: Resampling) -> BradleyTerry | Unknown:
    """Fit strengths to all choices; `log_odds` has every arm but `reference`.

    P(i over j), P(j over i) and P(tie) are as s_i : s_j : nu sqrt(s_i s_j) (Davidson 1970, Journal of the American
    Statistical Association 65). Intervals are percentiles over resamples of whole items with all their choices: they allow
    for raters who judge the same texts, and speak of other items judged by the same raters. Repeats take no part. Raises
    RatingsError where `reference` is no arm of the choices.
    """
    chosen = first_time(choices)
    arms = sorted({arm for choice in chosen for arm in (choice.left, choice.right)})
    if reference not in arms:
        raise RatingsError(f"no choice has the arm {reference}; there are {', '.join(arms) or 'no choices'}")
    pairs = list(combinations(range(len(arms)), 2))
    outcomes = _outcomes(chosen, arms, pairs)
    if len(outcomes) < 2:
        return Unknown("choices for one item alone: an interval needs two")
    total = outcomes.sum(axis=0)
    if unbounded := _unbounded(total, arms, pairs):
        return unbounded
    flat = outcomes.reshape(len(outcomes), -1)
    drawn = resampled_sums(flat, resampling.num_bootstrap, resampling.seed).reshape(-1, *total.shape)
    origin = arms.index(reference)
    strengths, ties = fit_davidson(np.concatenate([total[None], drawn]), pairs, len(arms))
    figures = np.column_stack([strengths - strengths[:, [origin]], ties])
    intervals = percentile_intervals(figures[1:], resampling.confidence, len(outcomes))
    num_choices = [int(sum(total[row].sum() for row, pair in enumerate(pairs) if arm in pair)) for arm in range(len(arms))]
    estimates = [
        Estimate(float(value), float(low), float(high), n)
        for value, (low, high), n in zip(figures[0], intervals, [*num_choices, len(chosen)], strict=True)
    ]
    log_odds = {arm: estimate for arm, estimate in zip(arms, estimates, strict=False) if arm != reference}
    return BradleyTerry(reference, log_odds, estimates[-1], len(outcomes))


def fit_davidson(counts: FloatArray, pairs: Sequence[tuple[int, int]], num_arms: int) -> tuple[FloatArray, FloatArray]:
    """Maximum-likelihood log-strengths, shape (fits, arms) with mean 0, and nu, shape (fits,), of many sets of counts at once.

    `counts` has shape (fits, pairs, 3): how often the first arm of the pair won, lost and tied. Newton's method on the
    log-likelihood, which is concave in the log-strengths and log nu.
    """
    design = np.zeros((len(pairs), num_arms))
    for row, (first, second) in enumerate(pairs):
        design[row, [first, second]] = 0.5, -0.5
    num_choices = counts.sum(axis=2)
    num_ties = counts[:, :, TIE].sum(axis=1)
    has_ties = num_ties > 0
    strengths = np.zeros((len(counts), num_arms))
    # Nu as it would be if all arms were of the same strength; without a tie it is 0, and stays so.
    start = 2 * num_ties / np.maximum(num_choices.sum(axis=1) - num_ties, 0.5)
    log_nu = np.log(start, out=np.full(len(counts), -np.inf), where=has_ties)
    for _ in range(_MAX_STEPS):
        probabilities = _probabilities(strengths @ design.T, log_nu)
        step = _newton_step(counts, num_choices, probabilities, design, has_ties)
        step /= np.maximum(np.abs(step).max(axis=1, keepdims=True) / _LONGEST_STEP, 1)
        strengths = np.clip(strengths + step[:, :-1], -_FARTHEST, _FARTHEST)
        log_nu = log_nu + step[:, -1]
        if np.abs(step).max() < _TOLERANCE:
            break
    return strengths, np.exp(log_nu)


def _outcomes(choices: Sequence[Choice], arms: Sequence[str], pairs: Sequence[tuple[int, int]]) -> FloatArray:
    """How often the first arm of each pair won, lost and tied, by item: shape (items, pairs, 3)."""
    items = {item: row for row, item in enumerate(sorted({choice.item for choice in choices}))}
    places = {(arms[first], arms[second]): row for row, (first, second) in enumerate(pairs)}
    outcomes = np.zeros((len(items), len(pairs), 3))
    for choice in choices:
        first, second = sorted((choice.left, choice.right))
        outcome = TIE if choice.winner is None else WIN if choice.winner == first else LOSS
        outcomes[items[choice.item], places[first, second], outcome] += 1
    return outcomes


def _unbounded(total: FloatArray, arms: Sequence[str], pairs: Sequence[tuple[int, int]]) -> Unknown | None:
    """Finite strengths need a chain of wins from every arm to every other (Ford 1957, American Mathematical Monthly 64(8))."""
    beats = np.eye(len(arms), dtype=np.int64)
    for (first, second), outcome in zip(pairs, total, strict=True):
        beats[first, second] = outcome[WIN] > 0
        beats[second, first] = outcome[LOSS] > 0
    reaches: npt.NDArray[np.bool_] = np.linalg.matrix_power(beats, len(arms) - 1) > 0
    if reaches.all():
        return None
    loser, winner = (arms[place] for place in np.argwhere(~reaches)[0])
    return Unknown(f"{loser} never won against {winner}, not even by way of other arms: their distance has no bound")


def _probabilities(halves: FloatArray, log_nu: FloatArray) -> FloatArray:
    """Of a win, a loss and a tie, shape (fits, pairs, 3); `halves` holds half the difference of the log-strengths."""
    weights = np.exp(np.stack(np.broadcast_arrays(halves, -halves, log_nu[:, None]), axis=2))
    return np.asarray(weights / weights.sum(axis=2, keepdims=True))


def _newton_step(
    counts: FloatArray,
    num_choices: FloatArray,
    probabilities: FloatArray,
    design: FloatArray,
    has_ties: npt.NDArray[np.bool_],
) -> FloatArray:
    """The step in the log-strengths and, last, in log nu, shape (fits, arms + 1)."""
    num_arms = design.shape[1]
    win, loss, tie = np.moveaxis(probabilities, 2, 0)
    lead = win - loss
    gradient = np.empty((len(counts), num_arms + 1))
    gradient[:, :-1] = (counts[:, :, WIN] - counts[:, :, LOSS] - num_choices * lead) @ design
    gradient[:, -1] = (counts[:, :, TIE] - num_choices * tie).sum(axis=1) * has_ties
    information = np.empty((len(counts), num_arms + 1, num_arms + 1))
    information[:, :-1, :-1] = np.einsum("fp,pi,pj->fij", num_choices * (win + loss - lead**2), design, design)
    information[:, :-1, -1] = information[:, -1, :-1] = -(num_choices * lead * tie) @ design
    information[:, -1, -1] = (num_choices * tie * (1 - tie)).sum(axis=1) + ~has_ties
    # Strengths are known but for a common shift: the ones hold their mean at 0. A hint of a ridge keeps the matrix
    # regular where an arm is missing from a resample, or its strength runs off.
    information[:, :-1, :-1] += 1.0
    information += 1e-9 * np.eye(num_arms + 1)
    return np.asarray(np.linalg.solve(information, gradient[:, :, None])[:, :, 0])
