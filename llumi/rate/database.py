"""The database of the rating page: SQLite in a file, or PostgreSQL; what was committed outlives a killed server.

Every piece of work is one transaction. On SQLite it takes the write lock as it begins, so that what it reads is still
true when it writes; on PostgreSQL work that assigns or closes turns locks its study's row.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DatabaseError as SQLDatabaseError
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from llumi.config import RateConfig
from llumi.errors import DatabaseError, RateError
from llumi.rate.tables import Base, Study

Given = TypeVar("Given")
Clock = Callable[[], float]
CONNECTIONS = 8
"""To PostgreSQL. SQLite has one: it writes one transaction at a time, and waiting for a lock of its own costs it naps."""

_NO_BEGIN = "no_begin"
"""The option of a connection to SQLite whose statements are no part of a transaction."""

BUSY_SECONDS = 10.0
"""How long a request waits for its turn before it is refused."""


class Database:
    """The studies of one deployment; `clock` gives seconds since 1970."""

    def __init__(self, engine: Engine, clock: Clock = time.time) -> None:
        self._engine = engine
        self.clock = clock

    @classmethod
    def open(cls, config: RateConfig, *, create: bool = False, clock: Clock = time.time) -> "Database":
        """Connect to `config.database`; with `create` the file and the tables are made where there are none.

        Tables that LLUMI did not have yet when the database was made are added.

        Raises DatabaseError where nothing answers, RateError where no study was ever created there.
        """
        url = _url(config)
        if url.get_backend_name() == "sqlite":
            _check_file(url, create)
        database = cls(_engine(url), clock)
        if not create and not database.holds_studies():
            raise RateError(f"{shown(url)}: holds no study; create one with `llumi rate create`")
        with database._answering():
            Base.metadata.create_all(database._engine)
        return database

    @classmethod
    def find(cls, config: RateConfig) -> "Database | None":
        """The database of `config` where a study was ever created, else None; nothing is made.

        Raises DatabaseError where nothing answers: what it holds is not known then.
        """
        url = _url(config)
        if url.get_backend_name() == "sqlite" and not (url.database and Path(url.database).exists()):
            return None
        database = cls(_engine(url))
        if database.holds_studies():
            return database
        database.close()
        return None

    def holds_studies(self) -> bool:
        """Whether the tables are there."""
        with self._answering():
            return inspect(self._engine).has_table(Study.__tablename__)

    def compact(self) -> None:
        """Write the files anew without what was deleted, whose bytes stay in them until then.

        Raises DatabaseError where others are at work in it for longer than a moment. PostgreSQL's own log and backups are
        beyond reach.
        """
        is_sqlite = self._engine.dialect.name == "sqlite"
        options: dict[str, Any] = {_NO_BEGIN: True} if is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        with self._answering(), self._engine.connect().execution_options(**options) as connection:
            if not is_sqlite:
                for table in Base.metadata.sorted_tables:
                    connection.exec_driver_sql(f"VACUUM FULL {table.name}")
                return
            connection.exec_driver_sql("VACUUM")
            is_busy, _, _ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        if is_busy:
            raise DatabaseError(
                f"{shown(self._engine.url)}: others are at work in it, and its log holds what was deleted; try again"
            )

    def run(self, work: Callable[[Session], Given]) -> Given:
        """Do `work` in one transaction; once this returns it is on disk. Raises DatabaseError where nothing answers."""
        with self._answering(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            return work(session)

    def close(self) -> None:
        """Give every connection back."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            if (
                type(error) is SQLDatabaseError
            ):  # no subclass, which sqlite3 raises for a file that is damaged or of another kind
                raise DatabaseError(f"{shown(self._engine.url)}: no database; restore it, or correct rate.database") from None
            if isinstance(error, DBAPIError) and not isinstance(error, OperationalError) and not error.connection_invalidated:
                raise  # a defect, such as a constraint that no caller foresaw
            # The message of a driver may quote what was written, so that none of it is repeated.
            raise DatabaseError(
                f"{shown(self._engine.url)}: does not answer ({type(error).__name__}); start it, or correct rate.database"
            ) from None


def _url(config: RateConfig) -> URL:
    url = make_url(config.database)
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def anchored(config: RateConfig) -> RateConfig:
    """`config` with the whole path of a SQLite file, for a process that runs in another folder than this one."""
    url = make_url(config.database)
    if url.get_backend_name() != "sqlite" or not url.database:
        return config
    whole = url.set(database=str(Path(url.database).absolute()))
    return config.model_copy(update={"database": whole.render_as_string(hide_password=False)})


def shown(url: URL) -> str:
    """The database as messages name it."""
    return url.render_as_string(hide_password=True)


def _check_file(url: URL, create: bool) -> None:
    if not url.database or url.database == ":memory:":
        raise RateError(f"rate.database {shown(url)}: ratings must outlive the server; name a file, as sqlite:///rate.db")
    file = Path(url.database)
    if not create:
        if not file.exists():
            raise RateError(f"{file}: no such database; create a study with `llumi rate create`, or correct rate.database")
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)  # it holds the posts
    except OSError as error:
        raise RateError(f"{file}: cannot be made ({error.strerror}); correct rate.database") from None


def _engine(url: URL) -> Engine:
    is_sqlite = url.get_backend_name() == "sqlite"
    options: dict[str, Any] = {"timeout": BUSY_SECONDS} if is_sqlite else {"connect_timeout": int(BUSY_SECONDS)}
    try:
        engine = create_engine(
            url,
            connect_args=options,
            pool_size=1 if is_sqlite else CONNECTIONS,
            max_overflow=0,
            pool_timeout=BUSY_SECONDS,
            pool_pre_ping=not is_sqlite,
            hide_parameters=True,
        )
    except (ModuleNotFoundError, NoSuchModuleError):
        raise RateError(f"rate.database {shown(url)}: its driver is not installed; pip install 'llumi[postgresql]'") from None
    if is_sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver begins no transaction of its own: `_begin_sqlite` does
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if not connection.get_execution_options().get(_NO_BEGIN):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
