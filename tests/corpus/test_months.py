from datetime import UTC, datetime

import polars as pl
import pytest

from llumi.corpus.months import MIN_COMMENTS, Months, count_months, in_months, month_of


def seconds(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp())  # type: ignore[arg-type, misc]  # (a date and perhaps a time)


def comments(*rows: tuple[int, int, str | None]) -> pl.DataFrame:
    schema = {"created_utc": pl.Int64, "score": pl.Int64, "reason": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_kept_comments_are_counted_by_month_and_those_with_a_score_of_one() -> None:
    first, last = seconds(2023, 1, 1), seconds(2023, 1, 31, 23, 59, 59)
    frame = comments(
        (first, 1, None),
        (last, 5, None),
        (last + 1, 1, None),
        (first, 1, "bot"),
        (0, 1, None),
        (-5, 1, None),
        (first - 1, 0, None),
    )
    assert count_months(frame) == {"2022-12": [1, 0], "2023-01": [2, 1], "2023-02": [1, 1]}
    assert count_months(frame.head(0)) == {}


def test_a_time_beyond_the_calendar_lies_in_its_last_month() -> None:
    assert month_of(2**53) == "9998-12"
    assert count_months(comments((2**53, 2, None))) == {"9998-12": [1, 0]}


def test_parts_add_up_to_the_whole() -> None:
    rows = [(seconds(2023, 1 + number % 12, 3), number % 3, None) for number in range(500)]
    whole, parts = Months(), Months()
    whole.add(count_months(comments(*rows)))
    for start in range(0, 500, 70):
        parts.add(count_months(comments(*rows[start : start + 70])))
    assert parts == whole
    assert sum(whole.num_comments.values()) == 500


def test_a_month_is_early_where_more_than_the_share_of_its_scores_is_one() -> None:
    months = Months()
    months.add(
        {"2023-03": (200, 191), "2023-01": (200, 190), "2023-02": (MIN_COMMENTS - 1, MIN_COMMENTS - 1), "2022-12": (100, 100)}
    )
    assert months.early(0.95) == ["2022-12", "2023-03"]
    assert months.early(1.0) == []
    assert months.as_counts(0.95) == {
        "2022-12": {"comments": 100, "score_one": 100, "early": True},
        "2023-01": {"comments": 200, "score_one": 190, "early": False},
        "2023-02": {"comments": 99, "score_one": 99, "early": False},
        "2023-03": {"comments": 200, "score_one": 191, "early": True},
    }
    assert list(months.as_counts(0.95)) == sorted(months.num_comments)


@pytest.mark.parametrize("month", ["2023-01", "2023-11", "2023-12", "2024-02"])
def test_a_month_holds_its_seconds_and_no_others(month: str) -> None:
    year, number = map(int, month.split("-"))
    start, end = seconds(year, number, 1), seconds(year + number // 12, number % 12 + 1, 1)
    times = pl.DataFrame({"created_utc": [0, start - 1, start, end - 1, end]})
    assert times.select(in_months([month])).to_series().to_list() == [False, False, True, True, False]
    assert [month_of(time) == month for time in times["created_utc"]] == [False, False, True, True, False]


def test_several_months_and_none() -> None:
    times = pl.DataFrame({"created_utc": [seconds(2023, number, 9) for number in (1, 2, 3)]})
    assert times.filter(in_months(["2023-01", "2023-03"])).height == 2
    assert times.filter(in_months([])).height == 0
    assert times.filter(~in_months([])).height == 3
