"""What a tenant's registry holds, added up for somebody who looks: never more rows than a page can show."""

from dataclasses import dataclass
from typing import Final

from tenants import _engine

MAX_ROWS: Final = 500
"""Rows of each kind; what counts less is left out, and how much that is, is said."""

SPAN_LABELS: Final = ("service", "span_name", "span_kind", "status_code")
EDGE_LABELS: Final = ("client", "server", "connection_type", "virtual_node")

Row = tuple[list[str], list[float], list[tuple[float, list[float]]]]
"""Values of the labels, counters, and of each histogram the sum in seconds and the observations by bucket."""


@dataclass(frozen=True, slots=True)
class RegistryView:
    """One look at a registry. Pickles.

    Attributes:
        spans: by :data:`SPAN_LABELS`; counters: spans, bytes; histogram: latency.
        spans_left_out: rows beyond the bound.
        span_bounds: of the buckets of latency, in seconds.
        edges: by :data:`EDGE_LABELS`; counters: requests, failed; histograms: server, client, messaging.
        edges_left_out: rows beyond the bound.
        edge_bounds: of the buckets of each histogram, in seconds.
        metrics: series by metric.
        labels: distinct values and label sets by label.
    """

    spans: list[Row]
    spans_left_out: int
    span_bounds: list[list[float]]
    edges: list[Row]
    edges_left_out: int
    edge_bounds: list[list[float]]
    metrics: list[tuple[str, int]]
    labels: list[tuple[str, int, int]]

    @classmethod
    def of(cls, registry: _engine.Registry) -> "RegistryView":
        """Look at a registry. As long as all its label sets take: call it in a thread."""
        metrics, labels = registry.cardinality(MAX_ROWS)
        return cls(
            *registry.summary("span_metrics", list(SPAN_LABELS), MAX_ROWS),
            *registry.summary("service_graphs", list(EDGE_LABELS), MAX_ROWS),
            metrics,
            labels,
        )


NOTHING: Final = RegistryView([], 0, [], [], 0, [], [], [])
"""Of a tenant that generates nothing."""
