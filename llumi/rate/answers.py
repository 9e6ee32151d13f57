"""What a rater sends: read from a form, checked as a whole, and kept once, however often it is sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from sqlalchemy import insert
from sqlalchemy.orm import Session

from llumi.prompts import Role
from llumi.rate.dimensions import REPLY_DIMENSIONS, SCORES, pair_dimensions
from llumi.rate.tables import Reply, Score, Turn, Verdict
from llumi.rate.turns import Page

PLACES = ("first", "second")
VERDICT = "verdict"


@dataclass(frozen=True)
class Answers:
    """A whole page: a score for each field of `fields_of`, and which reply was preferred (left is the first one)."""

    scores: Mapping[str, int]
    verdict: Verdict


def fields_of(role: Role) -> dict[str, str]:
    """The names of a page's scales in its form, and what each is called in a sentence."""
    of_replies = {f"{place}-{d.name}": f"{d.label} of the {place} reply" for place in PLACES for d in REPLY_DIMENSIONS}
    return of_replies | {f"both-{d.name}": d.label for d in pair_dimensions(role)}


def read_answers(role: Role, form: Mapping[str, str]) -> Answers | dict[str, str]:
    """The answers, or one sentence for each field that is missing or none of what there is to choose."""
    given = {str(score): score for score in SCORES}
    problems = {
        field: f"{label}: please choose a number from {SCORES[0]} to {SCORES[-1]}."
        for field, label in fields_of(role).items()
        if form.get(field) not in given
    }
    verdict = next((known for known in get_args(Verdict) if known == form.get(VERDICT)), None)
    if verdict is None:
        problems[VERDICT] = "Please choose one of the replies, or that there is no difference."
    if problems or verdict is None:
        return problems
    return Answers({field: given[form[field]] for field in fields_of(role)}, verdict)


def submit(session: Session, page: Page, answers: Answers, now: float) -> None:
    """Keep the answers of an open page; its study is locked, so that nobody else closes it meanwhile."""
    turn = page.turn
    turn.state, turn.closed_at, turn.verdict = "done", now, answers.verdict
    rows = []
    for field, score in answers.scores.items():
        place, dimension = field.split("-", 1)
        rows.append({"turn_id": turn.id, "reply": _reply(place, turn), "dimension": dimension, "score": score})
    session.execute(insert(Score), rows)


def skip(page: Page, now: float) -> None:
    """Close an open page without answers; its place goes to somebody else, and the rater does not meet the item again."""
    page.turn.state, page.turn.closed_at = "skipped", now


def _reply(place: str, turn: Turn) -> Reply:
    """Which reply stood in a place of the page; a scale for both is kept with b."""
    if place == "both":
        return "b"
    return "b" if (place == "first") == turn.swapped else "a"
