"""The shard host: a threaded actor around the shards of many tenants."""

import time
from collections import Counter
from itertools import islice

import ray

from cluster.errors import NotConfiguredError
from cluster.log_setup import set_up_logging
from cluster.measurements import MAX_MEASURED_TENANTS, OTHER_TENANTS, Measurements, per_tenant
from cluster.placement import Routes
from tenants.identity.tenant_id import TenantId
from tenants.processing.flush_record import Acknowledgements, Pulled
from tenants.processing.profile import ProfileBook, Put
from tenants.processing.shard_set import FrameGroup, ShardSet
from tenants.settings.in_force import OverridesChange
from tenants.settings.service_config import ServiceConfig

_FIGURES = ("entities", "open_edges", "outbox_records", "state_bytes")


class ShardHost:
    """Counts frames for the shards placed on it, and hands records to the collectors that pull them.

    State held: all shards, in memory. When the process dies, what no collector has acknowledged is lost; Ray restarts
    it empty, and the controller configures it anew. ``configure``, ``put_overrides`` and ``pull`` may be repeated;
    ``ingest`` counts again when it is. Called from several threads at once: ingestion, pulls and control each have
    their own, so that a flood of frames delays neither.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._shards: ShardSet | None = None
        self._routes: Routes | None = None

    @ray.method(concurrency_group="control")
    def configure(self, config: ServiceConfig, routes: Routes, overrides: OverridesChange) -> None:
        """Begin to work, or go on with newer routes and overrides; ``overrides`` is the whole."""
        set_up_logging(config.log, self._name)
        if self._shards is None:
            book = ProfileBook(config)
            book.put_overrides(overrides)
            self._shards = ShardSet(book, time.time_ns)
        self._shards.book.put_overrides(overrides)
        self._routes = routes

    @ray.method(concurrency_group="control")
    def put_overrides(self, change: OverridesChange) -> bool:
        """Put newer overrides in force; false if the version that they change is not here."""
        return self._configured().book.put_overrides(change) is not Put.LACKS_BASE

    def ingest(self, group: FrameGroup) -> tuple[int, ...]:
        """Count every frame of the group; answers when that is done.

        Returns:
            Positions of the frames that could not be counted.

        Raises:
            NotConfiguredError: nothing was counted.
        """
        return self._configured().apply(group)

    @ray.method(concurrency_group="pull")
    def pull(self, collector: str, incarnation: int, acknowledged: Acknowledgements) -> Pulled:
        """Return what the collector's tenants counted and it has not acknowledged."""
        shards, routes = self._configured(), self._routes
        if routes is None:
            raise NotConfiguredError(self._name)

        def owns(tenant: TenantId) -> bool:
            return routes.collector_of(tenant) == collector

        return shards.pull(collector, incarnation, acknowledged, owns)

    @ray.method(concurrency_group="control")
    def close_edges(self) -> None:
        """Let every half edge go: no more spans will come."""
        if self._shards is not None:
            self._shards.close_edges()

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
        ]
        for figure, tenants in totals.items():
            measured += per_tenant(f"millrace_shard_{figure}", tenants.items())
        return measured

    def _configured(self) -> ShardSet:
        if self._shards is None:
            raise NotConfiguredError(self._name)
        return self._shards
