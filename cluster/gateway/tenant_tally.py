"""What a gateway has accepted, tenant by tenant, and which processors it was accepted for.

Counts and measures; decides nothing. Every figure is since the process started.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cluster.measurements import MAX_MEASURED_TENANTS, OTHER_TENANTS, Measurements
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


@dataclass(slots=True)
class _Tally:
    """One tenant's figures. ``active`` is None until a processor was active, or should have been."""

    spans: int = 0
    bytes: int = 0
    skipped_pushes: int = 0
    ignored_multipliers: int = 0
    update_failures: int = 0
    discarded: Counter[tuple[str, str]] = field(default_factory=Counter)
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
        self.spans += split.received_spans
        self.skipped_pushes += split.skipped_processor_pushes
        self.ignored_multipliers += split.ignored_multipliers
        self.discarded.update(split.discarded)
        self.discarded.update({("gateway", reason): spans for reason, spans in split.rejected.items()})

    def measure(self, tenant: str) -> Measurements:
        measured: Measurements = [
            ("millrace_bytes_received_total", (tenant,), self.bytes),
            ("millrace_spans_received_total", (tenant,), self.spans),
        ]
        for (stage, reason), spans in self.discarded.items():
            measured.append(("millrace_spans_discarded_total", (tenant, stage, reason), spans))
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

    def count(self, tenant: TenantId, body_bytes: int, split: _engine.Split) -> bool:
        """Count one request that was accepted (tenancy D-18); return whether it began a figure of the tenant's own."""
        tally = self._tenants.get(tenant)
        is_new = tally is None and len(self._tenants) < MAX_MEASURED_TENANTS
        if is_new:
            tally = self._tenants[tenant] = _Tally()
        (tally or self._others).count(body_bytes, split)
        return is_new

    def use(self, settings: TenantSettings) -> None:
        """Show the processors of these settings from now on, if the tenant has a figure of its own."""
        if tally := self._tenants.get(settings.tenant):
            tally.use(settings)

    def count_update_failure(self, tenant: TenantId) -> None:
        """Count settings that could not be put in force, if the tenant has a figure of its own."""
        if tally := self._tenants.get(tenant):
            tally.count_update_failure()

    def measure(self) -> Measurements:
        """Return the metrics of all tenants."""
        measured: Measurements = []
        for tenant, tally in self._tenants.items():
            measured += tally.measure(str(tenant))
        if self._others.bytes:
            measured += self._others.measure(OTHER_TENANTS)
        return measured
