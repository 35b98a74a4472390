"""The documents of tenants: read, changed under compare-and-swap, checked, put in force (tenancy §3).

Every change goes the same way: the resulting document is checked as a whole, together with what it inherits; then it is
stored on condition of the revision; then it is in force in this process, and on its way to the others. One that changes
nothing is not stored.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar
from weakref import WeakValueDictionary

import structlog

from tenants.control.caller import Caller
from tenants.control.expected_revision import Expected, mismatch
from tenants.control.in_force import SettingsInForce
from tenants.control.problem import ProblemError, ProblemKind
from tenants.control.shared_call import SharedCall
from tenants.identity.tenant_id import TenantId
from tenants.settings.api_document import merge_patch, read_document, read_stored, to_json
from tenants.settings.errors import MORE_FAULTS, Fault, SettingsError, dotted
from tenants.settings.inherited_collisions import document_collision
from tenants.settings.overrides import Overrides
from tenants.settings.service_config import ServiceConfig
from tenants.store.audit import AuditEntry
from tenants.store.documents import DocumentStore, StoredDocument, UnreadableDocument
from tenants.store.errors import RevisionConflict

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

Json = dict[str, Any]

_Current = StoredDocument | UnreadableDocument | None
"""What is stored for a tenant; of a document that cannot be read only its revision counts."""

_TRIES = 5
"""How often a change without an expected revision is tried anew, when another one was faster (tenancy §3.5)."""

_CHANGES_AT_ONCE = 20
"""How many changes of one tenant may wait for each other: each holds its body, and a caller."""

# Exempt: switching processors on is what documents are for (tenancy §3.9).
_NEVER_CONFLICTS = "metrics_generator.processors"


@dataclass(frozen=True, slots=True)
class Written:
    """What a change led to.

    Attributes:
        revision: of the document; after a dry run, the one that it was based on.
        document: None: there is none any more.
    """

    revision: int
    document: Json | None


@dataclass(frozen=True, slots=True)
class _Applied:
    """The last revision that was looked at, and the version of the settings that it is in force with."""

    revision: int
    version: int


@dataclass(frozen=True, slots=True)
class _Deed:
    """What somebody does, as it is written down."""

    action: str
    caller: Caller

    def entry(self, tenant: TenantId, now_ms: int, detail: Json) -> AuditEntry:
        return AuditEntry(now_ms, self.caller.actor, self.action, str(tenant), detail, self.caller.source_ip, None)


class DocumentService:
    """All documents of tenants. One event loop owns it; the store is asked, and documents are read, in threads.

    Of one tenant a single document is checked at a time: however long that takes, it keeps one thread from others.

    Attributes:
        problems: stored documents that cannot be applied, by tenant; the last good ones stay in force (tenancy D-17).
        failures: how often that was so, by tenant.
    """

    def __init__(
        self, config: ServiceConfig, store: DocumentStore, in_force: SettingsInForce, clock_ms: Callable[[], int]
    ) -> None:
        self.problems: dict[str, str] = {}
        self.failures: Counter[str] = Counter()
        self._config = config
        self._store = store
        self._in_force = in_force
        self._clock_ms = clock_ms
        self._applied: dict[str, _Applied] = {}
        self._token = 0
        self._turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()
        self._look_once = SharedCall(self._look)

    async def load(self) -> None:
        """Put all stored documents in force; before the service starts."""
        self._token, stored = await asyncio.to_thread(self._store.changes_since, 0)
        await self._apply(stored)

    async def look(self) -> bool:
        """Put in force what others have stored since; return whether there was anything. All who ask share a look."""
        return await self._look_once()

    async def _look(self) -> bool:
        token, stored = await asyncio.to_thread(self._store.changes_since, self._token)
        has_news = await self._apply(stored)
        self._token = token
        if has_news:
            self._in_force.push_soon()
        return has_news

    async def get(self, tenant: TenantId) -> Written | None:
        """Return the stored document; None if there is none.

        Raises:
            ProblemError: what is stored cannot be read.
        """
        stored = await asyncio.to_thread(self._store.get, str(tenant))
        if isinstance(stored, UnreadableDocument):
            raise _unreadable()
        if stored is None or stored.document is None:
            return None
        return Written(stored.revision, stored.document)

    async def revision(self, tenant: TenantId) -> int:
        """Return the stored document's revision, also of one that cannot be read; 0 if there is none."""
        return _revision(await self._current(tenant))

    async def replace(
        self,
        tenant: TenantId,
        body: bytes,
        expected: Expected,
        caller: Caller,
        *,
        skip_conflicts: bool = False,
        is_dry_run: bool = False,
    ) -> Written:
        """Store a whole document (tenancy §3.4).

        Raises:
            ProblemError: invalid, in conflict with the runtime file, or another revision is there; or too many changes
                of the tenant wait already.
        """
        async with self._turn(tenant):
            document = await asyncio.to_thread(lambda: to_json(_checked(read_document, body)))
            current = await self._current(tenant)
            await asyncio.to_thread(self._check, tenant, document, current, skip_conflicts=skip_conflicts)
        if is_dry_run:
            expected.check(_revision(current))
            return Written(_revision(current), document)
        return await self._put(tenant, document, current, expected, _Deed("overrides.replace", caller))

    async def patch(
        self,
        tenant: TenantId,
        body: bytes,
        expected: Expected | None,
        caller: Caller,
        *,
        skip_conflicts: bool = False,
        is_dry_run: bool = False,
    ) -> Written:
        """Merge a patch into the document (tenancy §3.5, RFC 7396); no expected revision: into whatever is there.

        Raises:
            ProblemError: as :meth:`replace`; or others were faster, five times.
        """

        def change(current: _Current) -> Json:
            if isinstance(current, UnreadableDocument):
                # Merging with nothing instead would lose the rest of it.
                raise _unreadable()
            before = current.document if current else None
            document = _checked(merge_patch, before, body)
            self._check(tenant, document, current, skip_conflicts=skip_conflicts)
            return document

        return await self._change(tenant, change, expected, _Deed("overrides.patch", caller), is_dry_run=is_dry_run)

    async def rollback(
        self, tenant: TenantId, revision: int, expected: Expected | None, caller: Caller, *, is_dry_run: bool = False
    ) -> Written:
        """Store an earlier document again, as a new revision.

        Raises:
            ProblemError: that revision is not kept or was a deletion; or as :meth:`patch`.
        """
        kept = {stored.revision: stored for stored in await self.history(tenant)}
        earlier = kept.get(revision)
        if earlier is None or earlier.document is None:
            raise ProblemError(
                ProblemKind.NOT_FOUND,
                f"no document is kept as revision {revision}; GET /api/overrides/history lists those that are",
            )
        document = earlier.document

        def change(current: _Current) -> Json:
            # What was valid once may not be so in this version, or beside what is inherited by now.
            self._check(tenant, document, current, skip_conflicts=True)
            return document

        deed = _Deed(f"overrides.rollback to {revision}", caller)
        return await self._change(tenant, change, expected, deed, is_dry_run=is_dry_run)

    async def delete(self, tenant: TenantId, expected: Expected, caller: Caller) -> Written:
        """Remove the document.

        Raises:
            ProblemError: there is none, or another revision is there.
        """
        current = await self._current(tenant)
        if current is None:
            raise ProblemError(ProblemKind.NOT_FOUND, "there is no document to delete")
        return await self._put(tenant, None, current, expected, _Deed("overrides.delete", caller))

    async def history(self, tenant: TenantId) -> list[StoredDocument]:
        """Return the revisions that are kept, newest first."""
        return await asyncio.to_thread(self._store.history, str(tenant))

    async def is_applied(self, tenant: TenantId, revision: int, timeout_s: float) -> bool:
        """Wait until a revision or a later one is in force in every process; return whether it is.

        Stored elsewhere, it is found by one look; one that is not stored is not waited for.
        """
        ends_at = asyncio.get_running_loop().time() + timeout_s
        if not self._has_applied(tenant, revision):
            await self.look()
        if not self._has_applied(tenant, revision):
            return False
        applied = self._applied[str(tenant)]
        left_s = ends_at - asyncio.get_running_loop().time()
        return await self._in_force.is_everywhere(applied.version, max(0.0, left_s))

    def _has_applied(self, tenant: TenantId | str, revision: int) -> bool:
        applied = self._applied.get(str(tenant))
        return applied is not None and applied.revision >= revision

    @asynccontextmanager
    async def _turn(self, tenant: TenantId) -> AsyncIterator[None]:
        """Wait until no other document of the tenant is checked.

        Raises:
            ProblemError: too many wait already.
        """
        turn = self._turns.setdefault(str(tenant), _Turn())
        if turn.waiting >= _CHANGES_AT_ONCE:
            detail = f"{turn.waiting} changes of this tenant are being checked already; wait for their answers"
            raise ProblemError(ProblemKind.TOO_MANY_REQUESTS, detail, headers={"Retry-After": "1"})
        turn.waiting += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.waiting -= 1

    async def _current(self, tenant: TenantId) -> _Current:
        stored = await asyncio.to_thread(self._store.get, str(tenant))
        is_deleted = isinstance(stored, StoredDocument) and stored.document is None
        return None if is_deleted else stored

    async def _change(
        self,
        tenant: TenantId,
        change: Callable[[_Current], Json],
        expected: Expected | None,
        deed: _Deed,
        *,
        is_dry_run: bool,
    ) -> Written:
        for _ in range(_TRIES):
            current = await self._current(tenant)
            if expected is not None:
                expected.check(_revision(current))
            async with self._turn(tenant):
                document = await asyncio.to_thread(change, current)
            if is_dry_run:
                return Written(_revision(current), document)
            try:
                return await self._put(tenant, document, current, Expected(_revision(current)), deed)
            except ProblemError as problem:
                if problem.kind is not ProblemKind.REVISION_MISMATCH or expected is not None:
                    raise
        raise ProblemError(
            ProblemKind.CONFLICT, f"others changed the document at the same time, {_TRIES} times; try again"
        )

    async def _put(
        self,
        tenant: TenantId,
        document: Json | None,
        current: _Current,
        expected: Expected,
        deed: _Deed,
    ) -> Written:
        expected.check(_revision(current))
        if isinstance(current, StoredDocument) and _is_same(current.document, document):
            # Stored again and again, it would push out of history and audit what did change.
            await self._put_in_force(current)
            return Written(current.revision, current.document)
        # Compared again by the store, in the transaction that writes.
        revision = _revision(current) if expected.revision is None else expected.revision
        now_ms = self._clock_ms()
        before = current.document if isinstance(current, StoredDocument) else None
        changed = sorted(difference(before, document))
        audit = deed.entry(tenant, now_ms, {"changed": changed})
        try:
            if document is None:
                stored = await asyncio.to_thread(
                    self._store.delete, str(tenant), revision, deed.caller.actor, now_ms, audit=audit
                )
            else:
                stored = await asyncio.to_thread(
                    self._store.put, str(tenant), document, revision, deed.caller.actor, now_ms, audit=audit
                )
        except RevisionConflict as conflict:
            raise mismatch(conflict.current) from None
        await self._put_in_force(stored)
        return Written(stored.revision, stored.document)

    async def _put_in_force(self, stored: StoredDocument) -> None:
        if await self._apply([stored]):
            self._in_force.push_soon()

    def _check(self, tenant: TenantId, document: Json, current: _Current, *, skip_conflicts: bool) -> None:
        """Check a document with what it inherits; and the first one of a tenant with its entry in the runtime file."""
        overrides, _ = _checked(read_stored, document)
        runtime = self._in_force.overrides.runtime
        static, defaults = self._config.metrics_generator.processor.span_metrics, self._config.overrides.defaults
        is_whole = self._config.uses_entries_whole
        if fault := document_collision(overrides, static, defaults, runtime, str(tenant), uses_entries_whole=is_whole):
            raise _invalid([fault])
        api = self._config.overrides.user_configurable_overrides.api
        if current is not None or skip_conflicts or not api.check_for_conflicting_runtime_overrides:
            return
        if conflicts := _conflicts(document, runtime.get(str(tenant))):
            raise ProblemError(
                ProblemKind.RUNTIME_CONFLICT,
                "the runtime file sets other values for this tenant, which the document would hide; leave these keys "
                "out, or send ?skip-conflicting-overrides-check=true",
                tuple(Fault(path, "the runtime file has another value") for path in conflicts),
            )

    async def _apply(self, stored: Iterable[StoredDocument | UnreadableDocument]) -> bool:
        """Put documents in force here, newer ones only; return whether anything changed."""
        newer = [document for document in stored if not self._has_applied(document.tenant, document.revision)]
        if not newer:
            return False
        read = await asyncio.to_thread(lambda: [_overrides_of(document) for document in newer])
        changes: dict[str, Overrides | None] = {}
        seen: dict[str, int] = {}
        for document, overrides in zip(newer, read, strict=True):
            name = document.tenant
            # While these were read, a later one may have been put in force.
            if self._has_applied(name, document.revision):
                continue
            if isinstance(overrides, SettingsError):
                self.problems[name] = str(overrides)
                self.failures[name] += 1
                log.error(
                    "document of a tenant cannot be applied, the last good one stays",
                    tenant=name,
                    problem=str(overrides),
                )
            else:
                changes[name] = overrides
                self.problems.pop(name, None)
            seen[name] = document.revision
        version = self._in_force.put(documents=changes) if changes else self._in_force.overrides.version
        for name, revision in seen.items():
            self._applied[name] = _Applied(revision, version)
        return bool(changes)


class _Turn:
    """Whose document is checked now, and who waits for that; forgotten when nobody does."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


def difference(former: Mapping[str, Any] | None, latter: Mapping[str, Any] | None) -> dict[str, tuple[Any, Any]]:
    """Return what differs between two documents: path to the values before and after, None where there was none."""
    before, after = dict(_leaves(former or {}, ())), dict(_leaves(latter or {}, ()))
    return {
        path: (before.get(path), after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    }


def _leaves(value: Any, path: tuple[str, ...]) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*path, str(key)))]
    return [(dotted(path), value)] if path else []


def _conflicts(document: Json, entry: Overrides | None) -> list[str]:
    """Return the paths that both hold, with different values (tenancy D-16)."""
    if entry is None:
        return []
    theirs = dict(_leaves(to_json(entry), ()))
    ours = dict(_leaves(document, ()))
    return sorted(
        path for path, value in ours.items() if path in theirs and theirs[path] != value and path != _NEVER_CONFLICTS
    )


def _overrides_of(stored: StoredDocument | UnreadableDocument) -> Overrides | SettingsError | None:
    if isinstance(stored, UnreadableDocument):
        return SettingsError([Fault("", stored.problem)], "stored document")
    if stored.document is None:
        return None
    try:
        overrides, _ = read_stored(stored.document)
    except SettingsError as error:
        return error
    return overrides


def _is_same(former: Json | None, latter: Json | None) -> bool:
    """Whether two documents say the same. In Python 1 and true are equal, and in a filter they are not."""
    return json.dumps(former, sort_keys=True) == json.dumps(latter, sort_keys=True)


def _revision(current: _Current) -> int:
    return current.revision if current else 0


def _unreadable() -> ProblemError:
    return ProblemError(
        ProblemKind.INTERNAL, "the stored document cannot be read; replace it with POST, or ask the operator"
    )


def _invalid(faults: list[Fault] | tuple[Fault, ...]) -> ProblemError:
    count = len(faults) - (MORE_FAULTS in faults)
    what = ("1 violation" if count == 1 else f"{count} violations") + (" or more" if MORE_FAULTS in faults else "")
    return ProblemError(ProblemKind.INVALID_DOCUMENT, f"the document has {what}", tuple(faults))


def _checked(check: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return check(*args, **kwargs)
    except SettingsError as error:
        raise _invalid(error.faults) from None
