"""Everything that one tenant's metrics need behind the shards: its registry, its rhythm, its way out.

Knows neither Ray nor other tenants. One event loop owns it; encoding runs in a thread, so that a big tenant does not
hold up the others.
"""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import structlog

from tenants import _engine
from tenants.endpoint.batch import Batch
from tenants.endpoint.collection import CollectionSchedule
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.errors import InvalidEndpointError
from tenants.endpoint.surroundings import Surroundings
from tenants.endpoint.tenant_endpoint import TenantEndpoint, TenantEndpointSnapshot
from tenants.processing.profile import TenantProfile
from tenants.settings.remote_write import RemoteWriteEndpoint
from tenants.settings.tenant_settings import TenantSettings

_DEFAULT_MAX_SAMPLES = 2000

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TenantCollectorSnapshot:
    """What is known about one tenant at the collector.

    Attributes:
        registry: the engine's figures.
        endpoint: the way out.
        collections: collections so far.
        collection_s: seconds that encoding took in all of them.
        records: flush records merged.
    """

    registry: dict[str, int]
    endpoint: TenantEndpointSnapshot
    collections: int
    collection_s: float
    records: int


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
        self._endpoint = TenantEndpoint(str(self.tenant), endpoint_configs(settings), around)
        self._sources: dict[Hashable, int] = {}
        self._next_source = 0
        self._collections = 0
        self._collection_s = 0.0
        self._records = 0
        # Held while a thread encodes the registry: whatever would have to wait for it in the event loop is put off.
        self._lock = asyncio.Lock()
        self._put_off: list[Callable[[], None]] = []
        self._figures = self._registry.stats()
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
            self._when_free(lambda: self._registry.set_plan(profile.plan))
        self._schedule.set_interval(settings.collection_interval.seconds)
        if settings.remote_write != former.settings.remote_write:
            self._endpoint.reconfigure(endpoint_configs(settings))
        log.info("settings of the tenant changed", tenant=str(self.tenant))

    @property
    def is_finished(self) -> bool:
        """Whether the tenant generates nothing, and everything it had has ended and been sent."""
        if self._profile.settings.is_generating or self._lock.locked() or self._registry.stats()["entities"]:
            return False
        snapshot = self._endpoint.snapshot()
        return not any(endpoint.pending_batches for endpoint in (*snapshot.endpoints, *snapshot.retiring))

    async def collect(self) -> None:
        """Encode every series and queue it for the endpoints."""
        async with self._lock:
            loop = asyncio.get_running_loop()
            started = loop.time()
            timestamp_ms = self._schedule.begin(self._around.clock.now_ms())
            settings = self._profile.settings
            external = list(settings.external_labels)
            try:
                encoded = await asyncio.to_thread(
                    self._registry.collect, timestamp_ms, external, _max_samples(settings)
                )
            finally:
                self._do_what_was_put_off()
            self._endpoint.submit([Batch(b.body, b.samples, b.exemplars, b.series, timestamp_ms) for b in encoded])
            self._collections += 1
            self._collection_s += loop.time() - started

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
            self._figures = self._registry.stats()
        return TenantCollectorSnapshot(
            registry=self._figures,
            endpoint=self._endpoint.snapshot(),
            collections=self._collections,
            collection_s=self._collection_s,
            records=self._records,
        )

    async def _run(self) -> None:
        clock = self._around.clock
        while True:
            now_ms = clock.now_ms()
            wait_ms = self._schedule.due_ms(now_ms) - now_ms
            if wait_ms > 0:
                # In steps, so that a shorter interval or a clock set back is noticed.
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


def endpoint_configs(settings: TenantSettings) -> list[EndpointConfig]:
    """Turn a tenant's endpoint settings into those of the senders; one that cannot be used is logged and left out."""
    configs = []
    for endpoint in settings.remote_write:
        try:
            configs.append(_endpoint_config(endpoint))
        except InvalidEndpointError as error:
            log.error(  # noqa: TRY400  (the fault is in a setting; a traceback would say nothing)
                "remote_write endpoint cannot be used",
                tenant=str(settings.tenant),
                endpoint=endpoint.display_name,
                problem=str(error),
            )
    return configs


def _endpoint_config(endpoint: RemoteWriteEndpoint) -> EndpointConfig:
    return EndpointConfig(
        url=endpoint.url,
        name=endpoint.display_name,
        headers=tuple((name, value.get_secret_value()) for name, value in endpoint.headers.items()),
        timeout_s=endpoint.remote_timeout.seconds,
        max_queue_bytes=endpoint.queue_max_bytes,
        min_backoff_s=endpoint.min_backoff.seconds,
        max_backoff_s=endpoint.max_backoff.seconds,
    )


def _max_samples(settings: TenantSettings) -> int:
    """All endpoints get the same batches, so the most modest one decides their size."""
    limits = [endpoint.max_samples_per_send for endpoint in settings.remote_write]
    return min(limits, default=_DEFAULT_MAX_SAMPLES)
