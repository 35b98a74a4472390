"""Numbered steps that make and change the tables of one schema. Several schemas may share a database.

A step is never changed once a release has it: databases out there have taken it. Steps only add, because during a
rollout the version before works on the same tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, inspect, text

from tenants.store.errors import SchemaTooNewError

Step = Sequence[str]
"""Statements, with ``{text}`` and ``{blob}`` for the types that the two databases call differently."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of versions.

    Attributes:
        subject: what the schema is of, for messages.
        version: the table that holds how many steps were taken.
        lock: of those who take steps, in PostgreSQL: any number that others are unlikely to have taken.
        steps: all that this version of the program knows.
    """

    subject: str
    version: Table
    lock: int
    steps: Sequence[Step]


def take_steps(connection: Connection, line: Line) -> None:
    """Take the steps that the database has not taken, all in the connection's transaction; nobody else does meanwhile.

    Raises:
        SchemaTooNewError: it has taken steps that this version does not know.
    """
    is_postgresql = connection.dialect.name == "postgresql"
    if is_postgresql:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": line.lock})
    if inspect(connection).has_table(line.version.name):
        taken = connection.execute(line.version.select()).scalar_one()
    else:
        connection.exec_driver_sql(f"CREATE TABLE {line.version.name} (version INTEGER NOT NULL)")
        connection.execute(line.version.insert(), {"version": 0})
        taken = 0
    known = len(line.steps)
    if taken > known:
        raise SchemaTooNewError(taken, known, line.subject)
    # Both databases then order texts by their bytes, whatever the locale: pages of lists go on where the last ended.
    text_type = 'TEXT COLLATE "C"' if is_postgresql else "TEXT"
    blob_type = "BYTEA" if is_postgresql else "BLOB"
    for step in line.steps[taken:]:
        for statement in step:
            connection.exec_driver_sql(statement.format(text=text_type, blob=blob_type))
    if taken < known:
        connection.execute(line.version.update(), {"version": known})
