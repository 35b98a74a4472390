"""What to do about a database that does not work: by the driver's code, not by its words."""

import sqlite3
from typing import Final

import psycopg

_MAKE_ROOM: Final = "make room on its disk"
_LOOK_AT_DISK: Final = "look at its disk and at the system's log"
_MAKE_WRITABLE: Final = "make it, its directory and its disk writable for this process"
_WAIT_OR_FIND: Final = "it goes on by itself when whoever holds it lets go: find them if it stays so"
_RESTORE: Final = "stop whatever uses it, and restore it from a backup"
_REACH: Final = "see that the server runs, can be reached and lets this user in"
_LET_WRITE: Final = "name the primary server in the URL, or let it accept changes"

_SQLITE: Final = {
    sqlite3.SQLITE_FULL: _MAKE_ROOM,
    sqlite3.SQLITE_IOERR: _LOOK_AT_DISK,
    sqlite3.SQLITE_READONLY: _MAKE_WRITABLE,
    sqlite3.SQLITE_PERM: _MAKE_WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _MAKE_WRITABLE,
    sqlite3.SQLITE_BUSY: _WAIT_OR_FIND,
    sqlite3.SQLITE_LOCKED: _WAIT_OR_FIND,
    sqlite3.SQLITE_CORRUPT: _RESTORE,
    sqlite3.SQLITE_NOTADB: _RESTORE,
}

_SQLITE_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

# Codes of PostgreSQL, or the class that their first two letters are.
_POSTGRESQL: Final = {
    "53100": _MAKE_ROOM,
    "53300": "let it have more connections (max_connections)",
    "58030": _LOOK_AT_DISK,
    "25006": _LET_WRITE,
    "55P03": _WAIT_OR_FIND,
    "57014": "find out what keeps it busy",
    "42501": "let this user make and change tables",
    "08": _REACH,
    "28": _REACH,
    "57": _REACH,
    "XX001": _RESTORE,
    "XX002": _RESTORE,
}

_POSTGRESQL_DAMAGE: Final = {"XX001", "XX002"}


def advice(cause: BaseException) -> str:
    """Return how to mend what a driver raised; empty if nothing better than its own words is known."""
    if isinstance(cause, sqlite3.Error):
        return _SQLITE.get(_sqlite_code(cause), "")
    if isinstance(cause, psycopg.Error):
        # What fails on the way to the server has no code.
        state = cause.sqlstate or "08"
        return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2], "")
    return ""


def is_damage(cause: BaseException) -> bool:
    """Whether what is on the disk is damaged."""
    if isinstance(cause, sqlite3.Error):
        return _sqlite_code(cause) in _SQLITE_DAMAGE
    return isinstance(cause, psycopg.Error) and cause.sqlstate in _POSTGRESQL_DAMAGE


def _sqlite_code(error: sqlite3.Error) -> int:
    # The lowest byte is the kind, the others say more; errors of the module itself have none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
