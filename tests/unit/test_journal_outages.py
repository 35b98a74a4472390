"""What ails a database is told with a way to mend it, nothing is half written, and afterwards it goes on."""

import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from tenants.identity.tenant_id import TenantId
from tenants.journal.errors import JournalDamaged
from tenants.journal.store import JournalStore
from tenants.store.errors import StoreUnavailable
from tests.postgres import Postgres
from tests.unit.conftest import OpenJournal

A = TenantId("acme")
RANDOM = random.Random(7)


def set_max_pages(journal: JournalStore, pages: int) -> None:
    """Let the file have so many pages; like a disk that is full, but for this connection, the only one of the pool."""
    with journal._database.write() as connection:
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))


def bodies(journal: JournalStore) -> list[bytes]:
    return [body for _, body in journal.load(A).entries]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """Return a server that no other test uses."""
    with Postgres() as server:
        yield server


class TestSqlite:
    def test_full_disk_is_told_and_nothing_is_half_written(self, path: Path, open_journal: OpenJournal) -> None:
        journal = open_journal(f"sqlite:///{path}")
        journal.append([(A, 1, b"1")])
        set_max_pages(journal, 20)
        large, larger = RANDOM.randbytes(50_000), RANDOM.randbytes(100_000)
        writes: list[Callable[[], None]] = [
            lambda: journal.append([(A, 2, b"2"), (A, 3, large), (A, 4, large)]),
            lambda: journal.checkpoint(A, 1, larger),
        ]
        for write in writes:
            with pytest.raises(StoreUnavailable, match=r"journal\.db: database or disk is full; make room on its disk"):
                write()
        assert bodies(open_journal(f"sqlite:///{path}")) == [b"1"]
        set_max_pages(journal, 1000)
        for write in writes:
            write()
        assert journal.load(A) == ((1, larger), [(2, b"2"), (3, large), (4, large)])

    def test_checkpoint_gives_its_room_back(self, path: Path, open_journal: OpenJournal) -> None:
        journal = open_journal(f"sqlite:///{path}")
        set_max_pages(journal, 300)
        large = RANDOM.randbytes(100_000)
        for position in range(1, 40):
            journal.append([(A, position, large)])
            if position % 5 == 0:
                journal.checkpoint(A, position, b"state")
        assert path.stat().st_size <= 300 * 4096

    def test_file_that_may_not_be_written_is_told(self, path: Path, open_journal: OpenJournal) -> None:
        journal = open_journal(f"sqlite:///{path}")
        with journal._database.read() as connection:
            connection.execute(text("PRAGMA query_only = ON"))
        with pytest.raises(StoreUnavailable, match=r"readonly database; make it, its directory and its disk writable"):
            journal.append([(A, 1, b"1")])
        with journal._database.read() as connection:
            connection.execute(text("PRAGMA query_only = OFF"))
        journal.append([(A, 1, b"1")])

    def test_lock_of_somebody_else_is_told(
        self, path: Path, open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tenants.store.database._SQLITE_BUSY_MS", 10)
        journal = open_journal(f"sqlite:///{path}")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"database is locked; it goes on by itself"):
            journal.append([(A, 1, b"1")])
        other.execute("ROLLBACK")
        other.close()
        journal.append([(A, 1, b"1")])

    def test_place_where_nothing_can_be_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StoreUnavailable, match=r"file.*place to write to"):
            JournalStore.open(f"sqlite:///{tmp_path / 'file' / 'journal.db'}", "collector-0", 1)
        (tmp_path / "journal.db").mkdir()
        with pytest.raises(StoreUnavailable, match=r"unable to open database file; make it"):
            JournalStore.open(f"sqlite:///{tmp_path / 'journal.db'}", "collector-0", 1)

    def test_file_that_is_no_database_is_damage(self, path: Path) -> None:
        path.write_text("no database " * 1000)
        with pytest.raises(
            JournalDamaged, match=r"the journal is damaged: .*journal\.db: file is not a database; .*restore"
        ) as damaged:
            JournalStore.open(f"sqlite:///{path}", "collector-0", 1)
        assert (damaged.value.tenant, damaged.value.position) == (None, None)

    @pytest.mark.parametrize("kept", [1, 10, 100])
    def test_file_that_was_cut_off_never_begins_anew(self, path: Path, open_journal: OpenJournal, kept: int) -> None:
        self._filled(path)
        with path.open("r+b") as file:
            file.truncate(kept * 4096)
        with pytest.raises(JournalDamaged, match="restore the database from a backup"):
            open_journal(f"sqlite:///{path}").load(A)

    @pytest.mark.parametrize("seed", range(20))
    def test_page_that_was_overwritten_is_found_or_was_not_in_use(
        self, path: Path, open_journal: OpenJournal, seed: int
    ) -> None:
        expected = self._filled(path)
        chance = random.Random(seed)
        page = chance.randrange(path.stat().st_size // 4096)
        with path.open("r+b") as file:
            file.seek(page * 4096)
            file.write(chance.randbytes(4096))
        try:
            loaded = open_journal(f"sqlite:///{path}").load(A)
        except JournalDamaged:
            return
        assert loaded == expected

    @staticmethod
    def _filled(path: Path) -> object:
        """Write a journal of 200 entries and a checkpoint, and return what has to be loaded."""
        journal = JournalStore.open(f"sqlite:///{path}", "collector-0", 1)
        journal.append([(A, position, RANDOM.randbytes(3000)) for position in range(1, 201)])
        journal.checkpoint(A, 20, RANDOM.randbytes(100_000))
        loaded = journal.load(A)
        journal.close()
        # Nothing beside the file: what is in it is all there is.
        assert [one.name for one in path.parent.iterdir()] == [path.name]
        return loaded


class TestPostgres:
    def test_that_was_stopped_and_started_again_goes_on(
        self, own_postgres: Postgres, open_journal: OpenJournal
    ) -> None:
        journal = open_journal(own_postgres.new_database())
        journal.append([(A, 1, b"1")])
        own_postgres.halt()
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"test_1 on 127\.0\.0\.1: .*; see that the server runs") as away:
                journal.append([(A, 2, b"2")])
            assert own_postgres.password not in str(away.value)
        own_postgres.resume()
        journal.append([(A, 2, b"2")])
        assert bodies(journal) == [b"1", b"2"]

    def test_that_closed_the_connection_goes_on(self, postgres: Postgres, open_journal: OpenJournal) -> None:
        url = postgres.new_database()
        journal = open_journal(url)
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        journal.append([(A, 1, b"1")])

    def test_that_refuses_changes_is_told(self, postgres: Postgres, open_journal: OpenJournal) -> None:
        url = postgres.new_database()
        journal = open_journal(url)
        database = url.rpartition("/")[2]
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
            other.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with pytest.raises(StoreUnavailable, match=r"read-only transaction; name the primary server"):
            journal.append([(A, 1, b"1")])

    def test_lock_of_somebody_else_is_told(
        self, postgres: Postgres, open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "tenants.store.database._POSTGRESQL_TIMEOUTS", "SELECT set_config('lock_timeout', '10ms', true)"
        )
        url = postgres.new_database()
        journal = open_journal(url)
        with psycopg.connect(url) as other:
            other.execute("SELECT * FROM journal_owner FOR UPDATE")
            with pytest.raises(StoreUnavailable, match=r"lock timeout; it goes on by itself"):
                journal.append([(A, 1, b"1")])
        journal.append([(A, 1, b"1")])
