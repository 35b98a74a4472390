"""What the processes count for each tenant, as the control plane reads it."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tenants.endpoint.collector_set import TenantLook
from tenants.identity.tenant_id import TenantId


@dataclass(slots=True)
class TenantFigures:
    """What one process, or all of them together, counted for one tenant since it started.

    Attributes:
        spans: received in accepted requests.
        bytes: of those requests, as protobuf, decompressed.
        samples_sent: that endpoints took.
        active_series: now.
        series_limited: cost of label sets that a limit refused, at each update.
        series_demand: estimate of the series there would be without limits.
        lag_s: age of the oldest samples that wait for an endpoint.
        endpoints: how many are in each state.
        discarded: spans, by stage and reason.
        ledger: what became of spans since the tenant began, by stage and outcome.
    """

    spans: int = 0
    bytes: int = 0
    samples_sent: int = 0
    active_series: int = 0
    series_limited: int = 0
    series_demand: int = 0
    lag_s: float = 0.0
    endpoints: Counter[str] = field(default_factory=Counter)
    discarded: Counter[tuple[str, str]] = field(default_factory=Counter)
    ledger: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: "TenantFigures") -> None:
        """Add what another process counted."""
        self.spans += other.spans
        self.bytes += other.bytes
        self.samples_sent += other.samples_sent
        self.active_series += other.active_series
        self.series_limited += other.series_limited
        self.series_demand += other.series_demand
        self.lag_s = max(self.lag_s, other.lag_s)
        self.endpoints.update(other.endpoints)
        self.discarded.update(other.discarded)
        self.ledger.update(other.ledger)


ReadFigures = Callable[[], Awaitable[Mapping[str, Mapping[str, TenantFigures]]]]
"""Ask all processes; by process, then by tenant. A process that does not answer is missing."""


ReadLedger = Callable[[TenantId], Awaitable[list[tuple[str, str, str, int]] | None]]
"""Ask a tenant's collector for its ledger: service, stage, outcome, spans. None: it cannot be had now."""


LookAt = Callable[[TenantId], Awaitable[TenantLook | None]]
"""Ask a tenant's collector what its registry holds, and how its endpoints do. None: it cannot be had now."""


@dataclass(frozen=True, slots=True)
class Readers:
    """How the control plane learns what the processes count.

    Attributes:
        figures: of all tenants.
        ledger: of one tenant.
        look: at one tenant.
    """

    figures: ReadFigures
    ledger: ReadLedger
    look: LookAt


def summed(by_process: Mapping[str, Mapping[str, TenantFigures]]) -> dict[str, TenantFigures]:
    """Return the figures of all processes together, by tenant."""
    total: dict[str, TenantFigures] = {}
    for figures in by_process.values():
        for tenant, counted in figures.items():
            total.setdefault(tenant, TenantFigures()).add(counted)
    return total
