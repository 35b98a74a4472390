"""Everything that one tenant's metrics need behind the shards: its state, its rhythm, its way out.

Whatever changes the state is journalled first, so that who comes after this process goes on with the same. Knows
neither Ray nor other tenants. One event loop owns it; encoding runs in a thread, so that a big tenant does not hold up
the others.
"""

import asyncio
import contextlib
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import structlog

from tenants import _engine
from tenants.endpoint.collection import CollectionSchedule
from tenants.endpoint.collection_encoder import CollectionEncoder
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.encoding import Encoded, Encoding
from tenants.endpoint.endpoint_settings import endpoint_configs
from tenants.endpoint.errors import OwnerSilentError
from tenants.endpoint.surroundings import Surroundings
from tenants.endpoint.tenant_endpoint import Backlog, TenantEndpoint, TenantEndpointSnapshot
from tenants.endpoint.work_threads import LONG_S, Result
from tenants.journal.entries import ClaimEntry, CollectEntry, Entry, PlanEntry, RecordEntry, ReleaseEntry
from tenants.journal.writer import JournalWriter
from tenants.processing.flush_record import Claimed, FlushRecord, Place, ShardKey
from tenants.processing.profile import TenantProfile
from tenants.processing.registry_view import RegistryView
from tenants.processing.tenant_state import TenantState
from tenants.settings.tenant_settings import TenantSettings
from tenants.store.errors import StoreUnavailable
from tenants.tracing.spans import Span, part, sampled, within

Release = Callable[[str, Sequence[tuple[ShardKey, int]]], Awaitable[Sequence[FlushRecord]]]
"""Ask a shard host, by name, to count no more for these shards in these epochs, and to hand over what they counted
last; nothing if it is dead, or given up: then its shards are void from now on. Raises ``OwnerSilentError`` if it does
not answer and is not to be given up yet."""

MIN_CHECKPOINT_BYTES = 4 << 20
"""A journal smaller than this is not worth a checkpoint."""

UNDELIVERED_ENTRIES = 8
"""How many times larger a journal may grow while collections wait to be delivered."""

_AGAIN_AFTER_S: Final = 1.0
"""Until the next attempt at a collection that failed, if it is due already."""

_CHECKPOINT_AGAIN_MS: Final = 60_000
"""Until the next attempt at a checkpoint: while one is written, the entries of all tenants wait."""


class _Figures(NamedTuple):
    registry: dict[str, int]
    labels: dict[str, tuple[int, int]]
    drain_tokens_per_line: tuple[list[tuple[float, int]], float]
    ledger: dict[tuple[str, str], int]


log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TenantCollectorSnapshot:
    """What is known about one tenant at the collector.

    Attributes:
        registry: the engine's figures.
        endpoint: the way out.
        collections: collections so far, failed ones and those while collection is disabled included.
        collection_s: seconds that all of them took.
        records: flush records merged.
        collections_failed: collections that failed, by type of the error (processors §5.5). Nothing is appended to a
            store here that could refuse it, so the only type is ``other``: a bug.
        endpoint_update_failures: settings put in force with an endpoint that cannot be used.
        max_active_series: the limit, 0 for none; None if the limiter does not count series.
        max_active_entities: the limit, 0 for none; None if the limiter does not count entities.
        labels: by label name, the values replaced so far and the estimate of the distinct ones.
        relabel_left_out: series that rules of endpoints made impossible to send, over all collections, by reason.
        drain_tokens_per_line: of the span names that patterns were sought for: upper bounds with cumulative counts,
            and the sum.
        shards: figures of what is kept for the successors of its shards; ``owned``: ranges that somebody counts for;
            ``count``: parts that the tenant is divided into.
        fenced_records: records of shards that had lost their range: what is in them came again.
        ledger: what became of the spans of all services, by stage and outcome.
    """

    registry: dict[str, int]
    endpoint: TenantEndpointSnapshot
    collections: int
    collection_s: float
    records: int
    collections_failed: dict[str, int] = field(default_factory=dict)
    endpoint_update_failures: int = 0
    max_active_series: int | None = None
    max_active_entities: int | None = None
    labels: dict[str, tuple[int, int]] = field(default_factory=dict)
    relabel_left_out: dict[str, int] = field(default_factory=dict)
    drain_tokens_per_line: tuple[list[tuple[float, int]], float] = field(default_factory=lambda: ([(math.inf, 0)], 0.0))
    shards: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("count", "owned", "open_edges", "state_bytes"), 0)
    )
    fenced_records: int = 0
    ledger: dict[tuple[str, str], int] = field(default_factory=dict)


class TenantCollector:
    """Journals and merges records, and sends the series at the tenant's interval.

    State held: the tenant's state, which the journal has too, and the queues of the endpoints. Whoever owns the tenant
    after this process died has the same state, goes on with what waits on disk, and encodes again the last collection.

    Args:
        state: of the tenant, new or from the journal.
        profile: the settings.
        around: what it needs from outside.
        journal: where every change goes first.
        release: how shards are taken from their hosts.
    """

    def __init__(
        self,
        state: TenantState,
        profile: TenantProfile,
        around: Surroundings,
        journal: JournalWriter,
        release: Release,
    ) -> None:
        now_ms = around.clock.now_ms()
        settings = profile.settings
        self.tenant = settings.tenant
        self._profile = profile
        self._around = around
        self._state = state
        self._journal = journal
        self._release = release
        self._schedule = CollectionSchedule(
            str(self.tenant), settings.collection_interval.seconds, now_ms, last_timestamp_ms=state.collected_at_ms
        )
        self._endpoint_update_failures = 0
        self._endpoint = TenantEndpoint(str(self.tenant), self._usable_endpoints(settings), around)
        self._encoder = CollectionEncoder()
        self._collections = 0
        self._collections_failed = {"other": 0}
        self._collection_s = 0.0
        self._records = 0
        # What the registry goes on with after the next collection, which does not wait for its time: what was counted
        # under the former plan is sent before any of its series ends.
        self._next: TenantProfile | None = profile if profile.plan_text != state.plan_text else None
        # Of the newest entry. Entries come into force in the order in which they were submitted.
        self._submitted: asyncio.Future[None] | None = None
        # Ranges that were taken from a host: it has to hear that its last records are journalled.
        self._former: dict[tuple[str, ShardKey], Place] = {}
        # Held while a thread works on the state, and while several changes have to follow one another: records that
        # come meanwhile wait with their shards.
        self._lock = asyncio.Lock()
        # Whether work on the state takes long; of one that was restored nobody knows yet.
        self._is_long = True
        self._figures = self._read_figures()
        self._no_checkpoint_before_ms = 0
        self._task: asyncio.Task[None] | None = None

    def start(self, undelivered: Iterable[Encoded] = (), backlog: Backlog | None = None) -> None:
        """Begin to collect and send; call once, in the event loop that owns the tenant.

        Args:
            undelivered: collections from before, not known to have been delivered: they are sent again, before others.
            backlog: what waits on disk: it is sent first.
        """
        self._endpoint.start(backlog)
        for encoded in undelivered:
            self._queue(encoded)
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def shards(self) -> int:
        """Parts that the tenant is divided into."""
        return self._profile.settings.shards

    def acknowledged(self, host: str) -> Iterable[tuple[ShardKey, Place]]:
        """Return the last record in force of each shard that the host owns."""
        for (name, key), place in self._former.items():
            if name == host:
                yield key, place
        for key, owner in self._state.owners.items():
            if owner.host == host:
                yield key, Place(owner.epoch, owner.sequence)

    def orphans(self) -> set[ShardKey]:
        """Return the shards that somebody has to begin, because half edges wait in their ranges and nobody counts."""
        count = self._profile.settings.shards
        return {
            key
            for orphan in self._state.orphans()
            for index in range(count)
            if (key := ShardKey(self.tenant, index, count)).overlaps(orphan)
        }

    def is_fenced(self, record: FlushRecord) -> bool:
        """Whether who made this record does not own its range, and may as well forget it."""
        return self._state.is_fenced(record.key, record.place)

    def take(self, records: Iterable[FlushRecord]) -> list[asyncio.Future[None]]:
        """Journal records of shards, in order, and merge them; each future is done when its record is in force.

        While the state is being worked on nothing is taken: the records come again. So do those of a shard that the
        journal has no room for.

        Raises:
            StoreError: nothing can be journalled any more.
        """
        if self._lock.locked():
            return []
        return self._take(records)

    def _take(self, records: Iterable[FlushRecord]) -> list[asyncio.Future[None]]:
        now_ns = self._around.clock.now_ms() * 1_000_000
        futures = []
        for record in records:
            key, (epoch, sequence) = record.key, record.place
            owner = self._state.owners.get(key)
            if owner is None or owner.epoch != epoch or sequence <= owner.sequence:
                continue
            try:
                durable = _engine.durable_part(record.data)
            except _engine.MalformedFrame:
                self._give_up(record)
                continue
            entry = RecordEntry(key.index, key.count, epoch, sequence, now_ns, durable)
            futures.append(self._submit(entry, partial(self._merge, entry, record)))
        return futures

    def _give_up(self, record: FlushRecord) -> None:
        """Take the range from a shard whose record cannot be read: gateways send again what was in it."""
        log.exception("flush record cannot be read", shard=str(record.key))
        entry = ReleaseEntry(record.key.index, record.key.count, record.place.epoch)
        self._submit(entry, partial(self._state.release, entry))

    def _submit(self, entry: Entry, then: Callable[[], None] | None = None) -> asyncio.Future[None]:
        self._submitted = self._journal.submit(self.tenant, entry, then)
        return self._submitted

    def _merge(self, entry: RecordEntry, record: FlushRecord) -> None:
        try:
            self._records += self._state.take(entry, record.data)
        except _engine.MalformedFrame:
            # Its shard has lost the range: gateways send the frames again.
            log.exception("flush record cannot be read", shard=str(record.key))

    async def claim(self, host: str, keys: Sequence[ShardKey]) -> dict[ShardKey, Claimed]:
        """Give ranges to a shard host, with what their former owners left; answers when that is journalled.

        Who counts for a part of them elsewhere, or under another division, is asked for its last records first. A range
        of which somebody may count a part, and does not answer, is not in the answer.
        """
        async with self._lock:
            former: defaultdict[str, set[tuple[ShardKey, int]]] = defaultdict(set)
            for key in keys:
                # Also from who claims: it may have begun meanwhile, if this call comes late or twice.
                for other, owner in self._state.overlapping(key):
                    former[owner.host].add((other, owner.epoch))
            for name, owned in list(former.items()):
                try:
                    records = await self._release(name, sorted(owned, key=str))
                except OwnerSilentError as error:
                    log.warning("shards cannot be claimed yet", tenant=str(self.tenant), problem=str(error))
                    kept = {other for other, _ in former.pop(name)}
                    keys = [key for key in keys if not any(map(key.overlaps, kept))]
                else:
                    await self._settled(self._take(records))
            for name, owned in former.items():
                for other, epoch in owned:
                    if (last := self._state.owners.get(other)) is not None:
                        self._former[name, other] = Place(epoch, last.sequence)
            claimed: dict[ShardKey, Claimed] = {}
            now_ms = self._around.clock.now_ms()
            futures = []
            for key in keys:
                epoch = self._state.next_epoch(now_ms)
                entry = ClaimEntry(key.index, key.count, host, epoch, now_ms * 1_000_000)
                futures.append(self._submit(entry, partial(self._give, key, entry, claimed)))
                now_ms = epoch + 1
            await self._settled(futures)
            # Of ranges that overlap, asked for at once, the last one has it.
            return {key: mine for key, mine in claimed.items() if self._owns(key, mine.epoch)}

    async def evict(self, host: str) -> None:
        """Take every range from a host that is to end, with what it counted last. Safe to repeat.

        Whoever is next claims a range when a frame comes, or half edges wait in it.

        Raises:
            StoreError: nothing can be journalled any more.
        """
        async with self._lock:
            owned = [(key, owner.epoch) for key, owner in self._state.owners.items() if owner.host == host]
            if not owned:
                return
            await self._settled(self._take(await self._release(host, sorted(owned, key=str))))
            futures = []
            for key, epoch in owned:
                # A record that could not be read has taken it already.
                if self._owns(key, epoch):
                    entry = ReleaseEntry(key.index, key.count, epoch)
                    futures.append(self._submit(entry, partial(self._state.release, entry)))
            await self._settled(futures)

    def forget(self, host: str) -> None:
        """Forget what a host, which is gone, was still to hear."""
        for name, key in list(self._former):
            if name == host:
                del self._former[name, key]

    def _owns(self, key: ShardKey, epoch: int) -> bool:
        owner = self._state.owners.get(key)
        return owner is not None and owner.epoch == epoch

    def _give(self, key: ShardKey, entry: ClaimEntry, claimed: dict[ShardKey, Claimed]) -> None:
        claimed[key] = self._state.claim(entry)

    async def let_go(self, host: str, gone: Iterable[tuple[ShardKey, int]]) -> None:
        """Note that a host does not count for these shards, in these epochs, any more."""
        async with self._lock:
            futures = []
            for key, epoch in gone:
                if (place := self._former.get((host, key))) and place.epoch <= epoch:
                    del self._former[host, key]
                owner = self._state.owners.get(key)
                if owner is not None and owner.epoch == epoch:
                    entry = ReleaseEntry(key.index, key.count, epoch)
                    futures.append(self._submit(entry, partial(self._state.release, entry)))
            await self._settled(futures)

    async def _settled(self, futures: Sequence[asyncio.Future[None]]) -> None:
        # Shielded: who gives up waiting must not take an entry out of the journal's order.
        for future in futures:
            await asyncio.shield(future)

    def use(self, profile: TenantProfile) -> None:
        """Go on with other settings; those that did not change are not touched. Cheap if none did."""
        former, self._profile = self._profile, profile
        settings = profile.settings
        if settings == former.settings:
            return
        if profile.plan_text != former.plan_text:
            self._next = profile
        self._schedule.set_interval(settings.collection_interval.seconds)
        if settings.remote_write != former.settings.remote_write:
            self._endpoint.reconfigure(self._usable_endpoints(settings))
        log.info("settings of the tenant changed", tenant=str(self.tenant))

    @property
    def is_finished(self) -> bool:
        """Whether the tenant generates nothing, and everything it had has ended and been sent."""
        if self._profile.settings.is_generating or self._lock.locked() or self._state.registry.stats()["entities"]:
            return False
        snapshot = self._endpoint.snapshot()
        return not any(endpoint.pending_batches for endpoint in (*snapshot.endpoints, *snapshot.retiring))

    async def collect(self) -> None:
        """Encode every series and queue it for the endpoints.

        While the tenant's collection is disabled nothing is encoded or sent: series that are stale end, and the others
        go on counting.

        Raises:
            StoreError: nothing can be journalled any more; nothing was encoded.
        """
        with within(sampled(self._around.tracer, "collect", tenant=self.tenant)) as span:
            await self._collect(span)

    async def _collect(self, span: Span | None) -> None:
        async with self._lock:
            loop = asyncio.get_running_loop()
            started = loop.time()
            settings, timestamp_ms = self._profile.settings, self._schedule.begin(self._around.clock.now_ms())
            if span is not None and self._around.tracer is not None:
                # Its batches are sent later, and by others.
                self._around.tracer.remember((str(self.tenant), timestamp_ms), span)
            encodings = self._endpoint.encodings()
            entry = CollectEntry(timestamp_ms, self._delivered_ms(), settings.disable_collection)
            try:
                # Before a sample leaves: whoever comes after this process must not be behind what was sent.
                with part("journal"):
                    await self._settled([self._submit(entry, partial(self._state.begin_collection, entry))])
                with part("encode"):
                    encoded = await self._work(partial(self._encode, settings, timestamp_ms, encodings))
                await self._switch()
            except Exception:
                self._collections_failed["other"] += 1
                raise
            finally:
                self._collections += 1
                self._collection_s += loop.time() - started
            self._queue(encoded)

    async def _work(self, work: Callable[[], Result]) -> Result:
        """Work on the state in a thread."""
        loop = asyncio.get_running_loop()
        started = loop.time()

        def timed() -> Result:
            nonlocal started
            started = loop.time()
            return work()

        try:
            return await self._around.threads.run(timed, is_long=self._is_long)
        finally:
            # Without the time that it waited for a thread.
            self._is_long = loop.time() - started > LONG_S

    async def _switch(self) -> None:
        """Go on with other settings, if there are."""
        profile, self._next = self._next, None
        if profile is not None:
            entry = PlanEntry(profile.plan_text)
            await self._settled([self._submit(entry)])
            await self._work(partial(self._state.set_plan, entry, profile.plan))

    async def checkpoint_if_due(self) -> None:
        """Write the whole state into the journal, if the entries since the last time have outgrown it.

        Of a collection that is neither delivered nor on disk only the entries know. They are given up when there are
        far too many.
        """
        sizes = self._journal.sizes(self.tenant)
        due = max(MIN_CHECKPOINT_BYTES, sizes.checkpoint)
        is_delivered = self._endpoint.oldest_volatile_ms is None
        if sizes.entries < (due if is_delivered else UNDELIVERED_ENTRIES * due):
            return
        async with self._lock:
            # What was submitted before is in force only when it is committed.
            if self._submitted is not None:
                await self._settled([self._submitted])
            state = await self._work(self._state.checkpoint)
            await self._journal.checkpoint(self.tenant, lambda: state)

    def _delivered_ms(self) -> int:
        """Every collection up to this time was delivered or given up, or is on disk."""
        oldest_ms = self._endpoint.oldest_volatile_ms
        return self._state.collected_at_ms if oldest_ms is None else oldest_ms - 1

    def _queue(self, encoded: Encoded) -> None:
        if encoded:
            self._endpoint.submit(encoded)

    async def drain(self, deadline_s: float) -> bool:
        """Collect a last time and send what waits, at most ``deadline_s`` seconds; return whether nothing is left."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + deadline_s
        is_collected = False
        with contextlib.suppress(TimeoutError):
            # A journal that cannot be written to holds up collections.
            async with asyncio.timeout(deadline_s):
                await self._stop_collecting()
                is_collected = await self._try_to_collect()
        is_sent = await self._endpoint.drain(max(0.0, ends_at - loop.time()))
        await self._endpoint.close()
        return is_collected and is_sent

    async def close(self) -> None:
        """Stop at once; what waits goes on disk, or is counted as failed."""
        await self._stop_collecting()
        await self._endpoint.close()

    def snapshot(self) -> TenantCollectorSnapshot:
        """Return all figures as they are now; while a collection runs, those of the registry as they were before."""
        if not self._lock.locked():
            # A registry that a bug has broken says nothing any more; that collections fail still has to be seen.
            with contextlib.suppress(_engine.EngineError):
                self._figures = self._read_figures()
        figures = self._figures
        settings = self._profile.settings
        is_by_entity = settings.limiter_type == "entity"
        return TenantCollectorSnapshot(
            registry=figures.registry,
            endpoint=self._endpoint.snapshot(),
            collections=self._collections,
            collection_s=self._collection_s,
            records=self._records,
            collections_failed=dict(self._collections_failed),
            endpoint_update_failures=self._endpoint_update_failures,
            max_active_series=None if is_by_entity else settings.max_active_series,
            max_active_entities=settings.max_active_entities if is_by_entity else None,
            labels=figures.labels,
            relabel_left_out=dict(self._encoder.left_out),
            drain_tokens_per_line=figures.drain_tokens_per_line,
            shards=self._state.mirror_stats() | {"count": settings.shards, "owned": len(self._state.owners)},
            fenced_records=self._state.fenced_records,
            ledger=figures.ledger,
        )

    async def ledger(self) -> list[tuple[str, str, str, int]]:
        """Return what became of the spans, by service, stage and outcome, when nobody works on the state."""
        async with self._lock:
            return self._state.registry.ledger()

    async def view(self) -> RegistryView:
        """Return what the registry holds, added up, when nobody works on the state."""
        async with self._lock:
            return await self._around.threads.run(partial(RegistryView.of, self._state.registry), is_long=self._is_long)

    def _read_figures(self) -> _Figures:
        registry = self._state.registry
        return _Figures(
            registry.stats(), registry.label_stats(), registry.drain_tokens_per_line(), registry.ledger_totals()
        )

    def _encode(self, settings: TenantSettings, timestamp_ms: int, encodings: Sequence[Encoding]) -> Encoded:
        """Do the work of a collection. In a thread: only the registry and the encoder may be touched."""
        if settings.disable_collection:
            self._state.registry.sweep(timestamp_ms)
            return {}
        return self._encoder.encode(self._state.registry, settings, timestamp_ms, encodings)

    def _usable_endpoints(self, settings: TenantSettings) -> list[EndpointConfig]:
        configs = endpoint_configs(settings)
        self._endpoint_update_failures += len(configs) < len(settings.remote_write)
        return configs

    async def _run(self) -> None:
        clock = self._around.clock
        while True:
            now_ms = clock.now_ms()
            wait_ms = self._schedule.due_ms(now_ms) - now_ms
            if wait_ms > 0 and self._next is None:
                # In steps, so that other settings, a shorter interval or a clock set back are noticed.
                await clock.sleep(min(wait_ms, 1000) / 1000)
            elif not await self._try_to_collect():
                # Neither other settings, which wait for it, nor its time would hold up the next attempt.
                await clock.sleep(_AGAIN_AFTER_S)

    async def _try_to_collect(self) -> bool:
        try:
            # What the last collection has left goes on disk: then of one collection at most, the newest, nobody knows
            # how far it was delivered, and who comes after this process sends nothing that is not the newest.
            await self._endpoint.spill()
            await self._try_checkpoint()
            await self.collect()
        except Exception:
            log.exception("collection failed by a bug", tenant=str(self.tenant))
            return False
        return True

    async def _try_checkpoint(self) -> None:
        """Write one if it is due. One that fails holds up nothing: all entries are there still."""
        now_ms = self._around.clock.now_ms()
        if now_ms < self._no_checkpoint_before_ms:
            return
        try:
            await self.checkpoint_if_due()
        except StoreUnavailable as error:
            self._no_checkpoint_before_ms = now_ms + _CHECKPOINT_AGAIN_MS
            log.warning("checkpoint cannot be written", tenant=str(self.tenant), problem=str(error))

    async def _stop_collecting(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            # A collection that has begun is finished: what it encodes is encoded only once.
            async with self._lock:
                task.cancel()
            await asyncio.wait([task])
