"""What the paper's raters said (arXiv 2605.30273), laid beside what ours say.

Another study, other raters, other posts: the figures show whether ours are of the same order, and test nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llumi.evaluate.preference import win_rates
from llumi.evaluate.proportion import wilson
from llumi.evaluate.ratings import Choice, Estimate, Resampling, ScaleRating, Unknown, by_dimension, mean_estimates

PAPER_SCORES = {"empathy": (4.41, 4.34), "connection": (4.06, 3.97)}
"""Dimension -> mean score of DPO2 and of GPT-5-nano; the paper gives no interval for them."""

PAPER_PREFERRED, PAPER_JUDGED = 173, 211
"""In how many choices IM's revision was preferred to the original, and of how many."""

PAPER_RATERS, PAPER_RATED_PAIRS = 210, 1680
"""How many people rated how many pairs, over its whole human evaluation."""


@dataclass(frozen=True, slots=True)
class ScoresBeside:
    """Mean scores in one dimension: the model's and those of what it is compared with, of the paper and of ours."""

    dimension: str
    paper_model: float
    paper_other: float
    model: Estimate | Unknown
    other: Estimate | Unknown


@dataclass(frozen=True, slots=True)
class PreferenceBeside:
    """The share of choices for the revision over the draft; the paper's interval is Wilson's, computed here."""

    paper: Estimate | Unknown
    ours: Estimate | Unknown


def scores_beside_paper(ratings: Sequence[ScaleRating], model: str, other: str, resampling: Resampling) -> list[ScoresBeside]:
    """The arms `model` and `other` in the places of DPO2 and GPT-5-nano; n counts items, intervals are drawn over them."""
    rated = by_dimension(ratings)
    return [
        ScoresBeside(
            dimension,
            paper_model,
            paper_other,
            _mean(rated.get(dimension, []), model, resampling),
            _mean(rated.get(dimension, []), other, resampling),
        )
        for dimension, (paper_model, paper_other) in PAPER_SCORES.items()
    ]


def preference_beside_paper(choices: Iterable[Choice], revision: str, draft: str, confidence: float) -> PreferenceBeside:
    """How often the arm `revision` was preferred to the arm `draft`; ours leaves ties out, the paper speaks of none."""
    met = win_rates(choices, confidence).get((revision, draft))
    ours = met.share if met else Unknown(f"{revision} and {draft} were never shown side by side")
    return PreferenceBeside(wilson(PAPER_PREFERRED, PAPER_JUDGED, confidence), ours)


def _mean(ratings: Sequence[ScaleRating], arm: str, resampling: Resampling) -> Estimate | Unknown:
    return mean_estimates(ratings, resampling).get(arm, Unknown(f"{arm} was scored for fewer than two items"))
