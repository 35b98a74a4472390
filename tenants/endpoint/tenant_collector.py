"""Everything that one tenant's metrics need behind the shards: its registry, its rhythm, its way out.

Knows neither Ray nor other tenants. One event loop owns it; encoding runs in a thread, so that a big tenant does not
hold up the others.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import structlog

from tenants import _engine
from tenants.endpoint.batch import Batch
from tenants.endpoint.collection import CollectionSchedule
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.endpoint_settings import endpoint_configs, max_samples, relabellings
from tenants.endpoint.surroundings import Surroundings
from tenants.endpoint.tenant_endpoint import TenantEndpoint, TenantEndpointSnapshot
from tenants.processing.profile import TenantProfile
from tenants.settings.tenant_settings import TenantSettings

_Figures = tuple[dict[str, int], dict[str, tuple[int, int]], tuple[list[tuple[float, int]], float]]

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


class TenantCollector:
    """Merges records and sends the series at the tenant's interval.

    State held: the cumulative registry and the queues of the endpoints, in memory. Whoever owns the tenant after this
    process died starts from nothing, which receivers see as a counter reset.
    """

    def __init__(self, profile: TenantProfile, around: Surroundings) -> None:
        now_ms = around.clock.now_ms()
        settings = profile.settings
        self.tenant = settings.tenant
        self._profile = profile
        self._around = around
        self._registry = _engine.Registry(profile.plan, now_ms)
        self._schedule = CollectionSchedule(
            str(self.tenant), settings.collection_interval.seconds, now_ms, last_timestamp_ms=now_ms
        )
        self._endpoint_update_failures = 0
        self._endpoint = TenantEndpoint(str(self.tenant), self._usable_endpoints(settings), around)
        self._sources: dict[Hashable, int] = {}
        self._next_source = 0
        self._collections = 0
        self._collections_failed = {"other": 0}
        self._collection_s = 0.0
        self._relabel: dict[str, _engine.Relabel | None] = {}
        self._relabel_left_out = dict.fromkeys(("collision", "without_name", "too_large"), 0)
        self._records = 0
        # What the registry goes on with after the next collection, which does not wait for its time: what was counted
        # under the former plan is sent before any of its series ends.
        self._next_plan: _engine.Plan | None = None
        # Held while a thread encodes the registry: whatever would have to wait for it in the event loop is put off.
        self._lock = asyncio.Lock()
        self._put_off: list[Callable[[], None]] = []
        self._figures = self._read_figures()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to collect and send; call once, in the event loop that owns the tenant."""
        self._endpoint.start()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def merge(self, source: Hashable, data: bytes) -> bool:
        """Add one record of the shard that ``source`` stands for.

        Returns:
            False if the registry is being encoded just now: nothing was added, and the shard will send it again.

        Raises:
            MalformedFrame: nothing was added.
        """
        if self._lock.locked():
            return False
        number = self._sources.get(source)
        if number is None:
            number = self._sources[source] = self._next_source
            self._next_source += 1
        self._registry.merge(number, data, self._around.clock.now_ms() * 1_000_000)
        self._records += 1
        return True

    def forget_source(self, source: Hashable) -> None:
        """Drop what is only needed to read records of a shard that is gone; its series stay."""
        number = self._sources.pop(source, None)
        if number is not None:
            self._when_free(lambda: self._registry.forget_source(number))

    def use(self, profile: TenantProfile) -> None:
        """Go on with other settings; those that did not change are not touched. Cheap if none did."""
        former, self._profile = self._profile, profile
        settings = profile.settings
        if settings == former.settings:
            return
        if profile.plan_text != former.plan_text:
            self._next_plan = profile.plan
        self._schedule.set_interval(settings.collection_interval.seconds)
        if settings.remote_write != former.settings.remote_write:
            self._endpoint.reconfigure(self._usable_endpoints(settings))
        log.info("settings of the tenant changed", tenant=str(self.tenant))

    @property
    def is_finished(self) -> bool:
        """Whether the tenant generates nothing, and everything it had has ended and been sent."""
        if self._profile.settings.is_generating or self._lock.locked() or self._registry.stats()["entities"]:
            return False
        snapshot = self._endpoint.snapshot()
        return not any(endpoint.pending_batches for endpoint in (*snapshot.endpoints, *snapshot.retiring))

    async def collect(self) -> None:
        """Encode every series and queue it for the endpoints.

        While the tenant's collection is disabled nothing is encoded or sent: series that are stale end, and the others
        go on counting.
        """
        async with self._lock:
            loop = asyncio.get_running_loop()
            started = loop.time()
            timestamp_ms = self._schedule.begin(self._around.clock.now_ms())
            plan, self._next_plan = self._next_plan, None
            try:
                encoded = await asyncio.to_thread(self._encode, self._profile.settings, timestamp_ms, plan)
            except Exception:
                self._collections_failed["other"] += 1
                raise
            finally:
                self._do_what_was_put_off()
                self._collections += 1
                self._collection_s += loop.time() - started
            for relabel, batches in encoded.items():
                self._endpoint.submit(batches, relabel)

    async def drain(self, deadline_s: float) -> bool:
        """Collect a last time and send what waits, at most ``deadline_s`` seconds; return whether nothing is left."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + deadline_s
        await self._stop_collecting()
        is_collected = await self._try_to_collect()
        is_sent = await self._endpoint.drain(max(0.0, ends_at - loop.time()))
        await self._endpoint.close()
        return is_collected and is_sent

    async def close(self) -> None:
        """Stop at once; what waits is counted as failed."""
        await self._stop_collecting()
        await self._endpoint.close()

    def snapshot(self) -> TenantCollectorSnapshot:
        """Return all figures as they are now; while a collection runs, those of the registry as they were before."""
        if not self._lock.locked():
            # A registry that a bug has broken says nothing any more; that collections fail still has to be seen.
            with contextlib.suppress(_engine.EngineError):
                self._figures = self._read_figures()
        registry, labels, drain_tokens_per_line = self._figures
        settings = self._profile.settings
        is_by_entity = settings.limiter_type == "entity"
        return TenantCollectorSnapshot(
            registry=registry,
            endpoint=self._endpoint.snapshot(),
            collections=self._collections,
            collection_s=self._collection_s,
            records=self._records,
            collections_failed=dict(self._collections_failed),
            endpoint_update_failures=self._endpoint_update_failures,
            max_active_series=None if is_by_entity else settings.max_active_series,
            max_active_entities=settings.max_active_entities if is_by_entity else None,
            labels=labels,
            relabel_left_out=dict(self._relabel_left_out),
            drain_tokens_per_line=drain_tokens_per_line,
        )

    def _read_figures(self) -> _Figures:
        registry = self._registry
        return registry.stats(), registry.label_stats(), registry.drain_tokens_per_line()

    def _encode(self, settings: TenantSettings, timestamp_ms: int, plan: _engine.Plan | None) -> dict[str, list[Batch]]:
        """Do the work of a collection, then go on with ``plan``; returns the batches by the rules that made them.

        In a thread: only the registry and what belongs to relabelling may be touched.
        """
        try:
            if settings.disable_collection:
                self._registry.sweep(timestamp_ms)
                return {}
            texts = relabellings(settings)
            self._relabel = {
                text: self._relabel.get(text) or (_engine.Relabel(text) if text else None) for text in texts
            }
            encoded = self._registry.collect_each(
                timestamp_ms, list(settings.external_labels), max_samples(settings), list(self._relabel.values())
            )
        finally:
            if plan is not None:
                self._registry.set_plan(plan)
        for _, left_out in encoded:
            for reason, count in left_out.items():
                self._relabel_left_out[reason] += count
        return {
            text: [_batch(written, timestamp_ms) for written in batches]
            for text, (batches, _) in zip(texts, encoded, strict=True)
        }

    def _usable_endpoints(self, settings: TenantSettings) -> list[EndpointConfig]:
        configs = endpoint_configs(settings)
        self._endpoint_update_failures += len(configs) < len(settings.remote_write)
        return configs

    async def _run(self) -> None:
        clock = self._around.clock
        while True:
            now_ms = clock.now_ms()
            wait_ms = self._schedule.due_ms(now_ms) - now_ms
            if wait_ms > 0 and self._next_plan is None:
                # In steps, so that other settings, a shorter interval or a clock set back are noticed.
                await clock.sleep(min(wait_ms, 1000) / 1000)
            else:
                await self._try_to_collect()

    async def _try_to_collect(self) -> bool:
        try:
            await self.collect()
        except Exception:
            # The schedule has moved on: the next collection comes at its time.
            log.exception("collection failed by a bug", tenant=str(self.tenant))
            return False
        return True

    async def _stop_collecting(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            # A collection that has begun is finished: what it encodes is encoded only once.
            async with self._lock:
                task.cancel()
            await asyncio.wait([task])

    def _when_free(self, work: Callable[[], None]) -> None:
        if self._lock.locked():
            self._put_off.append(work)
        else:
            work()

    def _do_what_was_put_off(self) -> None:
        put_off, self._put_off = self._put_off, []
        for work in put_off:
            work()


def _batch(written: _engine.WriteBatch, timestamp_ms: int) -> Batch:
    # A native histogram is a sample like any other: it can be lost, and is counted then.
    samples = written.samples + written.histograms
    return Batch(written.body, samples, written.exemplars, written.series, timestamp_ms)
