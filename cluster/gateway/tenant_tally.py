"""What a gateway was sent and has accepted, tenant by tenant, and which processors it was accepted for.

Counts and measures; decides nothing. Every figure is since the process started.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from cluster.measurements import MAX_MEASURED_TENANTS, OTHER_TENANTS, Distribution, Measurements
from tenants import _engine
from tenants.identity.tenant_id import TenantId
from tenants.settings.processors import ProcessorName
from tenants.settings.tenant_settings import TenantSettings

# Discards that a processor can bring about, by stage and reason: they exist, at zero, as soon as it is active
# (processors §5.5). Edges are built behind the gateway; their zero stands here for the tenant that has none yet.
_DISCARDS: Final[Mapping[ProcessorName, tuple[tuple[str, str], ...]]] = {
    ProcessorName.SPAN_METRICS: (("span_metrics", "span_metrics_filtered"), ("span_metrics", "invalid_utf8")),
    ProcessorName.SERVICE_GRAPHS: (("service_graphs", "service_graphs_filtered"), ("service_graphs", "invalid_utf8")),
    ProcessorName.HOST_INFO: (("host_info", "invalid_utf8"),),
}


_LATENCY_BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, math.inf)


@dataclass(slots=True)
class _AddedLatency:
    """How long answers were held back, in the buckets of a histogram."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_LATENCY_BOUNDS_S))
    total_s: float = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(_LATENCY_BOUNDS_S, seconds)] += 1
        self.total_s += seconds

    def measure(self) -> Distribution:
        return Distribution(tuple(zip(_LATENCY_BOUNDS_S, accumulate(self.counts), strict=True)), self.total_s)


@dataclass(slots=True)
class _Tally:
    """One tenant's figures. ``active`` is None until a processor was active, or should have been."""

    ingress_bytes: int = 0
    spans: int = 0
    bytes: int = 0
    skipped_pushes: int = 0
    ignored_multipliers: int = 0
    update_failures: int = 0
    discarded: Counter[tuple[str, str]] = field(default_factory=Counter)
    truncated: Counter[str] = field(default_factory=Counter)
    added_latency: _AddedLatency | None = None
    settings: TenantSettings | None = None
    active: frozenset[ProcessorName] | None = None

    def use(self, settings: TenantSettings) -> None:
        if settings is self.settings:
            return
        self.settings = settings
        active = frozenset(settings.active_processors)
        for processor in active:
            self.discarded.update(dict.fromkeys(_DISCARDS[processor], 0))
        if active or self.active is not None:
            self.active = active

    def count_update_failure(self) -> None:
        self.update_failures += 1
        self.active = self.active or frozenset()

    def count(self, body_bytes: int, split: _engine.Split) -> None:
        self.bytes += body_bytes
        # What a client was told is refused was never accepted (tenancy D-18).
        self.spans += split.received_spans - sum(split.rejected.values())
        self.skipped_pushes += split.skipped_processor_pushes
        self.ignored_multipliers += split.ignored_multipliers
        self.discarded.update(split.discarded)
        self.truncated.update(split.attributes_truncated)
        self.discarded.update({("gateway", reason): spans for reason, spans in split.rejected.items()})

    def measure(self, tenant: str) -> Measurements:
        measured: Measurements = [
            ("millrace_ingress_bytes_total", (tenant,), self.ingress_bytes),
            ("millrace_bytes_received_total", (tenant,), self.bytes),
            ("millrace_spans_received_total", (tenant,), self.spans),
        ]
        for (stage, reason), spans in self.discarded.items():
            measured.append(("millrace_spans_discarded_total", (tenant, stage, reason), spans))
        for scope, attributes in self.truncated.items():
            measured.append(("millrace_attributes_truncated_total", (tenant, scope), attributes))
        if self.added_latency is not None:
            measured.append(("millrace_added_latency_seconds", (tenant,), self.added_latency.measure()))
        if self.active is None and not self.skipped_pushes and not self.ignored_multipliers:
            # A tenant without processors, known or not, has no more than this.
            return measured
        measured += [
            ("millrace_metrics_generation_skipped_processor_pushes_total", (tenant,), self.skipped_pushes),
            ("millrace_ignored_span_multipliers_total", (tenant,), self.ignored_multipliers),
        ]
        if self.active is not None:
            measured.append(("millrace_active_processors_update_failed_total", (tenant,), self.update_failures))
            for processor in ProcessorName:
                is_active = float(processor in self.active)
                measured.append(("millrace_active_processors", (tenant, processor.value), is_active))
        return measured


class TenantTally:
    """The figures of all tenants. One event loop owns it.

    Tenants beyond :data:`~cluster.measurements.MAX_MEASURED_TENANTS` are counted together.
    """

    def __init__(self) -> None:
        self._tenants: dict[TenantId, _Tally] = {}
        self._others = _Tally()

    @property
    def tenants(self) -> tuple[TenantId, ...]:
        """The tenants that have a figure of their own."""
        return tuple(self._tenants)

    def count_ingress(self, tenant: TenantId, body_bytes: int) -> bool:
        """Count one request whatever becomes of it; return whether it began a figure of the tenant's own."""
        is_new = tenant not in self._tenants and len(self._tenants) < MAX_MEASURED_TENANTS
        if is_new:
            self._tenants[tenant] = _Tally()
        self._of(tenant).ingress_bytes += body_bytes
        return is_new

    def count(self, tenant: TenantId, body_bytes: int, split: _engine.Split) -> None:
        """Count one request that was accepted, and before as ingress (tenancy D-18)."""
        self._of(tenant).count(body_bytes, split)

    def count_refused(self, tenant: TenantId, reason: str, spans: int) -> None:
        """Count the spans of a request that was not let in."""
        self._of(tenant).discarded["gateway", reason] += spans

    def count_added_latency(self, tenant: TenantId, seconds: float) -> None:
        """Count an answer that may have been held back, by how long it was."""
        tally = self._of(tenant)
        tally.added_latency = tally.added_latency or _AddedLatency()
        tally.added_latency.observe(seconds)

    def use(self, settings: TenantSettings) -> None:
        """Show the processors of these settings from now on, if the tenant has a figure of its own."""
        if tally := self._tenants.get(settings.tenant):
            tally.use(settings)

    def count_update_failure(self, tenant: TenantId) -> None:
        """Count settings that could not be put in force, if the tenant has a figure of its own."""
        if tally := self._tenants.get(tenant):
            tally.count_update_failure()

    def _of(self, tenant: TenantId) -> _Tally:
        return self._tenants.get(tenant, self._others)

    def measure(self) -> Measurements:
        """Return the metrics of all tenants."""
        measured: Measurements = []
        for tenant, tally in self._tenants.items():
            measured += tally.measure(str(tenant))
        if self._others.ingress_bytes:
            measured += self._others.measure(OTHER_TENANTS)
        return measured
