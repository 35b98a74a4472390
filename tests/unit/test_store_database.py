import contextlib
import pickle
import sqlite3
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import inspect, text

from cluster.demo.ports import free_port
from tenants.store import schema
from tenants.store.database import Database
from tenants.store.documents import DocumentStore
from tenants.store.errors import (
    RevisionConflict,
    SchemaTooNewError,
    StoreDamaged,
    StoreError,
    StoreUnavailable,
    StoreUrlError,
    TokenExistsError,
    UnreadableTenantError,
)
from tests.postgres import Postgres

OpenDatabase = Callable[[str], Database]


def execute(database: Database, statement: str) -> None:
    with database.write() as connection:
        connection.execute(text(statement))


def test_what_is_stored_is_there_after_opening_again(store_url: str, open_database: OpenDatabase) -> None:
    first = open_database(store_url)
    DocumentStore(first).put("acme", {"a": 1}, 0, "me", 5)
    first.close()
    again = DocumentStore(open_database(store_url)).get("acme")
    assert again is not None
    assert again.revision == 1


def test_database_can_be_closed_twice(database: Database) -> None:
    database.close()
    database.close()


def test_tables_are_those_that_the_steps_make(database: Database) -> None:
    with database.read() as connection:
        there = inspect(connection)
        columns = {table: {column["name"] for column in there.get_columns(table)} for table in there.get_table_names()}
    declared = schema.SCHEMA_VERSION.metadata.tables.values()
    assert columns == {table.name: set(table.columns.keys()) for table in declared}


def test_texts_are_ordered_by_bytes_whatever_the_locale(postgres: Postgres, open_database: OpenDatabase) -> None:
    with open_database(postgres.new_database()).read() as connection:
        query = (
            "SELECT DISTINCT collation_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND data_type = 'text'"
        )
        assert connection.execute(text(query)).scalars().all() == ["C"]


def test_many_open_an_empty_database_at_once(store_url: str, open_database: OpenDatabase) -> None:
    workers = 8
    together = threading.Barrier(workers)

    def open_together(_: int) -> Database:
        together.wait()
        return open_database(store_url)

    with ThreadPoolExecutor(workers) as pool:
        databases = list(pool.map(open_together, range(workers)))
    for number, database in enumerate(databases):
        assert DocumentStore(database).put("acme", {}, number, "me", 0).revision == number + 1


def test_schema_of_a_newer_version_is_refused_and_left_alone(store_url: str, open_database: OpenDatabase) -> None:
    newer = len(schema.STEPS) + 1
    execute(open_database(store_url), f"UPDATE schema_version SET version = {newer}")
    with pytest.raises(SchemaTooNewError, match=rf"schema {newer}.*up to {newer - 1}") as refused:
        Database.open(store_url)
    assert (refused.value.found, refused.value.known) == (newer, newer - 1)


def test_steps_that_are_missing_are_taken(
    store_url: str, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    DocumentStore(open_database(store_url)).put("acme", {}, 0, "me", 0)
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, ("ALTER TABLE tokens ADD COLUMN colour {text}",)))
    for _ in range(2):
        with open_database(store_url).read() as connection:
            assert "colour" in {column["name"] for column in inspect(connection).get_columns("tokens")}
            assert connection.execute(text("SELECT version FROM schema_version")).scalars().all() == [len(schema.STEPS)]
            assert connection.execute(text("SELECT tenant FROM documents")).scalars().all() == ["acme"]


def test_step_that_fails_leaves_nothing_behind(
    store_url: str, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (("CREATE TABLE added (a BIGINT)", "CREATE TABLE added (a BIGINT)"),)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", (*schema.STEPS, *steps))
        with pytest.raises(StoreUnavailable, match="already exists"):
            Database.open(store_url)
    with open_database(store_url).read() as connection:
        assert "added" not in inspect(connection).get_table_names()


def test_transaction_that_fails_changes_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            connection.execute(text("UPDATE change_counters SET value = 7"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with database.read() as connection:
        assert connection.execute(text("SELECT max(value) FROM change_counters")).scalar_one() == 0


def test_reader_sees_one_state_and_writers_do_not_wait_for_it(database: Database) -> None:
    documents = DocumentStore(database)
    with database.read() as connection:
        count = text("SELECT count(*) FROM documents")
        assert connection.execute(count).scalar_one() == 0
        documents.put("acme", {}, 0, "me", 0)
        assert connection.execute(count).scalar_one() == 0
    assert len(documents.all()) == 1


@pytest.mark.parametrize("stored", ["a\0b", "a\ud800b"])
def test_text_that_no_database_takes_is_replaced_and_finds_nothing(database: Database, stored: str) -> None:
    documents = DocumentStore(database)
    assert documents.get(stored) is None
    documents.put("acme", {"key\0\ud800": "value\0\ud800"}, 0, stored, 0)
    (kept,) = documents.history("acme")
    assert (kept.author, kept.document) == ("a\N{REPLACEMENT CHARACTER}b", {"key\0\ud800": "value\0\ud800"})


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "match"),
        [
            ("mysql://me:hidden@host/store", "cannot be 'mysql'"),
            ("postgresql+asyncpg://me:hidden@host/store", "cannot be 'postgresql\\+asyncpg'"),
            ("hidden", "cannot be read"),
            ("", "cannot be read"),
            ("postgresql://me:hidden@host:port/store", "cannot be read"),
            ("sqlite://", "absolute path"),
            ("sqlite:///:memory:", "absolute path"),
            ("sqlite:///relative.db", "absolute path"),
        ],
    )
    def test_that_cannot_be_used_is_refused_without_its_password(self, url: str, match: str) -> None:
        with pytest.raises(StoreUrlError, match=match) as refused:
            Database.open(url)
        assert "hidden" not in str(refused.value)

    @pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
    def test_of_postgresql_may_be_written_in_three_ways(
        self, postgres: Postgres, scheme: str, open_database: OpenDatabase
    ) -> None:
        open_database(postgres.new_database().replace("postgresql", scheme, 1))

    def test_may_have_options_of_the_driver(self, postgres: Postgres, open_database: OpenDatabase) -> None:
        url = postgres.new_database() + "?application_name=other&connect_timeout=7"
        with open_database(url).read() as connection:
            assert connection.execute(text("SHOW application_name")).scalar_one() == "other"


class TestSqliteFile:
    def test_is_for_its_owner_alone_and_so_is_a_directory_that_is_made(
        self, tmp_path: Path, open_database: OpenDatabase
    ) -> None:
        path = tmp_path / "new" / "store" / "millrace.db"
        database = open_database(f"sqlite:///{path}")
        DocumentStore(database).put("acme", {}, 0, "me", 0)
        modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}
        assert modes == dict.fromkeys(("millrace.db", "millrace.db-wal", "millrace.db-shm"), 0o600)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    def test_that_others_could_read_is_closed_to_them(self, tmp_path: Path, open_database: OpenDatabase) -> None:
        path = tmp_path / "millrace.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        path.chmod(0o644)
        open_database(f"sqlite:///{path}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_survives_power_failures_and_checks_references(self, tmp_path: Path, open_database: OpenDatabase) -> None:
        database = open_database(f"sqlite:///{tmp_path / 'millrace.db'}")
        for transaction in (database.read, database.write):
            with transaction() as connection:
                pragmas = {
                    name: connection.execute(text(f"PRAGMA {name}")).scalar_one()
                    for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
                }
            assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}

    def test_that_is_no_database_is_named_a_problem(self, tmp_path: Path) -> None:
        path = tmp_path / "millrace.db"
        path.write_text("no database " * 100)
        with pytest.raises(StoreUnavailable, match="file is not a database"):
            Database.open(f"sqlite:///{path}")

    def test_that_is_empty_is_not_taken_for_a_new_one(self, tmp_path: Path, open_database: OpenDatabase) -> None:
        path = tmp_path / "millrace.db"
        url = f"sqlite:///{path}"
        open_database(url).close()
        assert path.stat().st_size > 0
        path.write_bytes(b"")
        with pytest.raises(StoreDamaged, match=r"millrace\.db: the file is empty.*backup.*delete it"):
            Database.open(url)
        assert [found.name for found in tmp_path.iterdir()] == ["millrace.db"]
        path.unlink()
        open_database(url)

    def test_below_something_that_is_no_directory_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreUnavailable, match=r"file.*place to write to"):
            Database.open(f"sqlite:///{tmp_path / 'file' / 'millrace.db'}")

    def test_held_for_too_long_by_somebody_else_is_unavailable(
        self, tmp_path: Path, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tenants.store.database._SQLITE_BUSY_MS", 10)
        path = tmp_path / "millrace.db"
        documents = DocumentStore(open_database(f"sqlite:///{path}"))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="database is locked"):
            documents.put("acme", {}, 0, "me", 0)
        assert documents.all() == []
        other.execute("ROLLBACK")
        other.close()
        assert documents.put("acme", {}, 0, "me", 0).revision == 1


class TestPostgres:
    def test_with_another_password_is_unavailable_and_says_so_without_it(self, postgres: Postgres) -> None:
        with pytest.raises(StoreUnavailable, match="password authentication failed") as refused:
            Database.open(postgres.url("postgres", "hidden"))
        assert "hidden" not in str(refused.value)

    def test_that_is_not_there_is_unavailable(self) -> None:
        with pytest.raises(StoreUnavailable, match="refused"):
            Database.open(f"postgresql://me:hidden@127.0.0.1:{free_port()}/store")

    def test_that_closed_its_connections_is_asked_again(self, postgres: Postgres, open_database: OpenDatabase) -> None:
        url = postgres.new_database()
        documents = DocumentStore(open_database(url))
        documents.put("acme", {}, 0, "me", 0)
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert documents.put("acme", {}, 1, "me", 0).revision == 2

    def test_that_goes_away_in_a_transaction_is_unavailable(
        self, postgres: Postgres, open_database: OpenDatabase
    ) -> None:
        database = open_database(postgres.new_database())
        with pytest.raises(StoreUnavailable, match="terminat"), database.write() as connection:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid(), 5000)"))

    def test_held_for_too_long_by_somebody_else_is_unavailable(
        self, postgres: Postgres, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "tenants.store.database._POSTGRESQL_TIMEOUTS", "SELECT set_config('lock_timeout', '10ms', true)"
        )
        url = postgres.new_database()
        documents = DocumentStore(open_database(url))
        with psycopg.connect(url) as other:
            other.execute("SELECT * FROM change_counters FOR UPDATE")
            with pytest.raises(StoreUnavailable, match="lock timeout"):
                documents.put("acme", {}, 0, "me", 0)
        assert documents.put("acme", {}, 0, "me", 0).revision == 1

    def test_every_transaction_has_an_end(self, postgres: Postgres, open_database: OpenDatabase) -> None:
        database = open_database(postgres.new_database())
        for transaction in (database.read, database.write):
            with transaction() as connection:
                for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
                    assert connection.execute(text(f"SHOW {name}")).scalar_one() in {"10s", "20s"}


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailable("gone"),
        RevisionConflict(3),
        StoreUrlError("no"),
        SchemaTooNewError(3, 2),
        TokenExistsError("abc"),
        UnreadableTenantError("acme", 2, "is not JSON"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: StoreError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
