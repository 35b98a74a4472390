"""Databases for the tests of ``tenants.store``: each of them is empty, and every test runs on both kinds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenants.store.database import Database
from tests.postgres import Postgres


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
    return server.new_database()


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
