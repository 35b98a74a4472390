import sqlite3

import psycopg
import pytest

from tenants.store.advice import advice, is_damage


def sqlite_error(code: int | None) -> sqlite3.Error:
    error = sqlite3.OperationalError("words")
    if code is not None:
        error.sqlite_errorcode = code
    return error


class PostgresError(psycopg.OperationalError):
    """As the driver makes them, with the server's code."""

    def __init__(self, state: str | None) -> None:
        super().__init__("words")
        self.sqlstate = state


@pytest.mark.parametrize(
    ("error", "expected", "damage"),
    [
        (sqlite_error(sqlite3.SQLITE_FULL), "make room", False),
        (sqlite_error(sqlite3.SQLITE_IOERR_FSYNC), "look at its disk", False),
        (sqlite_error(sqlite3.SQLITE_READONLY_DBMOVED), "writable", False),
        (sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), "goes on by itself", False),
        (sqlite_error(sqlite3.SQLITE_CORRUPT_INDEX), "from a backup", True),
        (sqlite_error(sqlite3.SQLITE_NOTADB), "from a backup", True),
        (sqlite_error(sqlite3.SQLITE_SCHEMA), "", False),
        (sqlite_error(None), "", False),
        (PostgresError("53100"), "make room", False),
        (PostgresError("53300"), "max_connections", False),
        (PostgresError("53200"), "", False),
        (PostgresError("08006"), "see that the server runs", False),
        (PostgresError("57P01"), "see that the server runs", False),
        (PostgresError("57014"), "keeps it busy", False),
        (PostgresError(None), "see that the server runs", False),
        (PostgresError("XX001"), "from a backup", True),
        (PostgresError("XX000"), "", False),
        (ValueError("words"), "", False),
    ],
    ids=lambda value: str(getattr(value, "sqlite_errorcode", getattr(value, "sqlstate", ""))),
)
def test_advice_follows_the_code_and_not_the_words(error: Exception, expected: str, damage: bool) -> None:
    assert expected in advice(error)
    assert bool(advice(error)) == bool(expected)
    assert is_damage(error) == damage
