"""All shards of one process. Knows neither how frames arrive nor who pulls the records."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tenants.identity.tenant_id import TenantId
from tenants.processing.flush_record import Acknowledgements, FlushRecord, Pulled, ShardKey
from tenants.processing.profile import ProfileBook
from tenants.processing.shard_runner import ShardRunner

IDLE_NS = 600_000_000_000
"""A shard without spans for this long, and with nothing left to say, is dropped."""


@dataclass(frozen=True, slots=True)
class FrameGroup:
    """Frames of many tenants in one buffer: one call carries them all.

    Attributes:
        shards: the shard and the number of bytes of each frame, in the order of ``payload``.
        payload: the frames, one after the other.
    """

    shards: tuple[tuple[ShardKey, int], ...]
    payload: bytes


class ShardSet:
    """The shards of one shard host, created by their first frame. Safe to share between threads.

    All state is in memory and lost with the process. ``epoch`` tells two lives of a process apart.
    """

    def __init__(self, book: ProfileBook, clock_ns: Callable[[], int]) -> None:
        self.book = book
        self.epoch = clock_ns()
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._runners: dict[ShardKey, ShardRunner] = {}
        self._collectors: dict[str, int] = {}

    def apply(self, group: FrameGroup) -> None:
        """Count every frame of the group.

        Raises:
            MalformedFrame: a frame is damaged; those before it were counted.
        """
        now_ns = self._clock_ns()
        payload, start = memoryview(group.payload), 0
        for key, length in group.shards:
            profile = self.book.get(key.tenant)
            frame = payload[start : start + length]
            while not self._runner(key, now_ns).apply(frame, profile, now_ns):
                self._forget(key)
            start += length

    def pull(
        self,
        collector: str,
        incarnation: int,
        acknowledged: Acknowledgements,
        owns: Callable[[TenantId], bool],
    ) -> Pulled:
        """Return all unacknowledged records of the tenants that the collector owns.

        Args:
            collector: its name.
            incarnation: of its process. A new one has lost all definitions, so they are sent again.
            acknowledged: what it has merged.
            owns: whether a tenant is the collector's.
        """
        now_ns = self._clock_ns()
        runners = [runner for runner in self._snapshot() if owns(runner.key.tenant)]
        if self._collectors.setdefault(collector, incarnation) != incarnation:
            self._collectors[collector] = incarnation
            for runner in runners:
                runner.redefine()
        records: list[FlushRecord] = []
        for runner in runners:
            profile = self.book.get(runner.key.tenant)
            records += runner.flush(acknowledged.get(runner.key, 0), profile, now_ns)
        self._drop_idle(runners, now_ns)
        return Pulled(self.epoch, tuple(records))

    def close_edges(self) -> None:
        """Let every half edge of every shard go: no more spans will come."""
        for runner in self._snapshot():
            runner.close_edges(self._clock_ns())

    def stats(self) -> dict[ShardKey, dict[str, int]]:
        """Return the figures of every shard."""
        return {runner.key: runner.stats() for runner in self._snapshot()}

    def _snapshot(self) -> Sequence[ShardRunner]:
        with self._lock:
            return tuple(self._runners.values())

    def _runner(self, key: ShardKey, now_ns: int) -> ShardRunner:
        with self._lock:
            runner = self._runners.get(key)
            if runner is None:
                runner = self._runners[key] = ShardRunner(key, self.book.get(key.tenant), now_ns)
            return runner

    def _forget(self, key: ShardKey) -> None:
        with self._lock:
            self._runners.pop(key, None)

    def _drop_idle(self, runners: Iterable[ShardRunner], now_ns: int) -> None:
        for runner in runners:
            if runner.retire_if_idle(now_ns - IDLE_NS):
                self._forget(runner.key)
