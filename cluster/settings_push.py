"""What is in force for all tenants, decided in one process, and how far it has got in the others."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import structlog

from tenants.settings.in_force import (
    OverridesChange,
    OverridesInForce,
    change_between,
    entry_count,
    in_parts,
    merged_changes,
    part_count,
)
from tenants.settings.overrides import Overrides, RuntimeOverrides
from tenants.settings.tenant_state import TenantState
from tenants.tracing.spans import Tracer, begun, within

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

Push = Callable[[OverridesChange], Awaitable[bool]]
"""Carry a change to the controller; false if the whole has to come; raises if it cannot be reached."""

Tell = Callable[[OverridesInForce], Awaitable[None]]
"""Tell the controller everything."""


ENTRIES_AT_ONCE = 250
"""Entries in one change: reading them takes a process about 10 ms."""


class SettingsPush:
    """Holds the snapshot in force here and carries its changes to the controller, in order. One event loop owns it.

    A change is in force in this process at once, and everywhere when :meth:`is_everywhere` says so. One that does not
    arrive is found missing by :meth:`look`, and carried again; a controller that lacks what it changes is told
    everything.
    """

    def __init__(self, push: Push, tell: Tell, clock_ms: Callable[[], int], tracer: Tracer | None = None) -> None:
        self._push = push
        self._tell = tell
        self._clock_ms = clock_ms
        self._tracer = tracer
        self._overrides = OverridesInForce(max(1, clock_ms()))
        self._pushed = OverridesInForce()
        self._everywhere = 0
        self._has_moved = asyncio.Condition()
        self._pushing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def overrides(self) -> OverridesInForce:
        """What is in force here."""
        return self._overrides

    @property
    def everywhere(self) -> int:
        """The newest version that every process is known to have; 0 before the first."""
        return self._everywhere

    def put(
        self,
        *,
        runtime: RuntimeOverrides | None = None,
        documents: Mapping[str, Overrides | None] | None = None,
        states: Mapping[str, TenantState | None] | None = None,
        limits: Mapping[str, Overrides | None] | None = None,
        sizes: Mapping[str, int | None] | None = None,
    ) -> int:
        """Put something in force here; returns the version. Nothing is pushed yet.

        Args:
            runtime: the whole of the runtime file; None: as before.
            documents: those that changed; None as a value: it is gone.
            states: those that changed, likewise.
            limits: those that changed, likewise.
            sizes: those that changed, likewise.
        """
        former = self._overrides
        latter = replace(
            former,
            runtime=former.runtime if runtime is None else runtime,
            documents=merged_changes(former.documents, documents or {}),
            states=merged_changes(former.states, states or {}),
            limits=merged_changes(former.limits, limits or {}),
            sizes=merged_changes(former.sizes, sizes or {}),
        )
        # Room for the versions between the parts that the whole may be pushed in.
        room = part_count(entry_count(former) + entry_count(latter), ENTRIES_AT_ONCE)
        self._overrides = replace(latter, version=max(former.version + room, self._clock_ms()))
        return self._overrides.version

    def push_soon(self) -> None:
        """Carry what is in force here to all others, without waiting for it. One that fails is made up for."""
        task = asyncio.get_running_loop().create_task(self._push_or_log())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _push_or_log(self) -> None:
        try:
            await self.push()
        except Exception:
            log.exception("settings could not be pushed; they will be again")

    async def push(self) -> None:
        """Carry what is in force here to all others. Returns when those that can be reached have it.

        Raises:
            Exception: the controller could not be reached; :meth:`look` makes up for it.
        """
        async with self._pushing:
            # What was put meanwhile travels with it.
            latter = self._overrides
            if latter.version <= self._pushed.version:
                return
            with within(begun(self._tracer, "push settings", {"millrace.settings_version": latter.version})):
                for part in in_parts(change_between(self._pushed, latter), ENTRIES_AT_ONCE):
                    if not await self._push(part):
                        await self._tell(latter)
                        break
            self._pushed = latter

    async def tell(self) -> None:
        """Tell the controller everything."""
        async with self._pushing:
            latter = self._overrides
            with within(begun(self._tracer, "tell all settings", {"millrace.settings_version": latter.version})):
                await self._tell(latter)
            self._pushed = latter

    async def look(self, version: int, is_everywhere: bool) -> None:
        """Compare with what the controller says; tell it what it missed, or everything if it was restarted."""
        if self._pushing.locked():
            # What it lacks is on its way.
            return
        if version < self._pushed.version:
            log.warning("controller was restarted and is told everything again")
            await self.tell()
        elif self._pushed.version < self._overrides.version:
            await self.push()
        elif is_everywhere:
            await self.note_everywhere(version)

    async def note_everywhere(self, version: int) -> None:
        """Remember that every process has this version."""
        async with self._has_moved:
            self._everywhere = max(self._everywhere, version)
            self._has_moved.notify_all()

    async def is_everywhere(self, version: int, timeout_s: float) -> bool:
        """Wait until every process has a version, at most ``timeout_s`` seconds; return whether it has."""
        try:
            async with asyncio.timeout(timeout_s), self._has_moved:
                await self._has_moved.wait_for(lambda: self._everywhere >= version)
        except TimeoutError:
            return self._everywhere >= version
        return True
