"""Taking people out of studies: the items that show what they wrote, with every page and score that was given to them.

The whole item goes, since one reply without its post or its counterpart is no comparison, and a score is a statement about
what somebody wrote. What remains of a study is whole: fewer items, each with all that raters said of it.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, delete, func, or_, select
from sqlalchemy.orm import Session

from llumi.config import RateConfig
from llumi.rate.database import Database
from llumi.rate.tables import Item, Score, Study, Turn


@dataclass(frozen=True)
class StudyRows:
    """What is to go: "studies/first" -> how many items, pages and scores. In `without_authors` nobody's name was kept."""

    rows: dict[str, dict[str, int]]
    without_authors: tuple[str, ...] = ()


def look_into_studies(config: RateConfig, posts: Collection[str], authors: Collection[str]) -> StudyRows:
    """Count the items of these posts, and those whose post or one of whose replies is by these authors; all are pseudonyms.

    Where no study was ever created there is nothing, and nothing is made. Raises DatabaseError where nothing answers.
    """
    hit = _hit(posts, authors)
    items = select(Study.name, func.count()).select_from(Item).join(Study, Item.study_id == Study.id)
    pages = items.join(Turn, Turn.item_id == Item.id)
    scores = pages.join(Score, Score.turn_id == Turn.id)
    anonymous = items.where(Item.expected.is_(None)).group_by(Study.name).having(func.count(Item.post_author) == 0)

    def work(session: Session) -> StudyRows:
        rows: dict[str, dict[str, int]] = {}
        for kind, query in {"items": items, "pages": pages, "scores": scores}.items():
            for study, num in _by_study(session, query.where(hit).group_by(Study.name)):
                rows.setdefault(study, {})[kind] = num
        return StudyRows(rows, tuple(study for study, _ in _by_study(session, anonymous)))

    with _found(config) as database:
        return database.run(work) if database else StudyRows({})


def forget_items(config: RateConfig, posts: Collection[str], authors: Collection[str]) -> None:
    """Delete what `look_into_studies` counts, and its bytes from the database's files, also those of a run that died.

    A rater who has such a page open is told that it is gone. Raises DatabaseError where nothing answers, or where others are
    at work for longer than a request waits.
    """
    hit = _hit(posts, authors)
    items = select(Item.id).where(hit)
    turns = select(Turn.id).where(Turn.item_id.in_(items))

    def work(session: Session) -> None:
        session.scalars(select(Study.id).order_by(Study.id).with_for_update()).all()  # no page is dealt out meanwhile
        for table, rows in ((Score, Score.turn_id.in_(turns)), (Turn, Turn.item_id.in_(items)), (Item, hit)):
            session.execute(delete(table).where(rows).execution_options(synchronize_session=False))

    with _found(config) as database:
        if database:
            database.run(work)
            database.compact()


def _hit(posts: Collection[str], authors: Collection[str]) -> ColumnElement[bool]:
    by_authors = (column.in_(authors) for column in (Item.post_author, Item.author_a, Item.author_b))
    return or_(Item.post_id.in_(posts), *by_authors)


def _by_study(session: Session, query: Select[str, int]) -> list[tuple[str, int]]:
    return [(f"studies/{name}", num) for name, num in session.execute(query.order_by(Study.name))]


@contextlib.contextmanager
def _found(config: RateConfig) -> Iterator[Database | None]:
    database = Database.find(config)
    try:
        yield database
    finally:
        if database:
            database.close()
