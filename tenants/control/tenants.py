"""The tenants that operators know: their states, limits and notes, under compare-and-swap (tenancy §5.1, D-21)."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from tenants.control.caller import Caller
from tenants.control.expected_revision import Expected, mismatch
from tenants.control.in_force import SettingsInForce
from tenants.control.limits_document import read_limits
from tenants.control.problem import ProblemError, ProblemKind
from tenants.identity.tenant_id import TenantId
from tenants.settings.errors import SettingsError
from tenants.settings.overrides import Overrides
from tenants.settings.tenant_state import TenantState
from tenants.store.audit import AuditEntry
from tenants.store.errors import RevisionConflict, UnreadableTenantError
from tenants.store.tenants import TenantRecord, TenantStore

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TenantChange:
    """What an operator wants of a tenant; None: as it was."""

    state: TenantState | None = None
    note: str | None = None
    limits: Mapping[str, Any] | None = field(default=None)


class TenantService:
    """The tenants that are known by name. One event loop owns it; the store is asked in threads.

    Attributes:
        problems: stored limits that cannot be applied, by tenant; the last good ones stay in force.
    """

    def __init__(self, store: TenantStore, in_force: SettingsInForce, clock_ms: Callable[[], int]) -> None:
        self.problems: dict[str, str] = {}
        self._store = store
        self._in_force = in_force
        self._clock_ms = clock_ms
        self._token = 0
        self._revisions: dict[str, int] = {}

    async def load(self) -> None:
        """Put all stored states and limits in force; before the service starts."""
        self._token, records = await asyncio.to_thread(self._store.changes_since, 0)
        self._apply(records)

    async def look(self) -> bool:
        """Put in force what others have stored since; return whether there was anything."""
        token, records = await asyncio.to_thread(self._store.changes_since, self._token)
        has_news = self._apply(records)
        self._token = token
        if has_news:
            self._in_force.push_soon()
        return has_news

    async def get(self, tenant: TenantId) -> TenantRecord | None:
        """Return what is known of a tenant; None if it is not known by name."""
        return await asyncio.to_thread(self._store.get, str(tenant))

    async def known(self, after: str, limit: int) -> list[TenantRecord]:
        """Return known tenants by name, those after ``after``."""
        return await asyncio.to_thread(self._store.listed, after, limit)

    async def change(
        self, tenant: TenantId, change: TenantChange, expected: Expected | None, caller: Caller
    ) -> TenantRecord:
        """Store a state, limits or a note, and put them in force.

        Raises:
            ProblemError: invalid limits, or another revision is there.
        """
        try:
            current = await self.get(tenant)
            revision = current.revision if current else 0
        except UnreadableTenantError as error:
            # Writing it anew mends it; what it said before, nobody can tell.
            current, revision = None, error.revision
        if expected is not None:
            expected.check(revision)
        state = change.state or (current.state if current else TenantState.ACTIVE)
        note = (current.note if current else "") if change.note is None else change.note
        limits = dict((current.limits if current else {}) if change.limits is None else change.limits)
        try:
            read_limits(limits)
        except SettingsError as error:
            raise ProblemError(ProblemKind.INVALID_DOCUMENT, "the limits are not valid", error.faults) from None
        now_ms = self._clock_ms()
        detail = {"state": state.value, "limits": limits, "note": note}
        audit = AuditEntry(now_ms, caller.actor, "tenant.change", str(tenant), detail, caller.source_ip, None)
        try:
            record = await asyncio.to_thread(
                self._store.put,
                str(tenant),
                state,
                limits,
                note,
                revision,
                now_ms,
                audit=audit,
            )
        except RevisionConflict as conflict:
            raise mismatch(conflict.current) from None
        if self._apply([record]):
            self._in_force.push_soon()
        return record

    def _apply(self, records: list[TenantRecord]) -> bool:
        states: dict[str, TenantState | None] = {}
        limits: dict[str, Overrides | None] = {}
        for record in records:
            name = record.tenant
            if self._revisions.get(name, 0) >= record.revision:
                continue
            self._revisions[name] = record.revision
            states[name] = record.state
            try:
                limits[name] = read_limits(record.limits) if record.limits else None
                self.problems.pop(name, None)
            except SettingsError as error:
                self.problems[name] = str(error)
                log.error("limits of a tenant cannot be applied", tenant=name, problem=str(error))  # noqa: TRY400
        if states:
            self._in_force.put(states=states, limits=limits)
        return bool(states)
