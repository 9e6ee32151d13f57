"""Months whose scores were taken before people had voted: nearly every score is 1, and says nothing.

Monthly dumps hold each comment as it was shortly after it was written; only a later capture has its votes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

MIN_COMMENTS = 100
"""Of a month with fewer scored comments nothing is said."""

_LAST_SECOND = 253_370_764_799  # of the year 9998: datetime ends soon after it


@dataclass
class Months:
    """How many scored comments each month has, and how many of these scores are 1; months are "YYYY-MM"."""

    num_comments: dict[str, int] = field(default_factory=dict)
    num_ones: dict[str, int] = field(default_factory=dict)

    def add(self, counts: Mapping[str, Any]) -> None:
        """Take in what `count_months` gave for a part of the comments."""
        for month, (comments, ones) in counts.items():
            self.num_comments[month] = self.num_comments.get(month, 0) + comments
            self.num_ones[month] = self.num_ones.get(month, 0) + ones

    def early(self, share: float) -> list[str]:
        """The months of which more than `share` of the scores are 1, in order."""
        return sorted(
            month
            for month, comments in self.num_comments.items()
            if comments >= MIN_COMMENTS and self.num_ones[month] > share * comments
        )

    def as_counts(self, share: float) -> dict[str, dict[str, Any]]:
        """For the manifest, in order."""
        early = set(self.early(share))
        return {
            month: {"comments": comments, "score_one": self.num_ones[month], "early": month in early}
            for month, comments in sorted(self.num_comments.items())
        }


def count_months(comments: pl.DataFrame) -> dict[str, list[int]]:
    """For each month the comments that cleaning kept, and those of them with a score of 1; unknown times left out."""
    kept = comments.lazy().filter(pl.col("reason").is_null(), pl.col("created_utc") > 0)
    counted = kept.group_by(day=pl.col("created_utc") // 86_400).agg(pl.len(), ones=(pl.col("score") == 1).sum()).collect()
    months: dict[str, list[int]] = {}
    for day, comments_of_day, ones in counted.iter_rows():
        entry = months.setdefault(month_of(day * 86_400), [0, 0])
        entry[0] += comments_of_day
        entry[1] += ones
    return months


def month_of(created_utc: int) -> str:
    """The month of a time in seconds since 1970, "YYYY-MM"."""
    return datetime.fromtimestamp(min(created_utc, _LAST_SECOND), UTC).strftime("%Y-%m")


def in_months(months: list[str]) -> pl.Expr:
    """Whether `created_utc` lies in one of these months."""
    borders = [_borders(month) for month in months]
    return pl.any_horizontal(
        pl.lit(False), *((pl.col("created_utc") >= start) & (pl.col("created_utc") < end) for start, end in borders)
    )


def _borders(month: str) -> tuple[int, int]:
    year, number = map(int, month.split("-"))
    ends = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return int(datetime(year, number, 1, tzinfo=UTC).timestamp()), int(ends.timestamp())
