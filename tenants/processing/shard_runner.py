"""One shard with its outbox: what it counted stays here until the collector says that it has it."""

import threading
from collections.abc import Hashable

from tenants import _engine
from tenants.processing.flush_record import FlushRecord, ShardKey
from tenants.processing.outbox import Outbox
from tenants.processing.profile import TenantProfile

MAX_OUTBOX = 8
"""Records that wait to be acknowledged. At the bound nothing is flushed: the shard goes on counting in place. Only what
cannot be put off adds one: a change of settings, the end of the shard, a collector that lost the definitions."""

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
        # Sequences begin beyond every number that a former shard of this key can have reached in this process.
        self._outbox = Outbox(key, now_ns)
        self._reader: Hashable = None
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

    def flush(
        self, reader: Hashable, acknowledged: int, profile: TenantProfile, now_ns: int
    ) -> tuple[FlushRecord, ...]:
        """Drop what is acknowledged, flush what is new, and return all that is left. Safe to repeat.

        Args:
            reader: the collector that asks. Another one than before knows no definitions: they are put before
                everything that waits.
            acknowledged: the last sequence that it has.
            profile: the settings from now on.
            now_ns: the time.
        """
        with self._lock:
            # First of all: what is put behind new definitions gets new sequences, and would be counted again.
            self._outbox.acknowledge(acknowledged)
            if self._reader not in (None, reader) and not self._outbox.is_self_contained:
                self._outbox.redefine(self._shard.redefine())
            self._reader = reader
            self._use(profile, now_ns)
            if len(self._outbox) < MAX_OUTBOX and self._is_due(now_ns):
                self._flush(now_ns)
            return tuple(self._outbox)

    def close_edges(self, now_ns: int) -> None:
        """Let every half edge go, however young: no more spans will come."""
        with self._lock:
            self._outbox.post(self._shard.flush(now_ns, close_edges=True))

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
        if profile.plan_text != self._profile.plan_text:
            self._flush(now_ns)
            # A shard numbers its series anew under other settings, and no longer knows what it had.
            self._outbox.end_numbering(self._shard.redefine())
            self._outbox.post(self._shard.set_plan(profile.plan, now_ns))
        self._profile = profile

    def _is_due(self, now_ns: int) -> bool:
        """Whether there may be something to flush; without news the engine still needs a turn to forget."""
        if self._has_news or now_ns - self._flushed_at_ns >= _SWEEP_NS:
            return True
        return bool(self._shard.stats()["open_edges"])

    def _flush(self, now_ns: int) -> None:
        self._outbox.post(self._shard.flush(now_ns))
        self._has_news = False
        self._flushed_at_ns = now_ns
