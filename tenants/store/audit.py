"""Who changed what, when and from where. Entries are only ever added, and forgotten when they are old or too many."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select

from tenants.store.change_counter import Feed, next_number
from tenants.store.database import Database
from tenants.store.json_column import object_text, read_object
from tenants.store.schema import AUDIT_ENTRIES

KEPT_ENTRIES_OF_TENANT: Final = 10_000
"""How many entries of one tenant are kept: changing things again and again does not fill the store."""

_ENTRIES: Final = AUDIT_ENTRIES.c


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change.

    Attributes:
        at_ms: when, in Unix milliseconds.
        actor: who; see :attr:`tenants.identity.access.Principal.actor`.
        action: what was done, such as ``overrides.replace``.
        tenant: whose things were changed; None: nobody's alone.
        detail: what changed; never a secret.
        source_ip: address that the request came from.
        revision: that the change led to; None: it has none, or the store that writes the change fills it in.
        entry_id: its number; None: not stored yet.
    """

    at_ms: int
    actor: str
    action: str
    tenant: str | None
    detail: Mapping[str, Any]
    source_ip: str
    revision: int | None
    entry_id: int | None = None


class AuditStore:
    """All entries. Changes of documents, tenants and tokens bring theirs along: written with them, or not at all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, entry: AuditEntry) -> AuditEntry:
        """Store an entry of something that this package does not store; return it with its number."""
        with self._database.write() as connection:
            return write_entry(connection, entry, entry.revision)

    def listed(self, tenant: str | None, before: int | None, limit: int) -> list[AuditEntry]:
        """Return entries, newest first.

        Args:
            tenant: whose; None: all.
            before: number of the last entry of the page before; None: the newest.
            limit: how many at most.
        """
        query = select(AUDIT_ENTRIES).order_by(_ENTRIES.entry_id.desc()).limit(limit)
        if tenant is not None:
            query = query.where(_ENTRIES.tenant == tenant)
        if before is not None:
            query = query.where(_ENTRIES.entry_id < before)
        with self._database.read() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def forget_before(self, before_ms: int) -> int:
        """Remove the entries that are older; return how many."""
        with self._database.write() as connection:
            return connection.execute(delete(AUDIT_ENTRIES).where(_ENTRIES.at_ms < before_ms)).rowcount


def write_entry(connection: Connection, entry: AuditEntry, revision: int | None) -> AuditEntry:
    """Store an entry in the transaction of the change that it is about; return it with its number.

    The oldest of its tenant are forgotten, beyond 10 000; of what is nobody's alone, which operators change, none.
    """
    stored = replace(entry, revision=revision, entry_id=next_number(connection, Feed.AUDIT))
    connection.execute(insert(AUDIT_ENTRIES), asdict(stored) | {"detail": object_text(entry.detail)})
    if entry.tenant is not None:
        _forget_surplus(connection, entry.tenant)
    return stored


def _forget_surplus(connection: Connection, tenant: str) -> None:
    newest_first = select(_ENTRIES.entry_id).where(_ENTRIES.tenant == tenant).order_by(_ENTRIES.entry_id.desc())
    last = connection.execute(newest_first.limit(1).offset(KEPT_ENTRIES_OF_TENANT)).scalar()
    if last is not None:
        connection.execute(delete(AUDIT_ENTRIES).where(_ENTRIES.tenant == tenant, _ENTRIES.entry_id <= last))


def _entry(row: Row[Any]) -> AuditEntry:
    try:
        detail = read_object(row.detail)
    except ValueError as error:
        detail = {"unreadable": str(error)}
    return AuditEntry(row.at_ms, row.actor, row.action, row.tenant, detail, row.source_ip, row.revision, row.entry_id)
