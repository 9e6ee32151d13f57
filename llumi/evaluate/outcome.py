"""What a study of human ratings came to: whether raters agree, which arm they prefer, and the paper's figures beside ours."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llumi.errors import RatingsError
from llumi.evaluate.agreement import Intraclass, alphas, intraclass_correlations
from llumi.evaluate.bradley_terry import BradleyTerry, bradley_terry
from llumi.evaluate.consistency import ScaleConsistency, choice_consistency, scale_consistency
from llumi.evaluate.paper import PreferenceBeside, ScoresBeside, preference_beside_paper, scores_beside_paper
from llumi.evaluate.preference import PositionBias, WinRate, position_bias, win_rates
from llumi.evaluate.ratings import (
    REVISION_DIMENSIONS,
    Choice,
    Estimate,
    Resampling,
    ScaleRating,
    Unknown,
    by_dimension,
    mean_estimates,
)
from llumi.records import HUMAN_DRAFT, HUMAN_REPLY

RECORDS = ("scales.parquet", "choices.parquet")
"""The files of `llumi rate export` that figures are made of."""


@dataclass(frozen=True)
class Ratings:
    """The records of one study."""

    scales: tuple[ScaleRating, ...]
    choices: tuple[Choice, ...]

    @property
    def arms(self) -> list[str]:
        """Every arm that was shown."""
        return sorted({arm for choice in self.choices for arm in (choice.left, choice.right)})

    @property
    def revisions(self) -> list[str]:
        """The arms that revise a draft: those that raters were asked to compare with it in content and in style."""
        return sorted({rating.arm for rating in self.scales if rating.dimension in REVISION_DIMENSIONS})

    @property
    def num_raters(self) -> int:
        """Who sent a page."""
        return len({choice.rater for choice in self.choices})

    @property
    def num_items(self) -> int:
        """What was judged."""
        return len({choice.item for choice in self.choices})


def read_ratings(folder: Path) -> Ratings:
    """The records that `llumi rate export` wrote to `folder`; raises RatingsError for a folder that holds none."""
    scales, choices = (_read(folder / name) for name in RECORDS)
    try:
        ratings = Ratings(
            tuple(
                ScaleRating(row["rater"], row["item"], row["arm"], row["dimension"], row["score"], row["is_repeat"])
                for row in scales.to_pylist()
            ),
            tuple(
                Choice(row["rater"], row["item"], row["left_arm"], row["right_arm"], row["verdict"], row["is_repeat"])
                for row in choices.to_pylist()
            ),
        )
    except KeyError as error:
        raise RatingsError(f"{folder}: no column {error}; give a folder of `llumi rate export`") from None
    except TypeError:
        raise RatingsError(f"{folder}: a score that is no number; export the study again") from None
    if not ratings.choices:
        raise RatingsError(f"{folder}: no page was sent yet; export again once raters have been at work")
    return ratings


@dataclass(frozen=True)
class Outcome:
    """All figures of a study; one that cannot be given is an `Unknown`, which says why.

    `scores` and what tells of agreement are by dimension, `beside` is the paper's figures beside ours: a share by the revision
    that was preferred, mean scores by dimension.
    """

    ratings: Ratings
    scores: dict[str, dict[str, Estimate | Unknown]]
    alpha: dict[str, Estimate | Unknown]
    icc: dict[str, Intraclass | Unknown]
    scale_consistency: dict[str, ScaleConsistency | Unknown]
    choice_consistency: Estimate | Unknown
    win_rates: dict[tuple[str, str], WinRate]
    bradley_terry: BradleyTerry | Unknown
    position_bias: PositionBias | Unknown
    beside: dict[str, PreferenceBeside | ScoresBeside]

    def figures(self) -> dict[str, Any]:
        """As a tree for a table or JSON, with the reason in the place of what is unknown."""
        tree = {
            "raters": self.ratings.num_raters,
            "items": self.ratings.num_items,
            "scores": self.scores,
            "agreement": {"alpha": self.alpha, "icc": self.icc},
            "consistency": {"scales": self.scale_consistency, "choices": self.choice_consistency},
            "win_rates": {f"{arm} over {over}": rate for (arm, over), rate in self.win_rates.items()},
            "bradley_terry": self.bradley_terry,
            "position_bias": self.position_bias,
            "beside_the_paper": self.beside,
        }
        return {name: _told(value) for name, value in tree.items()}


def outcome(ratings: Ratings, resampling: Resampling, *, reference: str | None = None, other: str | None = None) -> Outcome:
    """What a study came to.

    Bradley-Terry's log-odds are against `reference` (else the draft, the human reply, or the first arm by name). `other` names
    the arm that stands in the place of the paper's GPT-5-nano, `reference` then in that of DPO2. Raises RatingsError for an
    arm that was not shown, and for ratings that contradict each other.
    """
    scales, choices, confidence = ratings.scales, ratings.choices, resampling.confidence
    arms = ratings.arms
    for arm in (reference, other):
        if arm is not None and arm not in arms:
            raise RatingsError(f"no arm {arm} in these ratings; there are {', '.join(arms)}")
    base = reference or next((arm for arm in (HUMAN_DRAFT, HUMAN_REPLY) if arm in arms), arms[0])
    beside: dict[str, PreferenceBeside | ScoresBeside] = {
        arm: preference_beside_paper(choices, arm, HUMAN_DRAFT, confidence) for arm in ratings.revisions
    }
    if reference and other:
        beside |= {score.dimension: score for score in scores_beside_paper(scales, reference, other, resampling)}
    return Outcome(
        ratings,
        scores={dimension: mean_estimates(given, resampling) for dimension, given in by_dimension(scales).items()},
        alpha=alphas(scales, resampling),
        icc=intraclass_correlations(scales, confidence),
        scale_consistency=scale_consistency(scales, resampling),
        choice_consistency=choice_consistency(choices, confidence),
        win_rates=win_rates(choices, confidence),
        bradley_terry=bradley_terry(choices, base, resampling),
        position_bias=position_bias(choices, confidence),
        beside=beside,
    )


def _told(value: Any) -> Any:
    """A tree of plain values: figures under their names, and for one that is unknown the reason."""
    if isinstance(value, Unknown):
        return f"unknown: {value.reason}"
    if isinstance(value, Mapping):
        return {name: _told(part) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _told(getattr(value, name)) for name in asdict(value)}
    return value


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except FileNotFoundError:
        raise RatingsError(f"{file}: no such file; give a folder of `llumi rate export`") from None
    except (OSError, pa.ArrowInvalid):
        raise RatingsError(f"{file}: not a table of ratings; export the study again") from None
