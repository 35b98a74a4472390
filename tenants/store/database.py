"""The database: how it is opened, and the two kinds of transactions on it.

SQLite in a file of its own, or PostgreSQL. Transactions are short and every wait in them has an end: one that hangs
would take a thread of its caller with it.
"""

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tenants.store import schema
from tenants.store.advice import advice, is_damage
from tenants.store.errors import StoreDamaged, StoreUnavailable, StoreUrlError

_POOL: Final = {"pool_size": 5, "max_overflow": 10, "pool_timeout": 10.0}

_SQLITE_BUSY_MS: Final = 10_000

_WRITES: Final = "millrace_writes"
"""Execution option of the connections of :meth:`Database.write`."""

# A connection that died without a word is noticed within 25 s; one that hangs inside a transaction gives up its locks.
_POSTGRESQL_CONNECT: Final = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
    "application_name": "millrace",
}
# For each transaction, not each connection: poolers between us and the server give a connection to many.
_POSTGRESQL_TIMEOUTS: Final = (
    "SELECT set_config('lock_timeout', '10s', true), set_config('statement_timeout', '20s', true), "
    "set_config('idle_in_transaction_session_timeout', '20s', true)"
)

# Faults of our own statements or values; everything else that a driver raises comes from the surroundings.
_BUGS: Final = (IntegrityError, ProgrammingError, DataError, NotSupportedError)


class Database:
    """An open database with all tables. May be used from several threads.

    Attributes:
        place: the file, or database and host, for messages; no secret.
    """

    def __init__(self, reading: Engine, writing: Engine) -> None:
        self.place = _place(writing)
        self._reading = reading
        self._writing = writing

    @classmethod
    def open(cls, url: str, migrate: Callable[[Connection], None] = schema.migrate) -> Self:
        """Open a database and bring its tables up to date; several processes may do so at once. Blocks.

        Args:
            url: ``sqlite:////absolute/path`` (a missing directory is made, 0700; the file is 0600) or
                ``postgresql://user:password@host/database``, with libpq's options such as ``?sslmode=verify-full``.
            migrate: makes and changes the tables, in a transaction that writes.

        Raises:
            StoreUrlError: neither of these.
            SchemaTooNewError: a newer version was here.
            StoreDamaged: the file is empty.
            StoreUnavailable: it cannot be reached, or not be written to.
        """
        parsed = _parse(url)
        try:
            engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)
        except OSError as error:
            raise StoreUnavailable(f"{error.filename}: {error.strerror}; make it a place to write to") from error
        writes: dict[str, Any] = {_WRITES: True}
        reads: dict[str, Any] = {}
        if engine.dialect.name == "postgresql":
            # Writes wait for each other by locks, and have to see what the one before has committed.
            writes["isolation_level"] = "READ COMMITTED"
            reads.update(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        database = cls(engine.execution_options(**reads), engine.execution_options(**writes))
        try:
            with database.write() as connection:
                migrate(connection)
        except SQLAlchemyError as error:
            database.close()
            raise _unavailable(error, engine) from error
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Close all connections; nothing may be asked of it any more. Can be repeated."""
        # Both engines have the same pool.
        self._writing.dispose()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that sees one state of the database, whatever others commit, and changes nothing.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with _transaction(self._reading) as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction; it is committed at the end, and rolled back if anything is raised.

        In SQLite it is alone from the start. In PostgreSQL it is from where it takes a number
        (:func:`~tenants.store.change_counter.next_number`), among those of the same feed; compare after that.

        Raises:
            StoreUnavailable: the database does not answer; what was written may be there or not.
        """
        with _transaction(self._writing) as connection:
            yield connection


@contextlib.contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    try:
        with engine.begin() as connection:
            yield connection
    except _BUGS:
        raise
    except (DBAPIError, PoolTimeoutError) as error:
        raise _unavailable(error, engine) from error


def _unavailable(error: SQLAlchemyError, engine: Engine) -> StoreUnavailable:
    """Return what the driver said; never statements, values or details, which may hold what is stored."""
    cause = (error.orig if isinstance(error, DBAPIError) else None) or error
    said = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    problem = "; ".join(filter(None, [f"{_place(engine)}: {said}", advice(cause)]))
    return StoreDamaged(problem) if is_damage(cause) else StoreUnavailable(problem)


def _place(engine: Engine) -> str:
    url = engine.url
    return str(url.database) if engine.dialect.name == "sqlite" else f"{url.database} on {url.host}"


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StoreUrlError(
            "the URL of the store cannot be read; write postgresql://user:password@host/database, special characters "
            "in the password as %XX, or sqlite:////absolute/path"
        ) from None
    match parsed.drivername:
        case "sqlite" if parsed.database and parsed.database.startswith("/"):
            return parsed
        case "sqlite":
            raise StoreUrlError("an SQLite store is an absolute path: sqlite:////var/lib/millrace/millrace.db")
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise StoreUrlError(f"the store cannot be {other[:40]!a}; use postgresql:// or sqlite:///")


def _sqlite(url: URL) -> Engine:
    path = Path(url.database or "")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_file(path)
    # SQLite gives the files beside it the same mode.
    path.chmod(0o600)
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _SQLITE_BUSY_MS / 1000}, **_POOL)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        # Otherwise the driver begins transactions by itself, and too late for one to be alone.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_mode = WAL")
        # A change that was answered is there after a power failure.
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if _is_writing(connection) else "BEGIN")

    return engine


def _make_file(path: Path) -> None:
    """Make the file of a database unless there is one; an empty one is no database, but what is left of one.

    It appears with its first page in it, so that it is never empty. An existing file is not opened: closing it again
    would release the locks that other connections of this process have.

    Raises:
        StoreDamaged: the file is empty.
        StoreUnavailable: it cannot be made.
    """
    if not path.exists():
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        try:
            with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        except sqlite3.Error as error:
            raise StoreUnavailable("; ".join(filter(None, [f"{path}: {error}", advice(error)]))) from error
        finally:
            Path(draft).unlink()
    if not path.stat().st_size:
        raise StoreDamaged(
            f"{path}: the file is empty, so it has lost what was in it; restore it from a backup, or delete it to "
            "begin with nothing"
        )


def _postgresql(url: URL) -> Engine:
    options: dict[str, Any] = {key: value for key, value in _POSTGRESQL_CONNECT.items() if key not in url.query}
    # A statement that was prepared on one connection of a pooler is not known to the next.
    options["prepare_threshold"] = None
    engine = create_engine(url, hide_parameters=True, connect_args=options, pool_pre_ping=True, **_POOL)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(_POSTGRESQL_TIMEOUTS)

    return engine


def _is_writing(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(_WRITES))
