"""The tenants that operators know by name: their states, limits and notes, under compare-and-swap (tenancy §5.1, D-21).

A tenant need not be here to send spans; what limits may say is checked elsewhere.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import Row, insert, select, update

from tenants.settings.tenant_state import TenantState
from tenants.store.audit import AuditEntry, write_entry
from tenants.store.change_counter import Feed, last_number, next_number
from tenants.store.database import Database
from tenants.store.errors import RevisionConflict, UnreadableTenantError
from tenants.store.json_column import JsonObject, object_text, read_object
from tenants.store.schema import TENANTS

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_COLUMNS: Final = TENANTS.c


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """What is known of one tenant.

    Attributes:
        tenant: its id.
        state: what is done with its spans.
        revision: from 1, one more with each change.
        created_ms: when it was stored first, in Unix milliseconds.
        updated_ms: when it was changed last.
        note: for operators.
        limits: as they are written in overrides; empty: none of its own.
    """

    tenant: str
    state: TenantState
    revision: int
    created_ms: int
    updated_ms: int
    note: str
    limits: JsonObject


class TenantStore:
    """All records. A damaged one is left out of lists, with an error in the log; others are not (tenancy D-17)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, tenant: str) -> TenantRecord | None:
        """Return a record; None: there is none.

        Raises:
            UnreadableTenantError: it is damaged.
        """
        with self._database.read() as connection:
            row = connection.execute(select(TENANTS).where(_COLUMNS.tenant == tenant)).one_or_none()
        return None if row is None else _record(row)

    def listed(self, after: str, limit: int) -> list[TenantRecord]:
        """Return records by id, those after ``after``, at most ``limit``."""
        query = select(TENANTS).where(_COLUMNS.tenant > after).order_by(_COLUMNS.tenant).limit(limit)
        with self._database.read() as connection:
            return _readable(connection.execute(query))

    def put(  # noqa: PLR0917  (a record has so many parts)
        self,
        tenant: str,
        state: TenantState,
        limits: Mapping[str, Any],
        note: str,
        expected: int | None,
        now_ms: int,
        *,
        audit: AuditEntry | None = None,
    ) -> TenantRecord:
        """Store a whole record as the next revision.

        Args:
            tenant: its id.
            state: what is done with its spans.
            limits: a JSON object.
            note: for operators.
            expected: the current revision; 0: there must be none; None: whatever is there.
            now_ms: Unix milliseconds.
            audit: is stored along with it, under its revision.

        Raises:
            RevisionConflict: another revision is there.
        """
        text = object_text(limits)
        with self._database.write() as connection:
            # First: from here on, nobody else changes a tenant.
            changed = next_number(connection, Feed.TENANTS)
            row = connection.execute(select(TENANTS).where(_COLUMNS.tenant == tenant)).one_or_none()
            current = 0 if row is None else row.revision
            created_ms = now_ms if row is None else row.created_ms
            if expected is not None and expected != current:
                raise RevisionConflict(current)
            values = {
                "tenant": tenant,
                "revision": current + 1,
                "changed": changed,
                "state": state.value,
                "limits": text,
                "note": note,
                "created_ms": created_ms,
                "updated_ms": now_ms,
            }
            if row is None:
                connection.execute(insert(TENANTS), values)
            else:
                connection.execute(update(TENANTS).where(_COLUMNS.tenant == tenant).values(values))
            if audit is not None:
                write_entry(connection, audit, current + 1)
        return TenantRecord(tenant, state, current + 1, created_ms, now_ms, note, read_object(text))

    def changes_since(self, token: int) -> tuple[int, list[TenantRecord]]:
        """Return the records that changed, in the order of the changes, and the token for the next call.

        ``token`` is from the call before; 0: everything. Whoever goes on from the token misses no change.
        """
        query = select(TENANTS).where(_COLUMNS.changed > token).order_by(_COLUMNS.changed)
        with self._database.read() as connection:
            return last_number(connection, Feed.TENANTS), _readable(connection.execute(query))


def _readable(rows: Iterable[Row[Any]]) -> list[TenantRecord]:
    records: list[TenantRecord] = []
    for row in rows:
        try:
            records.append(_record(row))
        except UnreadableTenantError as error:
            log.error(  # noqa: TRY400  (the fault is in a row; a traceback would say nothing)
                "record of a tenant cannot be read, what was in force stays", tenant=error.tenant, problem=error.problem
            )
    return records


def _record(row: Row[Any]) -> TenantRecord:
    try:
        state = TenantState(row.state)
    except ValueError:
        raise UnreadableTenantError(row.tenant, row.revision, "the state is none of those that are known") from None
    try:
        limits = read_object(row.limits)
    except ValueError as error:
        raise UnreadableTenantError(row.tenant, row.revision, f"the column limits {error}") from None
    return TenantRecord(row.tenant, state, row.revision, row.created_ms, row.updated_ms, row.note, limits)
