"""What the processes count for each tenant, as the control plane reads it."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field


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
        discarded: spans, by stage and reason.
    """

    spans: int = 0
    bytes: int = 0
    samples_sent: int = 0
    active_series: int = 0
    series_limited: int = 0
    series_demand: int = 0
    discarded: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: "TenantFigures") -> None:
        """Add what another process counted."""
        self.spans += other.spans
        self.bytes += other.bytes
        self.samples_sent += other.samples_sent
        self.active_series += other.active_series
        self.series_limited += other.series_limited
        self.series_demand += other.series_demand
        self.discarded.update(other.discarded)


ReadFigures = Callable[[], Awaitable[Mapping[str, Mapping[str, TenantFigures]]]]
"""Ask all processes; by process, then by tenant. A process that does not answer is missing."""


def summed(by_process: Mapping[str, Mapping[str, TenantFigures]]) -> dict[str, TenantFigures]:
    """Return the figures of all processes together, by tenant."""
    total: dict[str, TenantFigures] = {}
    for figures in by_process.values():
        for tenant, counted in figures.items():
            total.setdefault(tenant, TenantFigures()).add(counted)
    return total
