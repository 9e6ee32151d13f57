"""Which item comes before which rater next.

An item is leased to a rater who opens it, and counts as taken until the lease ends, so that it gets as many raters as the
study wants and no more. Work here runs in one transaction with the study's row locked.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Integer, and_, bindparam, func, or_, select
from sqlalchemy.orm import Session

from llumi.rate.chance import coin, draw, fraction
from llumi.rate.tables import Item, Rater, Study, Turn, TurnKind, TurnState

REPEAT_GAP = 3
"""Pages between an item and its repeat, at least: one that has just been seen would be remembered, not rated."""

CLOSED: tuple[TurnState, ...] = ("done", "skipped")
Closed = Literal["already", "lapsed", "unknown"]
"""Why a form is not taken: answered or skipped before, its place given away, or none of this rater's pages."""

# Statements stand here where every page needs them: building one anew takes longer than running it.
_STUDY = select(Study).where(Study.id == bindparam("study_id")).with_for_update()
_TURNS = select(Turn).where(Turn.rater_id == bindparam("rater_id")).order_by(Turn.position)
_TURN = select(Turn).where(Turn.rater_id == bindparam("rater_id"), Turn.token == bindparam("token"))
_NUM_CLOSED = select(func.count(Turn.id)).where(Turn.rater_id == bindparam("rater_id"), Turn.state.in_(CLOSED))
_LEASED = and_(Turn.state == "open", Turn.lease_until > bindparam("now"))
_HOLDS_A_PLACE = and_(Turn.kind == "item", or_(Turn.state == "done", _LEASED))
"""Turns that count towards the raters of their item."""

_TAKEN = (
    select(Turn.item_id, func.count().label("num"))
    .join(Item)
    .where(Item.study_id == bindparam("study_id"), _HOLDS_A_PLACE)
    .group_by(Turn.item_id)
    .subquery()
)
_NUM_WANTED = bindparam("raters_per_item", type_=Integer)
_NUM_TAKEN = func.coalesce(_TAKEN.c.num, 0)
_WANTING = (
    select(Item.id, Item.number, _NUM_TAKEN)
    .outerjoin(_TAKEN, _TAKEN.c.item_id == Item.id)
    .where(Item.study_id == bindparam("study_id"), Item.expected.is_(None), _NUM_TAKEN < _NUM_WANTED)
)


@dataclass(frozen=True)
class Page:
    """A turn with all that its page shows; `num_closed` pages came before it."""

    study: Study
    item: Item
    turn: Turn
    num_closed: int


def next_page(session: Session, rater: Rater, now: float) -> Page | None:
    """The page that `rater` has open, or a new one; None where there is none left for them."""
    study = _locked_study(session, rater)
    turns = session.scalars(_TURNS, {"rater_id": rater.id}).all()
    shown = [turn for turn in turns if turn.state in CLOSED]
    for turn in turns:
        if turn.state == "open" and _keep_lease(session, study, turn, now):
            return Page(study, session.get_one(Item, turn.item_id), turn, len(shown))
    if len(shown) >= study.pages_per_rater:
        return None
    regular = _regular_item(session, study, rater, turns, now)
    if regular is None:
        return None
    kind, item = _due(session, study, rater, turns) or ("item", regular)
    is_repeat = kind == "repeat"
    turn = Turn(
        token=secrets.token_urlsafe(16),
        rater_id=rater.id,
        item_id=item.id,
        kind=kind,
        is_repeat=is_repeat,
        position=_next_position(turns),
        swapped=coin(study.seed, "side", rater.number, item.number, is_repeat),
        state="open",
        shown_at=now,
        lease_until=now + study.lease_seconds,
    )
    session.add(turn)
    session.flush()
    return Page(study, item, turn, len(shown))


def open_page(session: Session, rater: Rater, token: str, now: float) -> Page | Closed:
    """The page that a form of `rater` came from, its study locked; or why nothing more is taken for it.

    A form that is sent twice finds its page closed the second time.
    """
    study = _locked_study(session, rater)
    turn = session.scalar(_TURN, {"rater_id": rater.id, "token": token})
    if turn is None:
        return "unknown"
    if turn.state in {"done", "skipped"}:
        return "already"
    if turn.state == "lapsed" or not _keep_lease(session, study, turn, now):
        return "lapsed"
    num_closed = session.scalar(_NUM_CLOSED, {"rater_id": rater.id}) or 0
    return Page(study, session.get_one(Item, turn.item_id), turn, num_closed)


def release(session: Session, rater: Rater, now: float) -> None:
    """Let a rater's open lease end, so that somebody else may have the item."""
    _locked_study(session, rater)
    for turn in session.scalars(select(Turn).where(Turn.rater_id == rater.id, Turn.state == "open")):
        turn.lease_until = now


def _locked_study(session: Session, rater: Rater) -> Study:
    return session.scalars(_STUDY, {"study_id": rater.study_id}).one()


def _keep_lease(session: Session, study: Study, turn: Turn, now: float) -> bool:
    """Whether an open turn still has its place: a lease that ended is renewed unless its item has enough raters by now.

    Where it has, the turn lapses.
    """
    if turn.lease_until > now:
        return True
    others = select(func.count(Turn.id)).where(_HOLDS_A_PLACE, Turn.item_id == turn.item_id, Turn.id != turn.id)
    if turn.kind == "item" and (session.scalar(others, {"now": now}) or 0) >= study.raters_per_item:
        turn.state, turn.closed_at = "lapsed", now
        return False
    turn.lease_until = now + study.lease_seconds
    return True


def _regular_item(session: Session, study: Study, rater: Rater, turns: Sequence[Turn], now: float) -> Item | None:
    """The next item that needs a rater and that this one has not seen: the nearest to its number of raters first."""
    wanting = session.execute(_WANTING, {"study_id": study.id, "now": now, "raters_per_item": study.raters_per_item})
    seen = {turn.item_id for turn in turns}
    open_items = [row for row in wanting if row[0] not in seen]
    if not open_items:
        return None
    item_id, _, _ = min(open_items, key=lambda row: (-row[2], draw(study.seed, "order", rater.number, row[1])))
    return session.get_one(Item, item_id)


def _due(session: Session, study: Study, rater: Rater, turns: Sequence[Turn]) -> tuple[TurnKind, Item] | None:
    """A check or a repeat, where one is due by its share of this rater's pages."""
    if _is_due(study, rater, turns, "check", study.check_share):
        seen = {turn.item_id for turn in turns}
        checks = session.scalars(select(Item).where(Item.study_id == study.id, Item.expected.is_not(None)))
        unseen = [item for item in checks if item.id not in seen]
        if unseen:
            return "check", min(unseen, key=lambda item: draw(study.seed, "check", rater.number, item.number))
    if _is_due(study, rater, turns, "repeat", study.repeat_share):
        repeated = {turn.item_id for turn in turns if turn.is_repeat}
        earlier = [turn for turn in turns if turn.position < _next_position(turns) - REPEAT_GAP]
        ready = [t for t in earlier if t.kind == "item" and t.state == "done" and t.item_id not in repeated]
        if ready:
            turn = min(ready, key=lambda turn: draw(study.seed, "repeat", rater.number, turn.position))
            return "repeat", session.get_one(Item, turn.item_id)
    return None


def _next_position(turns: Sequence[Turn]) -> int:
    """Behind the last of a rater's turns, in their order; some before it may have been forgotten."""
    return turns[-1].position + 1 if turns else 0


def _is_due(study: Study, rater: Rater, turns: Sequence[Turn], kind: TurnKind, share: float) -> bool:
    """Exactly `share` of a rater's pages over time, beginning at another place for each rater."""
    phase = fraction(study.seed, kind, rater.number)
    return math.floor((len(turns) + 1) * share + phase) > sum(turn.kind == kind for turn in turns)
