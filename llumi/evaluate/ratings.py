"""What raters gave, and how a figure made of it is told: with its interval, or with the reason why there is none.

An item is what a rater was shown: a post with the replies of one or two arms. Raters are pseudonyms.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from llumi.errors import RatingsError
from llumi.evaluate.statistics import FloatArray, bootstrap_intervals

DIMENSIONS = ("readability", "empathy", "connection", "actionability", "safety")
"""What the paper's raters scored (arXiv 2605.30273)."""

REVISION_DIMENSIONS = ("content_preservation", "style_preservation")
"""What raters are asked of a draft and its revision together; kept with the revision."""

LOWEST, HIGHEST = 1, 5


@dataclass(frozen=True, slots=True)
class ScaleRating:
    """A rater's score of one arm's reply to an item; `is_repeat` where the same rater was shown it once more."""

    rater: str
    item: str
    arm: str
    dimension: str
    score: int
    is_repeat: bool = False

    def __post_init__(self) -> None:
        if not LOWEST <= self.score <= HIGHEST:
            raise RatingsError(f"rater {self.rater}, item {self.item}: score {self.score}; {LOWEST} to {HIGHEST} is expected")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of two arms' replies to an item a rater preferred. The left one is read first; `is_repeat` as in ScaleRating."""

    rater: str
    item: str
    left: str
    right: str
    verdict: Literal["left", "right", "tie"]
    is_repeat: bool = False

    def __post_init__(self) -> None:
        if self.left == self.right:
            raise RatingsError(f"rater {self.rater}, item {self.item}: {self.left} against itself; two arms are expected")

    @property
    def winner(self) -> str | None:
        """The preferred arm; None for a tie."""
        if self.verdict == "tie":
            return None
        return self.left if self.verdict == "left" else self.right


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, the bounds of its interval, and the number `n` of what it was made of (its function says of what)."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why a figure cannot be given."""

    reason: str


@dataclass(frozen=True, slots=True)
class Resampling:
    """How bootstrap intervals are drawn."""

    num_bootstrap: int = 2000
    confidence: float = 0.95
    seed: int = 17


Record = TypeVar("Record", ScaleRating, Choice)


def first_time(records: Iterable[Record]) -> list[Record]:
    """Without the repeats, which are there to ask raters of their own consistency and would count a rater twice."""
    return [record for record in records if not record.is_repeat]


def by_dimension(ratings: Iterable[ScaleRating]) -> dict[str, list[ScaleRating]]:
    """The ratings of each dimension, in the order in which dimensions first come."""
    grouped: dict[str, list[ScaleRating]] = {}
    for rating in ratings:
        grouped.setdefault(rating.dimension, []).append(rating)
    return grouped


def score_table(ratings: Sequence[ScaleRating]) -> dict[tuple[str, str], dict[str, int]]:
    """The first scores of one dimension: (item, arm) -> rater -> score. Raises RatingsError for a second first score."""
    table: dict[tuple[str, str], dict[str, int]] = {}
    for rating in first_time(ratings):
        scores = table.setdefault((rating.item, rating.arm), {})
        if rating.rater in scores:
            raise RatingsError(
                f"rater {rating.rater}, item {rating.item}, arm {rating.arm}: two scores for {rating.dimension}; "
                "the later one should be marked is_repeat"
            )
        scores[rating.rater] = rating.score
    return table


def mean_scores(ratings: Sequence[ScaleRating]) -> dict[str, FloatArray]:
    """Each arm's mean score of one dimension over raters, aligned by item, NaN where it has none: what `compare_arms` reads."""
    table = score_table(ratings)
    items = {item: row for row, item in enumerate(sorted({item for item, _ in table}))}
    means = {arm: np.full(len(items), np.nan) for arm in sorted({arm for _, arm in table})}
    for (item, arm), scores in table.items():
        means[arm][items[item]] = np.mean(list(scores.values()))
    return means


def mean_estimates(ratings: Sequence[ScaleRating], resampling: Resampling) -> dict[str, Estimate | Unknown]:
    """Each arm's mean score of one dimension over items, with an interval drawn over them; n counts items."""
    return {arm: _mean(arm, scores, resampling) for arm, scores in mean_scores(ratings).items()}


def _mean(arm: str, scores: FloatArray, resampling: Resampling) -> Estimate | Unknown:
    scores = scores[np.isfinite(scores)]
    if len(scores) < 2:
        return Unknown(f"{arm} was scored for fewer than two items")
    low, high = bootstrap_intervals(scores[:, None], resampling.num_bootstrap, resampling.confidence, resampling.seed)[0]
    return Estimate(float(scores.mean()), float(low), float(high), len(scores))
