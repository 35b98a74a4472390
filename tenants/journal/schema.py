"""The tables of the journal, and the numbered steps that make them. May share a database with the control plane."""

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Connection, Integer, LargeBinary, MetaData, Table

from tenants.store.migration import Line, Step, take_steps
from tenants.store.schema import StoredText

_ADVISORY_LOCK: Final = 0x6D696C6A6F75726E

_METADATA: Final = MetaData()


def _table(name: str, /, **columns: Any) -> Table:
    return Table(name, _METADATA, *(Column(column, kind) for column, kind in columns.items()))


SCHEMA_VERSION: Final = _table("journal_schema_version", version=Integer)

OWNERS: Final = _table("journal_owner", name=StoredText, incarnation=BigInteger)

ENTRIES: Final = _table("journal_entry", tenant=StoredText, position=BigInteger, body=LargeBinary)

CHECKPOINTS: Final = _table(
    "journal_checkpoint", tenant=StoredText, part=Integer, parts=Integer, position=BigInteger, body=LargeBinary
)

BACKLOG: Final = _table(
    "journal_backlog", tenant=StoredText, endpoint=StoredText, sequence=BigInteger, facts=StoredText, body=LargeBinary
)

STEPS: Final[tuple[Step, ...]] = (
    (
        "CREATE TABLE journal_owner (name {text} PRIMARY KEY, incarnation BIGINT NOT NULL)",
        "CREATE TABLE journal_entry (tenant {text} NOT NULL, position BIGINT NOT NULL, body {blob} NOT NULL,"
        " PRIMARY KEY (tenant, position))",
        # A checkpoint of 100 MB is a row of its own for every few of them: drivers hold a whole row several times.
        "CREATE TABLE journal_checkpoint (tenant {text} NOT NULL, part INTEGER NOT NULL, parts INTEGER NOT NULL,"
        " position BIGINT NOT NULL, body {blob} NOT NULL, PRIMARY KEY (tenant, part))",
    ),
    (
        "CREATE TABLE journal_backlog (tenant {text} NOT NULL, endpoint {text} NOT NULL, sequence BIGINT NOT NULL,"
        " facts {text} NOT NULL, body {blob} NOT NULL, PRIMARY KEY (tenant, endpoint, sequence))",
    ),
)


def migrate(connection: Connection) -> None:
    """Bring the tables up to date, in the connection's transaction.

    Raises:
        SchemaTooNewError: a newer version was here.
    """
    take_steps(connection, Line("journal", SCHEMA_VERSION, _ADVISORY_LOCK, STEPS))
