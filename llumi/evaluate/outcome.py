"""What a study of human ratings came to: whether raters agree, which arm they prefer, and the paper's figures beside ours."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llumi.errors import RatingsError
from llumi.evaluate.agreement import alphas, intraclass_correlations
from llumi.evaluate.bradley_terry import bradley_terry
from llumi.evaluate.consistency import choice_consistency, scale_consistency
from llumi.evaluate.paper import preference_beside_paper, scores_beside_paper
from llumi.evaluate.preference import position_bias, win_rates
from llumi.evaluate.ratings import Choice, Resampling, ScaleRating, Unknown, by_dimension, mean_estimates
from llumi.records import HUMAN_DRAFT


@dataclass(frozen=True)
class Ratings:
    """The records of one study."""

    scales: tuple[ScaleRating, ...]
    choices: tuple[Choice, ...]

    @property
    def arms(self) -> list[str]:
        """Every arm that was shown."""
        return sorted({arm for choice in self.choices for arm in (choice.left, choice.right)})


def read_ratings(folder: Path) -> Ratings:
    """The records that `llumi rate export` wrote to `folder`; raises RatingsError for a folder that holds none."""
    scales, choices = (_read(folder / f"{name}.parquet") for name in ("scales", "choices"))
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
    if not ratings.choices:
        raise RatingsError(f"{folder}: no page was sent yet; export again once raters have been at work")
    return ratings


def outcome(
    ratings: Ratings, resampling: Resampling, *, reference: str | None = None, other: str | None = None
) -> dict[str, Any]:
    """All figures of a study as a tree for a table or JSON; one that cannot be given says why in its place.

    Bradley-Terry's log-odds are against `reference` (the first arm by name, or the draft). `other` names the arm that stands
    in the place of the paper's GPT-5-nano, `reference` then in that of DPO2. Raises RatingsError for an arm that was not shown.
    """
    scales, choices, confidence = ratings.scales, ratings.choices, resampling.confidence
    arms = ratings.arms
    for arm in (reference, other):
        if arm is not None and arm not in arms:
            raise RatingsError(f"no arm {arm} in these ratings; there are {', '.join(arms)}")
    base = reference or (HUMAN_DRAFT if HUMAN_DRAFT in arms else arms[0])
    revisions = [arm for arm in arms if arm != HUMAN_DRAFT] if HUMAN_DRAFT in arms else []
    beside: dict[str, Any] = {arm: preference_beside_paper(choices, arm, HUMAN_DRAFT, confidence) for arm in revisions}
    if reference and other:
        beside |= {score.dimension: score for score in scores_beside_paper(scales, reference, other, resampling)}
    tree = {
        "raters": len({choice.rater for choice in choices}),
        "items": len({choice.item for choice in choices}),
        "scores": {dimension: mean_estimates(given, resampling) for dimension, given in by_dimension(scales).items()},
        "agreement": {"alpha": alphas(scales, resampling), "icc": intraclass_correlations(scales, confidence)},
        "consistency": {
            "scales": scale_consistency(scales, resampling),
            "choices": choice_consistency(choices, confidence),
        },
        "win_rates": {f"{arm} over {over}": rate for (arm, over), rate in win_rates(choices, confidence).items()},
        "bradley_terry": bradley_terry(choices, base, resampling),
        "position_bias": position_bias(choices, confidence),
        "beside_the_paper": beside,
    }
    return {name: _told(value) for name, value in tree.items()}


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
