"""Studies and their raters: created, invited, looked up, and how far they have come."""

import re
from collections import Counter
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from llumi.config import ARTIFACT_NAME, RateConfig
from llumi.errors import RateError
from llumi.rate.checks import make_checks
from llumi.rate.database import Database
from llumi.rate.draw import Drawn
from llumi.rate.sessions import hashed, new_token
from llumi.rate.tables import Item, Rater, Study, Turn


def create_study(database: Database, config: RateConfig, name: str, drawn: Drawn) -> None:
    """Keep the items and their checks under the rules of `config`; raises RateError for a name that is taken, or none."""
    if not re.fullmatch(ARTIFACT_NAME, name):
        raise RateError(f"study {name!r}: not a name; take lower-case letters, digits, dots and dashes, such as first")
    study = Study(
        name=name,
        role=drawn.role,
        purpose=drawn.purpose,
        arms=drawn.arms,
        inputs=drawn.inputs,
        created_at=database.clock(),
        **config.model_dump(
            include={"seed", "raters_per_item", "pages_per_rater", "lease_seconds", "check_share", "repeat_share"}
        ),
    )

    def keep(session: Session) -> None:
        if session.scalar(select(Study.id).where(Study.name == name)) is not None:
            raise RateError(f"study {name}: stands already; take another name, since its ratings belong to its own items")
        session.add(study)
        session.flush()
        items = [*drawn.items, *make_checks(drawn.role, config.seed, len(drawn.items))]
        for item in items:
            item.study_id = study.id
        session.add_all(items)

    database.run(keep)


def find_study(session: Session, name: str) -> Study:
    """The study called `name`, locked for this transaction; raises RateError, naming those there are."""
    study = session.scalar(select(Study).where(Study.name == name).with_for_update())
    if study is None:
        there = ", ".join(session.scalars(select(Study.name).order_by(Study.name))) or "none yet"
        raise RateError(f"study {name}: no such study; there are: {there}")
    return study


def invite(database: Database, name: str, num_raters: int) -> dict[str, str]:
    """Add raters to a study: the token of each one's link by the rater's name. Tokens are told once, and kept as hashes."""

    def add(session: Session) -> dict[str, str]:
        study = find_study(session, name)
        last = session.scalar(select(func.max(Rater.number)).where(Rater.study_id == study.id)) or 0
        tokens = {}
        for number in range(last + 1, last + 1 + num_raters):
            token = new_token()
            rater = Rater(study_id=study.id, number=number, invitation_hash=hashed(token))
            session.add(rater)
            tokens[rater.name] = token
        return tokens

    return database.run(add)


def status(database: Database, name: str | None = None) -> dict[str, dict[str, Any]]:
    """Figures of one study, or of all by name."""

    def count(session: Session) -> dict[str, dict[str, Any]]:
        studies = [find_study(session, name)] if name else session.scalars(select(Study).order_by(Study.name)).all()
        return {study.name: _figures(session, study, database.clock()) for study in studies}

    return database.run(count)


def _figures(session: Session, study: Study, now: float) -> dict[str, Any]:
    is_real = (Item.study_id == study.id, Item.expected.is_(None))
    num_items = session.scalar(select(func.count()).where(*is_real)) or 0
    done = select(Turn.item_id, func.count().label("num")).where(Turn.kind == "item", Turn.state == "done")
    per_item = done.join(Item).where(*is_real).group_by(Turn.item_id).subquery()
    by_num = {num: items for num, items in session.execute(select(per_item.c.num, func.count()).group_by(per_item.c.num))}
    turns = Counter[str]()
    of_study = select(Turn.kind, Turn.state, Turn.lease_until > now, func.count()).join(Item).where(Item.study_id == study.id)
    for kind, state, is_leased, num in session.execute(of_study.group_by(Turn.kind, Turn.state, Turn.lease_until > now)):
        turns["skipped" if state == "skipped" else f"{kind}s" if state == "done" else "open"] += (
            num if state != "lapsed" and (state != "open" or is_leased) else 0
        )
    raters = select(func.count(Rater.id), func.count(Rater.started_at), func.count(Rater.stopped_at))
    invited, started, stopped = session.execute(raters.where(Rater.study_id == study.id)).one()
    wanted = num_items * study.raters_per_item
    return {
        "role": study.role,
        "purpose": study.purpose,
        "arms": study.arms,
        "items": {"all": num_items, "complete": by_num.get(study.raters_per_item, 0), "raters_per_item": study.raters_per_item},
        "ratings": {"wanted": wanted, "given": turns["items"], "missing": wanted - turns["items"]},
        "pages": {"repeats": turns["repeats"], "checks": turns["checks"], "skipped": turns["skipped"], "open": turns["open"]},
        "raters": {"invited": invited, "started": started, "stopped": stopped},
    }
