"""The shard host: a threaded actor around the shards of many tenants."""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

import ray

from cluster import ray_compat
from cluster.errors import NotConfiguredError, StaleCollectorError
from cluster.log_setup import set_up_logging
from cluster.measurements import MAX_MEASURED_TENANTS, OTHER_TENANTS, Measurements, per_tenant
from cluster.placement import Routes
from cluster.process_measurements import measure_process
from cluster.version import VERSION
from tenants.identity.tenant_id import TenantId
from tenants.processing.flush_record import Acknowledgements, Claimed, FlushRecord, Place, Pulled, ShardKey
from tenants.processing.frame_group import FrameGroup
from tenants.processing.grouped import grouped
from tenants.processing.profile import ProfileBook
from tenants.processing.shard_set import ShardSet
from tenants.settings.in_force import OverridesChange, Put
from tenants.settings.service_config import ServiceConfig
from tenants.tracing.opening import open_tracer
from tenants.tracing.spans import Tracer, within

# The figure of a shard, and the metric that it adds to.
_FIGURES = {
    "entities": "millrace_shard_entities",
    "open_edges": "millrace_shard_open_edges",
    "fingerprints": "millrace_shard_fingerprints",
    "fingerprints_dropped": "millrace_shard_fingerprints_dropped_total",
    "outbox_records": "millrace_shard_outbox_records",
    "state_bytes": "millrace_shard_state_bytes",
}

_CLAIM_TIMEOUT_S = 5.0
"""Longest that frames wait for a claim: a collector that lives answers sooner. Beyond it they come again."""


class ShardHost:
    """Counts frames for the shards placed on it, and hands records to the collectors that pull them.

    State held: all shards, in memory. When the process dies, Ray restarts it empty and the controller configures it
    anew; it claims each shard from the collector, which knows it as of the last record that was journalled, and
    gateways send again what came later. Every method may be repeated: a request is counted once. Called from several
    threads at once: ingestion, claims, pulls and control each have their own, so that a flood of frames delays none of
    the others, and a claim that waits for the journal nobody but who needs it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._shards: ShardSet | None = None
        self._tracer: Tracer | None = None
        self._routes: Routes | None = None
        self._collectors: Mapping[str, Any] = {}
        self._incarnations: dict[str, int] = {}

    @ray.method(concurrency_group="control")
    def configure(
        self, config: ServiceConfig, routes: Routes, collectors: Mapping[str, Any], overrides: OverridesChange
    ) -> None:
        """Begin to work, or go on with newer routes and overrides.

        Args:
            config: the service configuration.
            routes: who owns which tenant.
            collectors: handles of all collectors, by name.
            overrides: the whole.
        """
        set_up_logging(config.log, self._name)
        # Before the shards: they claim as soon as they are here.
        self._routes, self._collectors = routes, collectors
        if self._shards is None:
            self._tracer = open_tracer(config.tracing, self._name, VERSION)
            book = ProfileBook(config)
            book.put_overrides(overrides)
            self._shards = ShardSet(book, self._claim, time.time_ns)
        self._shards.book.put_overrides(overrides)

    @ray.method(concurrency_group="control")
    def put_overrides(self, change: OverridesChange) -> bool:
        """Put newer overrides in force; false if the version that they change is not here."""
        return self._configured().book.put_overrides(change) is not Put.LACKS_BASE

    def ingest(self, group: FrameGroup) -> tuple[Place | None, ...]:
        """Count every frame of the group whose shard is here; answers when that is done.

        Returns:
            For each frame the flush record that will hold it, None if it could not be counted; after :meth:`adopt` it
            may be.

        Raises:
            NotConfiguredError: nothing was counted.
        """
        if not group.traceparent or self._tracer is None:
            return self._configured().apply(group)
        said = {"millrace.frames": len(group.heads), "millrace.bytes": len(group.payload)}
        with within(self._tracer.joined(group.traceparent, "count frames", said)):
            return self._configured().apply(group)

    @ray.method(concurrency_group="claim")
    def adopt(self, keys: Collection[ShardKey]) -> frozenset[ShardKey]:
        """Begin these shards, for something waits for them or in them; return those that count then."""
        return self._configured().begin(keys)

    @ray.method(concurrency_group="control")
    def durable(self, keys: Collection[ShardKey]) -> dict[ShardKey, Place]:
        """Return the last journalled record of each of these shards that is here."""
        return self._configured().durable(keys)

    @ray.method(concurrency_group="pull")
    def pull(
        self,
        collector: str,
        incarnation: int,
        acknowledged: Acknowledgements,
        fenced: Sequence[tuple[ShardKey, int]],
    ) -> Pulled:
        """Return what the collector's tenants counted and it has not acknowledged.

        Raises:
            StaleCollectorError: a later process of this collector has been here.
        """
        self._check(collector, incarnation)
        shards, routes = self._configured(), self._routes
        if routes is None:
            raise NotConfiguredError(self._name)

        def owns(tenant: TenantId) -> bool:
            return routes.collector_of(tenant) == collector

        return shards.pull(acknowledged, fenced, owns)

    @ray.method(concurrency_group="pull")
    def release(
        self, collector: str, incarnation: int, owned: Sequence[tuple[ShardKey, int]]
    ) -> tuple[FlushRecord, ...]:
        """Count no more for these shards in these epochs, for others take them over; return what they counted last.

        Raises:
            StaleCollectorError: a later process of this collector has been here.
        """
        self._check(collector, incarnation)
        return self._configured().release(owned)

    @ray.method(concurrency_group="control")
    def is_configured(self) -> bool:
        """Whether the process knows its settings: not so right after a restart."""
        return self._shards is not None

    @ray.method(concurrency_group="control")
    def measure(self) -> Measurements:
        """Return this actor's metrics."""
        if self._shards is None:
            return []
        by_shard = self._shards.stats()
        shown = set(islice(dict.fromkeys(str(key.tenant) for key in by_shard), MAX_MEASURED_TENANTS))
        totals: dict[str, Counter[str]] = {figure: Counter() for figure in _FIGURES}
        for key, stats in by_shard.items():
            tenant = str(key.tenant) if str(key.tenant) in shown else OTHER_TENANTS
            for figure, tenants in totals.items():
                tenants[tenant] += stats[figure]
        measured: Measurements = [
            ("millrace_shards", (), len(by_shard)),
            ("millrace_settings_version", (), self._shards.book.version),
            *measure_process(),
        ]
        if self._tracer is not None:
            measured += self._tracer.measure()
        for figure, tenants in totals.items():
            measured += per_tenant(_FIGURES[figure], tenants.items())
        return measured

    def _configured(self) -> ShardSet:
        if self._shards is None:
            raise NotConfiguredError(self._name)
        return self._shards

    def _check(self, collector: str, incarnation: int) -> None:
        newest = self._incarnations[collector] = max(incarnation, self._incarnations.get(collector, 0))
        if incarnation < newest:
            raise StaleCollectorError(collector)

    def _claim(self, keys: Sequence[ShardKey]) -> dict[ShardKey, Claimed]:
        """Ask the collectors for these ranges; called from the thread of claims."""
        if self._routes is None:
            raise NotConfiguredError(self._name)
        routes = self._routes
        by_collector = grouped(keys, lambda key: routes.collector_of(key.tenant))
        claims = [self._collectors[name].claim.remote(self._name, asked) for name, asked in by_collector.items()]
        answers: list[dict[ShardKey, Claimed]] = ray_compat.wait_for(claims, _CLAIM_TIMEOUT_S)
        return {key: claimed for answer in answers for key, claimed in answer.items()}
