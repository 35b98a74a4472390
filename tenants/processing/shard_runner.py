"""One shard with its outbox: what it counted stays here until the collector has it in the journal."""

import threading

from tenants import _engine
from tenants.processing.flush_record import Claimed, FlushRecord, Place, ShardKey
from tenants.processing.frame_group import FrameHead
from tenants.processing.outbox import Outbox
from tenants.processing.profile import TenantProfile

MAX_OUTBOX = 8
"""Records that wait to be acknowledged. At the bound nothing is flushed: the shard goes on counting in place. Only what
cannot be put off adds one: a change of settings, the end of the shard."""

_SWEEP_NS = 60_000_000_000

_LONGEST_PULL_NS = 60_000_000_000
"""Pulls that come less often come from a collector that was away, or could not write its journal."""


class ShardRunner:
    """A shard of the engine in one epoch, its records in order, and the settings it runs with.

    Safe to share between threads. Holds everything that was counted and not acknowledged; lost with the process.
    Whoever claims the range then goes on from the last record that was journalled, and gateways send again what came
    later.
    """

    def __init__(self, key: ShardKey, claimed: Claimed, profile: TenantProfile, now_ns: int) -> None:
        self.key = key
        self.epoch = claimed.epoch
        self.used_at_ns = now_ns
        self._profile = profile
        self._shard = _engine.Shard(profile.plan, index=key.index, count=key.count, state=claimed.state)
        self._lock = threading.Lock()
        self._outbox = Outbox(key, claimed.epoch)
        self._is_retired = False
        self._has_news = False
        self._flushed_at_ns = now_ns
        self._pulled_at_ns = now_ns

    @property
    def is_retired(self) -> bool:
        """Whether it counts nothing any more; its last records may still wait."""
        return self._is_retired

    @property
    def is_spent(self) -> bool:
        """Whether it is retired, and everything it counted is journalled."""
        return self._is_retired and not self._outbox

    @property
    def durable(self) -> Place:
        """The last record that is journalled."""
        return Place(self.epoch, self._outbox.acknowledged)

    def apply(self, head: FrameHead, frame: memoryview, profile: TenantProfile, now_ns: int) -> Place | None:
        """Count one frame that was not counted before, under ``profile`` from now on.

        Returns:
            The record that holds it, or will hold it; None if the runner is retired: nothing was counted, and its
            successor is to be asked.

        Raises:
            MalformedFrame: nothing was counted.
        """
        with self._lock:
            if self._is_retired:
                return None
            self._use(profile, now_ns)
            is_new = self._shard.apply(frame, now_ns, fingerprint=head.fingerprint, made_for=head.made_for)
            self.used_at_ns = now_ns
            self._has_news = self._has_news or is_new
            # What is neither counted nor in the ledger is in what was flushed last, or in what comes next.
            return Place(self.epoch, self._outbox.posted + self._has_news)

    def flush(self, acknowledged: Place | None, profile: TenantProfile, now_ns: int) -> tuple[FlushRecord, ...]:
        """Drop what is acknowledged, flush what is new, and return all that is left. Safe to repeat.

        Args:
            acknowledged: the last record that is journalled, as far as the collector knows.
            profile: the settings from now on.
            now_ns: the time.
        """
        with self._lock:
            if acknowledged is not None and acknowledged.epoch == self.epoch:
                self._outbox.acknowledge(acknowledged.sequence)
            self._age(now_ns)
            if not self._is_retired:
                self._use(profile, now_ns)
                if len(self._outbox) < MAX_OUTBOX and self._is_due(now_ns):
                    self._flush(now_ns)
            return tuple(self._outbox)

    def release(self, now_ns: int) -> tuple[FlushRecord, ...]:
        """Count nothing more; flush, and return all that is not acknowledged. Safe to repeat.

        Half edges stay open, for the successor.
        """
        with self._lock:
            if not self._is_retired:
                self._flush(now_ns)
                self._is_retired = True
            return tuple(self._outbox)

    def retire_if_idle(self, before_ns: int) -> bool:
        """Retire if nothing came since ``before_ns`` and nothing is left to hand over or to wait for."""
        with self._lock:
            if self._is_retired or self.used_at_ns >= before_ns or self._outbox or self._has_news:
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
            # A shard numbers its series anew under other settings.
            self._outbox.post(self._shard.set_plan(profile.plan, now_ns))
        self._profile = profile

    def _age(self, now_ns: int) -> None:
        """Let requests that are known grow older, unless what was counted waits for the journal.

        Whoever sent them is told that they are safe when they are journalled, and may send them again until then.
        """
        since_ns, self._pulled_at_ns = self._pulled_at_ns, now_ns
        if self._outbox or now_ns - since_ns > _LONGEST_PULL_NS:
            self._shard.hold_fingerprints(since_ns, now_ns)

    def _is_due(self, now_ns: int) -> bool:
        """Whether there may be something to flush; without news the engine still needs a turn to forget."""
        if self._has_news or now_ns - self._flushed_at_ns >= _SWEEP_NS:
            return True
        return bool(self._shard.stats()["open_edges"])

    def _flush(self, now_ns: int) -> None:
        self._outbox.post(self._shard.flush(now_ns))
        self._has_news = False
        self._flushed_at_ns = now_ns
