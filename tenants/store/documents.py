"""The documents of tenants: what they set through the API, with revisions, compare-and-swap and history (tenancy §3.8).

What a document says is not looked at here, only that it is a JSON object.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from tenants.store.audit import AuditEntry, write_entry
from tenants.store.change_counter import Feed, last_number, next_number
from tenants.store.database import Database
from tenants.store.errors import RevisionConflict
from tenants.store.json_column import JsonObject, object_text, read_object
from tenants.store.schema import DOCUMENT_REVISIONS, DOCUMENTS

KEPT_REVISIONS: Final = 20
"""How many revisions of a tenant are kept, deletions among them (tenancy §3.8)."""

_HEADS: Final = DOCUMENTS.c
_REVISIONS: Final = DOCUMENT_REVISIONS.c


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """One revision of a tenant's document.

    Attributes:
        tenant: whose.
        revision: from 1, one more with each change, deletions among them; never used again for this tenant.
        document: what it says; None: it was deleted.
        author: who stored it.
        at_ms: when, in Unix milliseconds.
    """

    tenant: str
    revision: int
    document: JsonObject | None
    author: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class UnreadableDocument:
    """A revision that is damaged in the database; it can be replaced and deleted (tenancy D-17).

    Attributes:
        tenant: whose.
        revision: of the document.
        problem: what is wrong with it; does not repeat it.
    """

    tenant: str
    revision: int
    problem: str


class DocumentStore:
    """All documents. While a tenant has none, also after a deletion, its current revision is 0."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, tenant: str) -> StoredDocument | UnreadableDocument | None:
        """Return the latest revision, which may be a deletion; None: there never was a document."""
        with self._database.read() as connection:
            row = connection.execute(_latest().where(_HEADS.tenant == tenant)).one_or_none()
        return None if row is None else _stored(row)

    def put(
        self,
        tenant: str,
        document: Mapping[str, Any],
        expected: int | None,
        author: str,
        now_ms: int,
        *,
        audit: AuditEntry | None = None,
    ) -> StoredDocument:
        """Store a document as the next revision.

        Args:
            tenant: whose.
            document: a JSON object; its parts have to be what JSON knows.
            expected: the current revision; 0: there must be none; None: whatever is there.
            author: who stores it.
            now_ms: Unix milliseconds.
            audit: is stored along with it, under its revision.

        Raises:
            RevisionConflict: another revision is there.
            ValueError: a number is not finite.
        """
        return self._write(tenant, object_text(document), expected, author, now_ms, audit=audit)

    def delete(
        self, tenant: str, expected: int | None, author: str, now_ms: int, *, audit: AuditEntry | None = None
    ) -> StoredDocument:
        """Delete the document, which is a revision too; arguments as in :meth:`put`.

        Raises:
            RevisionConflict: another revision is there; or there is none, whatever was expected.
        """
        return self._write(tenant, None, expected, author, now_ms, audit=audit)

    def history(self, tenant: str, limit: int = KEPT_REVISIONS) -> list[StoredDocument]:
        """Return the revisions that are kept, newest first; without those that are damaged."""
        query = (
            select(DOCUMENT_REVISIONS)
            .where(_REVISIONS.tenant == tenant)
            .order_by(_REVISIONS.revision.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [stored for row in rows if isinstance(stored := _stored(row), StoredDocument)]

    def changes_since(self, token: int) -> tuple[int, list[StoredDocument | UnreadableDocument]]:
        """Return the latest revisions of the tenants that changed, deletions among them, in the order of the changes.

        Args:
            token: from the call before; 0: everything.

        Returns:
            The token for the next call, and the revisions. Whoever goes on from it misses no change.
        """
        query = _latest().where(_HEADS.changed > token).order_by(_HEADS.changed)
        with self._database.read() as connection:
            return last_number(connection, Feed.DOCUMENTS), [_stored(row) for row in connection.execute(query)]

    def all(self) -> list[StoredDocument | UnreadableDocument]:
        """Return the documents that are there, by tenant."""
        query = _latest().where(_REVISIONS.document.is_not(None)).order_by(_HEADS.tenant)
        with self._database.read() as connection:
            return [_stored(row) for row in connection.execute(query)]

    def _write(
        self,
        tenant: str,
        text: str | None,
        expected: int | None,
        author: str,
        now_ms: int,
        *,
        audit: AuditEntry | None,
    ) -> StoredDocument:
        with self._database.write() as connection:
            # First: from here on, nobody else changes a document.
            changed = next_number(connection, Feed.DOCUMENTS)
            last, current = _revisions(connection, tenant)
            if (expected is not None and expected != current) or (text is None and current == 0):
                raise RevisionConflict(current)
            revision = last + 1
            if last == 0:
                connection.execute(insert(DOCUMENTS), {"tenant": tenant, "revision": revision, "changed": changed})
            else:
                connection.execute(
                    update(DOCUMENTS).where(_HEADS.tenant == tenant).values(revision=revision, changed=changed)
                )
            connection.execute(
                insert(DOCUMENT_REVISIONS),
                {"tenant": tenant, "revision": revision, "document": text, "author": author, "at_ms": now_ms},
            )
            connection.execute(
                delete(DOCUMENT_REVISIONS).where(
                    _REVISIONS.tenant == tenant, _REVISIONS.revision <= revision - KEPT_REVISIONS
                )
            )
            if audit is not None:
                write_entry(connection, audit, revision)
        return StoredDocument(tenant, revision, None if text is None else read_object(text), author, now_ms)


def _latest() -> Select[Any]:
    return select(DOCUMENT_REVISIONS).join_from(
        DOCUMENTS,
        DOCUMENT_REVISIONS,
        (_REVISIONS.tenant == _HEADS.tenant) & (_REVISIONS.revision == _HEADS.revision),
    )


def _revisions(connection: Connection, tenant: str) -> tuple[int, int]:
    """Return the last revision that was used, and the current one: 0 if it was a deletion, or none."""
    row = connection.execute(_latest().where(_HEADS.tenant == tenant)).one_or_none()
    if row is None:
        return 0, 0
    return row.revision, 0 if row.document is None else row.revision


def _stored(row: Row[Any]) -> StoredDocument | UnreadableDocument:
    if row.document is None:
        return StoredDocument(row.tenant, row.revision, None, row.author, row.at_ms)
    try:
        return StoredDocument(row.tenant, row.revision, read_object(row.document), row.author, row.at_ms)
    except ValueError as error:
        return UnreadableDocument(row.tenant, row.revision, f"the stored document {error}")
