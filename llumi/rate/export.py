"""What came out of a study: ratings as records for statistics, and what raters preferred as pairs for `llumi pairs add`."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import select
from sqlalchemy.orm import Session

from llumi.errors import RateError
from llumi.rate.checks import BOTH
from llumi.rate.database import Database
from llumi.rate.dimensions import REVISION_DIMENSIONS
from llumi.rate.study import find_study
from llumi.rate.tables import Item, Rater, Score, Study, Turn
from llumi.records import CHECK_SCHEMA, CHOICE_SCHEMA, SCALE_SCHEMA

MIN_CHECKS_RIGHT = 0.5
"""Who gives a smaller share of the answers that checks ask for has no vote in pairs; records hold everybody's ratings."""

_FOR_BOTH = {dimension.name for dimension in REVISION_DIMENSIONS}


@dataclass(frozen=True)
class Rated:
    """A page that was sent."""

    study: Study
    turn: Turn
    item: Item
    rater: Rater
    scores: tuple[Score, ...]

    @property
    def named(self) -> dict[str, str]:
        """What every record begins with."""
        return {"study": self.study.name, "rater": self.rater.name, "item": f"{self.item.number:05}"}

    @property
    def seconds(self) -> float:
        """From when the page was shown to when it was sent."""
        return (self.turn.closed_at or self.turn.shown_at) - self.turn.shown_at

    @property
    def vote(self) -> str:
        """The reply that was preferred: a, b or tie."""
        if self.turn.verdict == "tie":
            return "tie"
        return "b" if (self.turn.verdict == "left") == self.turn.swapped else "a"


@dataclass(frozen=True)
class Ratings:
    """The pages of a study that were sent: records by name, and for a study for training its pairs."""

    records: dict[str, pa.Table]
    pairs: list[dict[str, Any]]
    counts: dict[str, int]


def read_ratings(database: Database, name: str) -> Ratings:
    """Everything that raters of a study sent until now. Raises RateError where there is no such study."""
    rated = database.run(lambda session: _rated(session, find_study(session, name)))
    checks = [_check(page) for page in rated if page.turn.kind == "check"]
    real = [page for page in rated if page.turn.kind != "check"]
    records = {
        "scales": pa.Table.from_pylist([row for page in real for row in _scales(page)], SCALE_SCHEMA),
        "choices": pa.Table.from_pylist([_choice(page) for page in real], CHOICE_SCHEMA),
        "checks": pa.Table.from_pylist(checks, CHECK_SCHEMA),
    }
    counts = {kind: table.num_rows for kind, table in records.items()}
    trainable = [page for page in real if page.study.purpose == "training"]
    pairs, left_out = _pairs(trainable, _inattentive(checks))
    return Ratings(records, pairs, counts | {"pairs": len(pairs)} | left_out)


def write_records(ratings: Ratings, folder: Path) -> list[Path]:
    """`scales.parquet`, `choices.parquet` and `checks.parquet`, without any text.

    Raises RateError for a folder that cannot be written to.
    """
    files = [folder / f"{name}.parquet" for name in ratings.records]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, table in zip(files, ratings.records.values(), strict=True):
            pq.write_table(table, file)
    except OSError as error:
        raise RateError(f"{folder}: cannot be written to ({error.strerror}); give another folder") from None
    return files


def write_pairs(ratings: Ratings, name: str, file: Path) -> None:
    """One pair a line, as `llumi pairs add` reads it. Raises RateError where the study has none to give."""
    if not ratings.pairs:
        raise RateError(
            f"study {name}: no pair to give; pairs come of studies created with --purpose training (the posts of others are "
            "held out, and no model may learn from them), and only where raters agree"
        )
    try:
        file.write_bytes(b"".join(orjson.dumps(pair) + b"\n" for pair in ratings.pairs))
    except OSError as error:
        raise RateError(f"{file}: cannot be written ({error.strerror}); give another file") from None


def _rated(session: Session, study: Study) -> list[Rated]:
    """In the order of raters and of their pages."""
    done = select(Turn, Item, Rater).join(Item, Turn.item_id == Item.id).join(Rater, Turn.rater_id == Rater.id)
    in_order = done.where(Item.study_id == study.id, Turn.state == "done").order_by(Rater.number, Turn.position)
    of_study = select(Score).join(Turn, Score.turn_id == Turn.id).join(Item, Turn.item_id == Item.id)
    scores = defaultdict[int, list[Score]](list)
    for score in session.scalars(of_study.where(Item.study_id == study.id)):
        scores[score.turn_id].append(score)
    return [Rated(study, turn, item, rater, tuple(scores[turn.id])) for turn, item, rater in session.execute(in_order)]


def _scales(page: Rated) -> list[dict[str, Any]]:
    arms = {"a": page.item.arm_a, "b": page.item.arm_b}
    named = page.named | {"post_id": page.item.post_id, "is_repeat": page.turn.is_repeat}
    return [named | {"arm": arms[s.reply], "dimension": s.dimension, "score": s.score} for s in page.scores]


def _choice(page: Rated) -> dict[str, Any]:
    arms = (page.item.arm_a, page.item.arm_b)
    left, right = reversed(arms) if page.turn.swapped else arms
    return page.named | {
        "post_id": page.item.post_id,
        "left_arm": left,
        "right_arm": right,
        "verdict": page.turn.verdict,
        "first_shown": left,
        "is_repeat": page.turn.is_repeat,
        "seconds": page.seconds,
    }


def _check(page: Rated) -> dict[str, Any]:
    expected = page.item.expected or {}
    right = [s.score == expected[BOTH if s.dimension in _FOR_BOTH else s.reply] for s in page.scores]
    right.append(page.vote == ("a" if expected["a"] > expected["b"] else "b"))
    return page.named | {"num_asked": len(right), "num_right": sum(right), "seconds": page.seconds}


def _inattentive(checks: Iterable[dict[str, Any]]) -> set[str]:
    asked, right = Counter[str](), Counter[str]()
    for check in checks:
        asked[check["rater"]] += check["num_asked"]
        right[check["rater"]] += check["num_right"]
    return {rater for rater in asked if right[rater] < MIN_CHECKS_RIGHT * asked[rater]}


def _pairs(rated: Iterable[Rated], inattentive: set[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """A pair for each item whose raters have a majority, and what was left out; a repeat is no second vote."""
    votes = defaultdict[int, Counter[str]](Counter)
    pages: dict[int, Rated] = {}
    for page in rated:
        if not page.turn.is_repeat and page.rater.name not in inattentive:
            pages[page.item.number] = page
            votes[page.item.number][page.vote] += 1
    pairs = [_pair(pages[number], vote) for number, vote in sorted(votes.items()) if vote["a"] != vote["b"]]
    return pairs, {"ties": len(votes) - len(pairs), "inattentive_raters": len(inattentive)}


def _pair(page: Rated, votes: Counter[str]) -> dict[str, Any]:
    """A row of `llumi pairs add`.

    Its weight is the margin: the votes for the chosen reply less those for the other, by the number of raters.
    """
    item, num_raters = page.item, votes.total()
    replies = ((item.text_a, item.author_a), (item.text_b, item.author_b))
    chosen, rejected = replies if votes["a"] > votes["b"] else reversed(replies)
    is_revision = page.study.role == "im"
    return {
        "role": page.study.role,
        "post": item.post,
        "draft": item.text_a if is_revision else None,
        "chosen": chosen[0],
        "rejected": rejected[0],
        "weight": abs(votes["a"] - votes["b"]) / num_raters,
        "num_raters": num_raters,
        "agreement": max(votes["a"], votes["b"]) / num_raters,
        "community": item.community,
        "post_id": item.post_id,
        "post_author": item.post_author,
        "draft_author": item.author_a if is_revision else None,
        "chosen_author": chosen[1],
        "rejected_author": rejected[1],
    }
