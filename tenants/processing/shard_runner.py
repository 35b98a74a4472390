"""One shard with its outbox: what it counted stays here until the collector says that it has it."""

import threading
from collections import deque

from tenants import _engine
from tenants.processing.flush_record import FlushRecord, ShardKey
from tenants.processing.profile import TenantProfile

MAX_OUTBOX = 8
"""Records that wait to be acknowledged. At the bound nothing is flushed: the shard goes on counting in place."""

_SWEEP_NS = 60_000_000_000


class ShardRunner:
    """A shard of the engine, its records in order, and the settings it runs with. Safe to share between threads.

    Holds everything that was counted and not acknowledged; lost with the process.
    """

    def __init__(self, key: ShardKey, profile: TenantProfile, now_ns: int) -> None:
        self.key = key
        self.used_at_ns = now_ns
        self._profile = profile
        self._shard = _engine.Shard(profile.plan)
        self._lock = threading.Lock()
        self._outbox: deque[FlushRecord] = deque()
        # Beyond every number that a former shard of this key can have reached in this process.
        self._sequence = now_ns
        self._is_retired = False
        self._has_news = False
        self._flushed_at_ns = now_ns

    def apply(self, frame: memoryview, profile: TenantProfile, now_ns: int) -> bool:
        """Count one frame, under ``profile`` from now on.

        Returns:
            False if the runner is retired; nothing was counted, and its successor is to be asked.

        Raises:
            MalformedFrame: nothing was counted.
        """
        with self._lock:
            if self._is_retired:
                return False
            self._use(profile, now_ns)
            self._shard.apply(frame, now_ns)
            self.used_at_ns = now_ns
            self._has_news = True
            return True

    def flush(self, acknowledged: int, profile: TenantProfile, now_ns: int) -> list[FlushRecord]:
        """Drop what is acknowledged, flush what is new, and return all that is left. Safe to repeat."""
        with self._lock:
            while self._outbox and self._outbox[0].sequence <= acknowledged:
                self._outbox.popleft()
            self._use(profile, now_ns)
            if len(self._outbox) < MAX_OUTBOX and self._is_due(now_ns):
                self._flush(now_ns)
            return list(self._outbox)

    def close_edges(self, now_ns: int) -> None:
        """Let every half edge go, however young: no more spans will come."""
        with self._lock:
            self._post(self._shard.flush(now_ns, close_edges=True))

    def redefine(self) -> None:
        """Put the definitions of all series before everything that waits: the collector knows nothing any more."""
        with self._lock:
            waiting = list(self._outbox)
            self._outbox.clear()
            self._post(self._shard.redefine())
            for record in waiting:
                self._post(record.data)

    def retire_if_idle(self, before_ns: int) -> bool:
        """Retire if nothing came since ``before_ns`` and nothing is left to hand over or to wait for."""
        with self._lock:
            if self.used_at_ns >= before_ns or self._outbox or self._has_news:
                return False
            stats = self._shard.stats()
            self._is_retired = not stats["open_edges"] and not stats["entities"]
            return self._is_retired

    def stats(self) -> dict[str, int]:
        """Return the engine's figures and ``outbox_records``."""
        return self._shard.stats() | {"outbox_records": len(self._outbox)}

    def _use(self, profile: TenantProfile, now_ns: int) -> None:
        if profile.plan is not self._profile.plan:
            self._post(self._shard.set_plan(profile.plan, now_ns))
        self._profile = profile

    def _is_due(self, now_ns: int) -> bool:
        """Whether there may be something to flush; without news the engine still needs a turn to forget."""
        if self._has_news or now_ns - self._flushed_at_ns >= _SWEEP_NS:
            return True
        return bool(self._shard.stats()["open_edges"])

    def _flush(self, now_ns: int) -> None:
        self._has_news = False
        self._flushed_at_ns = now_ns
        self._post(self._shard.flush(now_ns))

    def _post(self, data: bytes) -> None:
        if data:
            self._sequence += 1
            self._outbox.append(FlushRecord(self.key, self._sequence, data))
