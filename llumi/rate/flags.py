"""Flags from the writing page: suggestions that somebody called unsafe, kept for whoever has to act on them."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from sqlalchemy import delete, inspect, select
from sqlalchemy.orm import Session

from llumi.config import RateConfig
from llumi.errors import RateError
from llumi.rate.database import Database
from llumi.rate.tables import Flag

NO_REASON = "none given"

TEXTS = ("post", "draft", "suggestion")
_NO_CHARACTER = {0: "\N{REPLACEMENT CHARACTER}"}
"""PostgreSQL holds no NUL in a text. Nobody can see one, or take it out: an alarm is not to be refused for it."""


class FlagBox:
    """Keeps flags in `rate.database`, which is opened, and made where there is none, once the first flag comes."""

    def __init__(self, config: RateConfig) -> None:
        self._config = config

    def keep(self, flag: Flag) -> int:
        """Store a flag, dated now; its number, once it is on disk. Raises RateError or DatabaseError where it is not kept.

        A NUL character in a text is kept as the sign for one that cannot be shown.
        """
        for name in TEXTS:
            if text := getattr(flag, name):
                setattr(flag, name, text.translate(_NO_CHARACTER))

        def add(session: Session) -> int:
            flag.flagged_at = self._database.clock()
            session.add(flag)
            session.flush()
            return flag.id

        return self._database.run(add)

    @cached_property
    def _database(self) -> Database:
        return Database.open(self._config, create=True)


def list_flags(database: Database) -> list[dict[str, Any]]:
    """Every flag with its texts, the oldest first."""

    def read(session: Session) -> list[dict[str, Any]]:
        columns = [column.key for column in inspect(Flag).columns]
        flags = session.scalars(select(Flag).order_by(Flag.id))
        return [
            {column: getattr(flag, column) for column in columns}
            | {"flagged_at": datetime.fromtimestamp(flag.flagged_at, UTC).isoformat(timespec="seconds")}
            for flag in flags
        ]

    return database.run(read)


def count_flags(flags: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many there are, by reason and by model, without any text."""
    return {
        "flags": len(flags),
        "newest": flags[-1]["flagged_at"] if flags else None,
        "reason": dict(Counter(flag["reason"] or NO_REASON for flag in flags).most_common()),
        "model": dict(Counter(flag["model"] for flag in flags).most_common()),
    }


def remove_flag(database: Database, number: int) -> None:
    """Delete a flag with its texts; raises RateError where no flag has this number."""
    if remove_flags(database, [number]) == 0:
        raise RateError(f"flag {number}: no such flag; `llumi rate flags --json` lists them with their id")


def remove_flags(database: Database, numbers: Collection[int]) -> int:
    """Delete flags, and their bytes from the database's files; how many there were. Raises DatabaseError as `compact`."""
    removed = database.run(lambda session: session.scalars(delete(Flag).where(Flag.id.in_(numbers)).returning(Flag.id)).all())
    if removed:
        database.compact()
    return len(removed)
