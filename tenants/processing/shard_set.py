"""All shards of one process. Knows neither how frames arrive nor who pulls the records.

What ails one shard stays with it: the others are counted, pulled and measured.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from tenants.identity.tenant_id import TenantId
from tenants.processing.flush_record import Acknowledgements, Claimed, FlushRecord, Place, Pulled, ShardKey
from tenants.processing.frame_group import FrameGroup, FrameHead
from tenants.processing.profile import ProfileBook
from tenants.processing.shard_runner import ShardRunner

IDLE_NS = 600_000_000_000
"""A shard without spans for this long, and with nothing left to say, is dropped."""

SPENT_NS = 60_000_000_000
"""A released shard whose records are all journalled is kept this long, so that every gateway learns of it."""

CLAIM_PAUSE_NS = 1_000_000_000
"""A shard that could not be had is not asked for again for so long: whoever sends for it may wait in vain each time."""

MAX_PULL_BYTES = 32 << 20
"""When an answer holds this many bytes of records, no further shard is asked: the next pull begins with it."""

Claim = Callable[[Sequence[ShardKey]], Mapping[ShardKey, Claimed]]
"""Ask the collectors for ranges. What is missing in the answer cannot be had now; raises if that holds for all."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


class ShardSet:
    """The shards of one shard host, each begun when somebody has a frame for it. Safe to share between threads.

    Counting waits for nobody; :meth:`begin` waits for the journal. All state is in memory and lost with the process.
    """

    def __init__(
        self,
        book: ProfileBook,
        claim: Claim,
        clock_ns: Callable[[], int],
        *,
        max_pull_bytes: int = MAX_PULL_BYTES,
        claim_pause_ns: int = CLAIM_PAUSE_NS,
    ) -> None:
        self.book = book
        self._claim = claim
        self._clock_ns = clock_ns
        self._max_pull_bytes = max_pull_bytes
        self._claim_pause_ns = claim_pause_ns
        self._lock = threading.Lock()
        self._claiming = threading.Lock()
        # When those were asked for that could not be had; of whoever claims.
        self._refused_at_ns: dict[ShardKey, int] = {}
        self._awaited: frozenset[ShardKey] = frozenset()
        # Of the shards that are awaited: epochs that were taken away before they were known here.
        self._released: dict[ShardKey, int] = {}
        self._runners: dict[ShardKey, ShardRunner] = {}
        self._next_pulled = 0

    def apply(self, group: FrameGroup) -> tuple[Place | None, ...]:
        """Count every frame of the group that can be counted now.

        Returns:
            For each frame the record that will hold it; None: not counted, because it is damaged, or its shard is
            broken or not here (see :meth:`begin`).
        """
        now_ns = self._clock_ns()
        payload, start = memoryview(group.payload), 0
        places = []
        for head in group.heads:
            places.append(self._apply(head, payload[start : start + head.length], now_ns))
            start += head.length
        return tuple(places)

    def pull(
        self,
        acknowledged: Acknowledgements,
        fenced: Collection[tuple[ShardKey, int]],
        owns: Callable[[TenantId], bool],
    ) -> Pulled:
        """Return the unacknowledged records of the tenants that the collector owns.

        Args:
            acknowledged: what the collector has journalled, of every shard that it takes to be here.
            fenced: shards and epochs that own their ranges no more: what they counted is void.
            owns: whether a tenant is the collector's.
        """
        now_ns = self._clock_ns()
        for key, epoch in fenced:
            self._fence(key, epoch)
        known = self._snapshot()
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
                waiting = runner.flush(acknowledged.get(runner.key), profile, now_ns)
                is_idle = runner.retire_if_idle(now_ns - IDLE_NS)
                if is_idle or (runner.is_spent and runner.used_at_ns < now_ns - SPENT_NS):
                    self._forget(runner)
            except Exception:
                log.exception("shard could not be flushed", shard=str(runner.key))
                continue
            records += waiting
            size += sum(len(record.data) for record in waiting)
        return Pulled(tuple(records), self._gone(acknowledged))

    def durable(self, keys: Collection[ShardKey]) -> dict[ShardKey, Place]:
        """Return the last journalled record of each of these shards that is here."""
        with self._lock:
            runners = [runner for key in keys if (runner := self._runners.get(key)) is not None]
        return {runner.key: runner.durable for runner in runners}

    def release(self, owned: Collection[tuple[ShardKey, int]]) -> tuple[FlushRecord, ...]:
        """Count no more for these shards, in these epochs or earlier ones; return what is not acknowledged of them.

        An epoch that was granted and is not known here yet is void when it arrives. Safe to repeat.
        """
        now_ns = self._clock_ns()
        runners = []
        with self._lock:
            for key, epoch in owned:
                runner = self._runners.get(key)
                if runner is not None and runner.epoch <= epoch:
                    runners.append(runner)
                if key in self._awaited:
                    self._released[key] = max(epoch, self._released.get(key, 0))
        return tuple(record for runner in runners for record in runner.release(now_ns))

    def stats(self) -> dict[ShardKey, dict[str, int]]:
        """Return the figures of every shard that can tell them."""
        figures = {}
        for runner in self._snapshot():
            try:
                figures[runner.key] = runner.stats()
            except Exception:
                log.exception("shard could not be measured", shard=str(runner.key))
        return figures

    def _apply(self, head: FrameHead, frame: memoryview, now_ns: int) -> Place | None:
        with self._lock:
            runner = self._runners.get(head.key)
        if runner is None:
            return None
        try:
            return runner.apply(head, frame, self.book.get(head.key.tenant), now_ns)
        except Exception:
            log.exception("frame could not be counted", shard=str(head.key))
            return None

    def _missing(self, keys: Collection[ShardKey]) -> list[ShardKey]:
        with self._lock:
            return [key for key in keys if (runner := self._runners.get(key)) is None or runner.is_retired]

    def begin(self, keys: Collection[ShardKey]) -> frozenset[ShardKey]:
        """Claim those of the shards that are not here, and begin them; return those that are here then.

        Blocks as long as the claim takes. One that cannot be had is left, and not asked for again for a while.
        """
        if self._missing(keys):
            # One claim at a time: another thread may just be getting the same shards.
            with self._claiming:
                if wanted := self._wanted(self._missing(keys)):
                    self._claim_and_begin(wanted)
        return frozenset(keys).difference(self._missing(keys))

    def _wanted(self, missing: Sequence[ShardKey]) -> list[ShardKey]:
        now_ns = self._clock_ns()
        self._refused_at_ns = {
            # A clock that was put back holds nobody up.
            key: at_ns
            for key, at_ns in self._refused_at_ns.items()
            if 0 <= now_ns - at_ns < self._claim_pause_ns
        }
        return [key for key in missing if key not in self._refused_at_ns]

    def _claim_and_begin(self, wanted: Sequence[ShardKey]) -> None:
        with self._lock:
            self._awaited = frozenset(wanted)
        claimed: Mapping[ShardKey, Claimed] = {}
        try:
            claimed = self._claim(wanted)
            for key in wanted:
                if key in claimed:
                    self._begin(key, claimed[key])
        except Exception as error:  # noqa: BLE001  (whatever ails the collector, the frames come again)
            log.warning("shards cannot be claimed", shards=len(wanted), error=f"{type(error).__name__}: {error}"[:300])
        finally:
            self._refused_at_ns |= dict.fromkeys(set(wanted).difference(claimed), self._clock_ns())
            with self._lock:
                self._awaited = frozenset()
                self._released.clear()

    def _begin(self, key: ShardKey, claimed: Claimed) -> None:
        try:
            runner = ShardRunner(key, claimed, self.book.get(key.tenant), self._clock_ns())
        except Exception:
            log.exception("shard could not be begun", shard=str(key))
            return
        with self._lock:
            if self._released.get(key, 0) < claimed.epoch:
                self._runners[key] = runner

    def _gone(self, acknowledged: Acknowledgements) -> tuple[tuple[ShardKey, int], ...]:
        # Before the shards, so that one that begins meanwhile is in one of the two.
        awaited = self._awaited
        with self._lock:
            here = {key: runner.epoch for key, runner in self._runners.items()}
        return tuple(
            (key, place.epoch)
            for key, place in acknowledged.items()
            if key not in awaited and here.get(key, 0) < place.epoch
        )

    def _fence(self, key: ShardKey, epoch: int) -> None:
        with self._lock:
            runner = self._runners.get(key)
            if runner is not None and runner.epoch == epoch:
                del self._runners[key]
                log.warning("shard lost its range, gateways send again what it had not handed over", shard=str(key))

    def _snapshot(self) -> Sequence[ShardRunner]:
        with self._lock:
            return tuple(self._runners.values())

    def _forget(self, runner: ShardRunner) -> None:
        with self._lock:
            # By identity: another thread may have put its successor there, which counts already.
            if self._runners.get(runner.key) is runner:
                del self._runners[runner.key]
