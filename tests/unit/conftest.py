"""What unit tests share: databases of both kinds, each empty, and what senders need from outside."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tenants.journal.store import JournalStore
from tenants.store.database import Database
from tests.postgres import Postgres
from tests.unit.endpoint_surroundings import around, clock

__all__ = ["around", "clock"]


class OpenJournal(Protocol):
    """Opens a journal; without further words, as the owner that every test begins with."""

    def __call__(self, url: str, incarnation: int = 1, owner: str = "collector-0") -> JournalStore: ...


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database, in which there are no tables yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store' / 'millrace.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_schema()


@pytest.fixture
def open_database() -> Iterator[Callable[[str], Database]]:
    """Return what opens databases; they are closed after the test."""
    opened: list[Database] = []

    def open_one(url: str) -> Database:
        opened.append(Database.open(url))
        return opened[-1]

    yield open_one
    for database in opened:
        database.close()


@pytest.fixture
def database(store_url: str, open_database: Callable[[str], Database]) -> Database:
    return open_database(store_url)


@pytest.fixture
def open_journal() -> Iterator[OpenJournal]:
    """Return what opens journals; they are closed after the test."""
    opened: list[JournalStore] = []

    def open_one(url: str, incarnation: int = 1, owner: str = "collector-0") -> JournalStore:
        opened.append(JournalStore.open(url, owner, incarnation))
        return opened[-1]

    yield open_one
    for journal in opened:
        journal.close()


@pytest.fixture
def journal(store_url: str, open_journal: OpenJournal) -> JournalStore:
    return open_journal(store_url)
