"""The tables of studies, and of flags. Times are seconds since 1970, so that SQLite and PostgreSQL hold them alike.

The constraints are the last word on what may be stored: no item twice for a rater, no score twice, none out of range.
"""

from typing import Any, ClassVar, Literal

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import Double, String

from llumi.prompts import Role
from llumi.rate.dimensions import MAX_SCORE, MIN_SCORE

Purpose = Literal["evaluation", "training"]
TurnKind = Literal["item", "repeat", "check"]
TurnState = Literal["open", "done", "skipped", "lapsed"]
Reply = Literal["a", "b"]
Verdict = Literal["left", "right", "tie"]
Reason = Literal["harmful", "minimising", "missed_danger", "wrong_fact", "invented", "tone", "other"]


class Base(DeclarativeBase):
    """The tables of the rating page; names of fields say what a column holds."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        float: Double,
        dict[str, Any]: JSON,
        list[str]: JSON,
        Role: String(16),
        Purpose: String(16),
        TurnKind: String(16),
        TurnState: String(16),
        Reply: String(16),
        Verdict: String(16),
        Reason: String(16),
    }


class Study(Base):
    """One study and the rules that it was created with; a later change of the config does not move it."""

    __tablename__ = "studies"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[Role]
    purpose: Mapped[Purpose]
    seed: Mapped[int]
    raters_per_item: Mapped[int]
    pages_per_rater: Mapped[int]
    lease_seconds: Mapped[float]
    check_share: Mapped[float]
    repeat_share: Mapped[float]
    arms: Mapped[list[str]]
    inputs: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class Item(Base):
    """A post with two replies; for a check, made up, with the scores that it asks for in `expected`."""

    __tablename__ = "items"
    __table_args__ = (UniqueConstraint("study_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    number: Mapped[int]
    post_id: Mapped[str]
    post_author: Mapped[str | None]
    community: Mapped[str | None]
    post: Mapped[str]
    arm_a: Mapped[str]
    arm_b: Mapped[str]
    text_a: Mapped[str]
    text_b: Mapped[str]
    author_a: Mapped[str | None]
    author_b: Mapped[str | None]
    expected: Mapped[dict[str, Any] | None]


class Rater(Base):
    """Somebody who was invited; known by a number, never by a name. Only the hash of the invitation is kept."""

    __tablename__ = "raters"
    __table_args__ = (UniqueConstraint("study_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"))
    number: Mapped[int]
    invitation_hash: Mapped[str] = mapped_column(unique=True)
    started_at: Mapped[float | None]
    stopped_at: Mapped[float | None]

    @property
    def name(self) -> str:
        """As exports name the rater."""
        return f"r{self.number:03}"


class SignIn(Base):
    """A browser in which an invitation was opened; only the hash of its cookie is kept."""

    __tablename__ = "sign_ins"

    cookie_hash: Mapped[str] = mapped_column(primary_key=True)
    rater_id: Mapped[int] = mapped_column(ForeignKey("raters.id"))
    expires_at: Mapped[float]


class Turn(Base):
    """An item before a rater: leased, then done or skipped, or lapsed where the place went to somebody else.

    `token` is what the page knows of it. Where `swapped`, the first reply on the page is reply b.
    """

    __tablename__ = "turns"
    __table_args__ = (
        UniqueConstraint("rater_id", "item_id", "is_repeat"),
        UniqueConstraint("rater_id", "position"),
        Index("turns_by_item", "item_id", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(unique=True)
    rater_id: Mapped[int] = mapped_column(ForeignKey("raters.id"))
    item_id: Mapped[int] = mapped_column(ForeignKey("items.id"))
    kind: Mapped[TurnKind]
    is_repeat: Mapped[bool]
    position: Mapped[int]
    swapped: Mapped[bool]
    state: Mapped[TurnState]
    shown_at: Mapped[float]
    lease_until: Mapped[float]
    closed_at: Mapped[float | None]
    verdict: Mapped[Verdict | None]


class Score(Base):
    """One score of a turn; that of a scale for both replies is kept with reply b, IM's revision."""

    __tablename__ = "scores"
    __table_args__ = (CheckConstraint(f"score BETWEEN {MIN_SCORE} AND {MAX_SCORE}"),)

    turn_id: Mapped[int] = mapped_column(ForeignKey("turns.id"), primary_key=True)
    reply: Mapped[Reply] = mapped_column(primary_key=True)
    dimension: Mapped[str] = mapped_column(primary_key=True)
    score: Mapped[int]


class Flag(Base):
    """A suggestion that somebody at the writing page called unsafe, with what it answered: `draft` for a revision.

    `model` is the name and version that the answer named; `key_id` the key that it was asked with, where there are keys.
    """

    __tablename__ = "flags"

    id: Mapped[int] = mapped_column(primary_key=True)
    flagged_at: Mapped[float]
    role: Mapped[Role]
    model: Mapped[str]
    key_id: Mapped[str | None]
    reason: Mapped[Reason | None]
    post: Mapped[str]
    draft: Mapped[str | None]
    suggestion: Mapped[str]
