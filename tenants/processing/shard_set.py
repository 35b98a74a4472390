"""All shards of one process. Knows neither how frames arrive nor who pulls the records.

What ails one shard stays with it: the others are counted, pulled and measured.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from tenants.identity.tenant_id import TenantId
from tenants.processing.flush_record import Acknowledgements, FlushRecord, Pulled, ShardKey
from tenants.processing.profile import ProfileBook
from tenants.processing.shard_runner import ShardRunner

IDLE_NS = 600_000_000_000
"""A shard without spans for this long, and with nothing left to say, is dropped."""

MAX_PULL_BYTES = 32 << 20
"""When an answer holds this many bytes of records, no further shard is asked: the next pull begins with it. A collector
that starts anew is sent the definitions of every series, and one answer must not fill the memory of both processes."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


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

    def __init__(self, book: ProfileBook, clock_ns: Callable[[], int], *, max_pull_bytes: int = MAX_PULL_BYTES) -> None:
        self.book = book
        self.epoch = clock_ns()
        self._clock_ns = clock_ns
        self._max_pull_bytes = max_pull_bytes
        self._lock = threading.Lock()
        self._runners: dict[ShardKey, ShardRunner] = {}
        self._next_pulled = 0

    def apply(self, group: FrameGroup) -> tuple[int, ...]:
        """Count every frame of the group that can be counted.

        Returns:
            Positions of the frames that were not counted: damaged, or their shard is broken.
        """
        now_ns = self._clock_ns()
        payload, start = memoryview(group.payload), 0
        uncounted = []
        for position, (key, length) in enumerate(group.shards):
            try:
                self._apply(key, payload[start : start + length], now_ns)
            except Exception:
                log.exception("frame could not be counted", shard=str(key))
                uncounted.append(position)
            start += length
        return tuple(uncounted)

    def pull(
        self,
        collector: str,
        incarnation: int,
        acknowledged: Acknowledgements,
        owns: Callable[[TenantId], bool],
    ) -> Pulled:
        """Return the unacknowledged records of the tenants that the collector owns.

        Args:
            collector: its name.
            incarnation: of its process. A new one has lost all definitions, so they are sent again.
            acknowledged: what it has merged.
            owns: whether a tenant is the collector's.
        """
        now_ns = self._clock_ns()
        known = self._snapshot()
        gone = tuple(acknowledged.keys() - {runner.key for runner in known})
        runners = [runner for runner in known if owns(runner.key.tenant)]
        records: list[FlushRecord] = []
        size = 0
        # Where the last pull ended, so that no shard has to wait for ever behind busy ones.
        first = self._next_pulled % max(1, len(runners))
        for count, runner in enumerate(runners[first:] + runners[:first]):
            if size >= self._max_pull_bytes:
                self._next_pulled = first + count
                break
            try:
                profile = self.book.get(runner.key.tenant)
                waiting = runner.flush((collector, incarnation), acknowledged.get(runner.key, 0), profile, now_ns)
                if runner.retire_if_idle(now_ns - IDLE_NS):
                    self._forget(runner)
            except Exception:
                log.exception("shard could not be flushed", shard=str(runner.key))
                continue
            records += waiting
            size += sum(len(record.data) for record in waiting)
        return Pulled(self.epoch, tuple(records), gone)

    def close_edges(self) -> None:
        """Let every half edge of every shard go: no more spans will come."""
        for runner in self._snapshot():
            try:
                runner.close_edges(self._clock_ns())
            except Exception:
                log.exception("edges of a shard could not be closed", shard=str(runner.key))

    def stats(self) -> dict[ShardKey, dict[str, int]]:
        """Return the figures of every shard that can tell them."""
        figures = {}
        for runner in self._snapshot():
            try:
                figures[runner.key] = runner.stats()
            except Exception:
                log.exception("shard could not be measured", shard=str(runner.key))
        return figures

    def _apply(self, key: ShardKey, frame: memoryview, now_ns: int) -> None:
        profile = self.book.get(key.tenant)
        while True:
            runner = self._runner(key, now_ns)
            if runner.apply(frame, profile, now_ns):
                return
            self._forget(runner)

    def _snapshot(self) -> Sequence[ShardRunner]:
        with self._lock:
            return tuple(self._runners.values())

    def _runner(self, key: ShardKey, now_ns: int) -> ShardRunner:
        with self._lock:
            runner = self._runners.get(key)
            if runner is None:
                runner = self._runners[key] = ShardRunner(key, self.book.get(key.tenant), now_ns)
            return runner

    def _forget(self, runner: ShardRunner) -> None:
        with self._lock:
            # By identity: another thread may have put its successor there, which counts already.
            if self._runners.get(runner.key) is runner:
                del self._runners[runner.key]
