"""The collector: an async actor that owns tenants, each in exactly one place."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx
import structlog

from cluster.errors import NotConfiguredError
from cluster.log_setup import set_up_logging
from cluster.measurements import Measurements
from cluster.version import VERSION
from tenants import _engine
from tenants.endpoint import EndpointCounters, Surroundings, SystemClock, new_client
from tenants.endpoint.tenant_collector import TenantCollector, TenantCollectorSnapshot
from tenants.identity.tenant_id import TenantId
from tenants.processing.flush_record import FlushRecord, Pulled, ShardKey
from tenants.processing.profile import ProfileBook
from tenants.settings.overrides import RuntimeOverrides
from tenants.settings.service_config import ServiceConfig

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_PULL_TIMEOUT_S = 30.0


class CollectorHost:
    """Pulls the records of its tenants from every shard host, merges them, and sends each tenant's series.

    State held: registries and send queues of its tenants, in memory. When the process dies they are lost; Ray restarts
    it empty, the controller configures it anew, and the shard hosts, seeing another incarnation, define their series
    again. ``configure`` and ``put_overrides`` may be repeated. Everything runs in one event loop.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._incarnation = time.time_ns()
        self._book: ProfileBook | None = None
        self._client: httpx.AsyncClient | None = None
        self._around: Surroundings | None = None
        self._flush_interval_s = 1.0
        self._hosts: dict[str, Any] = {}
        self._sources: dict[str, _HostProgress] = {}
        self._tenants: dict[TenantId, TenantCollector] = {}
        self._pulling: asyncio.Task[None] | None = None
        self._pull_failures: Counter[str] = Counter()

    async def configure(
        self, config: ServiceConfig, hosts: Mapping[str, Any], version: int, runtime: RuntimeOverrides
    ) -> None:
        """Begin to work, or go on with other hosts and newer overrides.

        Args:
            config: the service configuration, secrets included: they are passed in a call, never to the constructor,
                whose arguments Ray keeps.
            hosts: handles of all shard hosts, by name.
            version: of the overrides.
            runtime: the overrides.
        """
        set_up_logging(config.log, self._name)
        self._hosts = dict(hosts)
        self._flush_interval_s = config.cluster.flush_interval.seconds
        if self._book is None:
            self._book = ProfileBook(config)
            self._client = new_client()
            self._around = Surroundings(self._client, SystemClock(), random.Random(), VERSION)  # noqa: S311
            self._book.put_overrides(version, runtime)
            self._pulling = asyncio.get_running_loop().create_task(self._pull_for_ever())
        else:
            await self.put_overrides(version, runtime)

    async def put_overrides(self, version: int, runtime: RuntimeOverrides) -> None:
        """Put newer overrides in force for every tenant that is here."""
        book = self._configured_book()
        if book.put_overrides(version, runtime):
            for tenant, collector in self._tenants.items():
                collector.use(book.get(tenant))

    async def is_configured(self) -> bool:
        """Whether the process knows its settings: not so right after a restart."""
        return self._book is not None

    async def drain(self, deadline_s: float) -> bool:
        """Pull a last time, collect every tenant, send what waits; at most ``deadline_s`` seconds.

        Returns:
            Whether everything was sent.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + deadline_s
        if self._pulling is not None:
            self._pulling.cancel()
            await asyncio.wait([self._pulling])
        if self._book is None:
            return True
        # The second pull acknowledges the first, and fetches what a full outbox had to leave behind.
        for _ in range(2):
            await self._pull_all()
        left_s = max(0.0, ends_at - loop.time())
        sent = await asyncio.gather(*(collector.drain(left_s) for collector in self._tenants.values()))
        if self._client is not None:
            await self._client.aclose()
        return all(sent)

    async def snapshots(self) -> dict[TenantId, TenantCollectorSnapshot]:
        """Return the figures of every tenant."""
        return {tenant: collector.snapshot() for tenant, collector in self._tenants.items()}

    async def measure(self) -> Measurements:
        """Return this actor's metrics."""
        version = self._book.version if self._book else 0
        measured: Measurements = [("millrace_settings_version", (), version)]
        measured += [("millrace_pull_failures_total", (h,), n) for h, n in self._pull_failures.items()]
        for tenant, collector in self._tenants.items():
            measured += _measure_tenant(str(tenant), collector.snapshot())
        return measured

    def _configured_book(self) -> ProfileBook:
        if self._book is None:
            raise NotConfiguredError(self._name)
        return self._book

    async def _pull_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            await self._pull_all()
            await self._finish_tenants()
            await asyncio.sleep(max(0.0, self._flush_interval_s - (loop.time() - started)))

    async def _pull_all(self) -> None:
        await asyncio.gather(*(self._pull(name, host) for name, host in self._hosts.items()))

    async def _pull(self, name: str, host: Any) -> None:
        progress = self._sources.setdefault(name, _HostProgress())
        try:
            call = host.pull.remote(self._name, self._incarnation, progress.acknowledged)
            pulled: Pulled = await asyncio.wait_for(call, _PULL_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001  (whatever ails one host must not stop the others)
            self._pull_failures[name] += 1
            log.warning("pull from shard host failed", host=name, error=f"{type(error).__name__}: {error}"[:300])
            return
        if pulled.epoch != progress.epoch:
            self._begin_epoch(name, progress, pulled.epoch)
        held_back: set[ShardKey] = set()
        for record in pulled.records:
            # Records of a shard count in order: behind one that has to wait, the others wait too.
            if record.key not in held_back and not self._merge(name, progress, record):
                held_back.add(record.key)

    def _begin_epoch(self, name: str, progress: "_HostProgress", epoch: int) -> None:
        if progress.epoch:
            log.warning("shard host began anew, what it had not handed over is lost", host=name)
        for key in progress.acknowledged:
            if key.tenant in self._tenants:
                self._tenants[key.tenant].forget_source((name, progress.epoch, key))
        progress.epoch = epoch
        progress.acknowledged = {}

    def _merge(self, name: str, progress: "_HostProgress", record: FlushRecord) -> bool:
        key = record.key
        if record.sequence <= progress.acknowledged.get(key, 0):
            return True
        collector = self._tenants.get(key.tenant) or self._begin_tenant(key.tenant)
        try:
            if not collector.merge((name, progress.epoch, key), record.data):
                return False
        except _engine.MalformedFrame:
            # Sending it again would not make it better: it is dropped, so that what follows can pass.
            log.exception("flush record cannot be read, its counts are lost", shard=str(key))
        progress.acknowledged[key] = record.sequence
        return True

    def _begin_tenant(self, tenant: TenantId) -> TenantCollector:
        if self._around is None:
            raise NotConfiguredError(self._name)
        collector = self._tenants[tenant] = TenantCollector(self._configured_book().get(tenant), self._around)
        collector.start()
        log.info("tenant begins", tenant=str(tenant))
        return collector

    async def _finish_tenants(self) -> None:
        for tenant, collector in list(self._tenants.items()):
            if collector.is_finished:
                del self._tenants[tenant]
                await collector.close()
                log.info("tenant ended", tenant=str(tenant))


class _HostProgress:
    """How far the collector is with one shard host."""

    def __init__(self) -> None:
        self.epoch = 0
        self.acknowledged: dict[ShardKey, int] = {}


def _measure_tenant(tenant: str, snapshot: TenantCollectorSnapshot) -> Measurements:
    registry = snapshot.registry
    measured: Measurements = [
        ("millrace_records_merged_total", (tenant,), snapshot.records),
        ("millrace_collections_total", (tenant,), snapshot.collections),
        ("millrace_collection_seconds_total", (tenant,), snapshot.collection_s),
        ("millrace_registry_active_series", (tenant,), registry["active_series"]),
        ("millrace_registry_series_added_total", (tenant,), registry["series_added"]),
        ("millrace_registry_series_removed_total", (tenant,), registry["series_removed"]),
        ("millrace_registry_series_limited_total", (tenant,), registry["series_limited"]),
        ("millrace_registry_state_bytes", (tenant,), registry["state_bytes"]),
        ("millrace_service_graph_edges_total", (tenant,), registry["edges"]),
    ]
    discarded = {
        "edge_buffer_full": registry["dropped_spans"],
        "invalid_utf8": registry["invalid_utf8_edges"],
    }
    for reason, count in discarded.items():
        measured.append(("millrace_spans_discarded_total", (tenant, "service_graphs", reason), count))
    for kind in ("server", "client", "producer", "consumer"):
        expired = registry[f"expired_edges_{kind}"]
        label = f"SPAN_KIND_{kind.upper()}"
        measured.append(("millrace_service_graph_expired_edges_total", (tenant, label), expired))
    for endpoint in (*snapshot.endpoint.endpoints, *snapshot.endpoint.retiring):
        measured += _measure_endpoint(tenant, endpoint)
    return measured


def _measure_endpoint(tenant: str, counters: EndpointCounters) -> Measurements:
    label = (tenant, counters.endpoint)
    outcomes = {"sent": counters.samples_sent, "dropped": counters.samples_dropped, **counters.samples_failed}
    measured: Measurements = [
        ("millrace_remote_write_samples_total", (*label, outcome), count) for outcome, count in outcomes.items()
    ]
    measured += [
        ("millrace_remote_write_exemplars_total", label, counters.exemplars_sent),
        ("millrace_remote_write_bytes_total", label, counters.bytes_sent),
        ("millrace_remote_write_retries_total", label, counters.retries),
        ("millrace_remote_write_pending_samples", label, counters.pending_samples),
        ("millrace_remote_write_pending_bytes", label, counters.pending_bytes),
    ]
    if counters.highest_sent_timestamp_ms is not None:
        sent_s = counters.highest_sent_timestamp_ms / 1000
        measured.append(("millrace_remote_write_highest_sent_timestamp_seconds", label, sent_s))
    return measured
