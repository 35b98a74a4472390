"""RED rows and service-graph edges of one tenant, computed from a receiver's aggregate reads.

The same arithmetic whichever receiver answers. It reads the series that any dashboard would read
(remote-write §4.1), and the names below are the contract.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.demo.readings import Rates, Receiver

CALLS = "traces_spanmetrics_calls_total"
LATENCY = "traces_spanmetrics_latency_bucket"
REQUESTS = "traces_service_graph_request_total"
FAILED = "traces_service_graph_request_failed_total"
SERVER_SECONDS = "traces_service_graph_request_server_seconds_bucket"
CLIENT_SECONDS = "traces_service_graph_request_client_seconds_bucket"

_ENTERING = {"SPAN_KIND_SERVER", "SPAN_KIND_CONSUMER"}
_EDGE = ("client", "server", "connection_type")


@dataclass(frozen=True, slots=True)
class RedRow:
    """Rate, errors, duration of what one service was asked to do (its SERVER and CONSUMER spans)."""

    service: str
    rate: float
    """Requests a second."""
    error_share: float
    """0 to 1."""
    p50_s: float | None
    p95_s: float | None


@dataclass(frozen=True, slots=True)
class EdgeRow:
    """One edge of the service graph. ``connection_type`` is empty for a plain call."""

    client: str
    server: str
    connection_type: str
    rate: float
    error_share: float
    p95_s: float | None


@dataclass(frozen=True, slots=True)
class SlowTrace:
    """The slowest request that an exemplar remembers."""

    service: str
    span_name: str
    trace_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class TenantReading:
    """All that the view shows of one tenant."""

    red: list[RedRow]
    edges: list[EdgeRow]
    slowest: SlowTrace | None


def read_tenant(receiver: Receiver, tenant: str, window_s: float) -> TenantReading:
    """Read one tenant's rows over the last ``window_s``; they are empty before the first collection.

    Raises:
        ReceiverError: the receiver does not answer.
    """
    return TenantReading(
        red=_red_rows(receiver, tenant, window_s),
        edges=_edge_rows(receiver, tenant, window_s),
        slowest=_slowest(receiver, tenant, window_s),
    )


def quantile(q: float, buckets: Mapping[float, float]) -> float | None:
    """Estimate a quantile from cumulative buckets, as PromQL's ``histogram_quantile`` does.

    Linear within a bucket; what lies beyond the last finite bound counts as that bound.

    Args:
        q: 0 to 1.
        buckets: cumulative count or rate by upper bound, ``inf`` included.

    Returns:
        None without observations or without a finite bound.
    """
    bounds = sorted(buckets)
    if len(bounds) < 2 or buckets[bounds[-1]] <= 0:
        return None
    rank = q * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds[:-1]:
        if buckets[bound] >= rank:
            inside = buckets[bound] - below
            return lower + (bound - lower) * ((rank - below) / inside if inside > 0 else 1.0)
        lower, below = bound, buckets[bound]
    return lower


def _red_rows(receiver: Receiver, tenant: str, window_s: float) -> list[RedRow]:
    calls: dict[str, float] = {}
    errors: dict[str, float] = {}
    for (service, kind, status), rate in receiver.rates(
        tenant, CALLS, ("service", "span_kind", "status_code"), window_s
    ).items():
        if kind in _ENTERING:
            calls[service] = calls.get(service, 0.0) + rate
            if status == "STATUS_CODE_ERROR":
                errors[service] = errors.get(service, 0.0) + rate
    latency: dict[str, dict[float, float]] = {}
    for (service, kind, le), rate in receiver.rates(tenant, LATENCY, ("service", "span_kind", "le"), window_s).items():
        if kind in _ENTERING:
            buckets = latency.setdefault(service, {})
            buckets[float(le)] = buckets.get(float(le), 0.0) + rate
    return [
        RedRow(
            service,
            rate,
            errors.get(service, 0.0) / rate,
            quantile(0.5, latency.get(service, {})),
            quantile(0.95, latency.get(service, {})),
        )
        for service, rate in sorted(calls.items())
        if rate > 0
    ]


def _edge_rows(receiver: Receiver, tenant: str, window_s: float) -> list[EdgeRow]:
    requests = receiver.rates(tenant, REQUESTS, _EDGE, window_s)
    failed = receiver.rates(tenant, FAILED, _EDGE, window_s)
    server = _histograms(receiver.rates(tenant, SERVER_SECONDS, (*_EDGE, "le"), window_s))
    client = _histograms(receiver.rates(tenant, CLIENT_SECONDS, (*_EDGE, "le"), window_s))
    rows = []
    for (caller, callee, connection_type), rate in sorted(requests.items()):
        if rate <= 0:
            continue
        edge = caller, callee, connection_type
        p95_s = quantile(0.95, server.get(edge, {}))
        if connection_type == "virtual_node":
            # The side that sends no spans is observed as 0 (processors §2.4): the other side knows the time.
            p95_s = max(p95_s or 0.0, quantile(0.95, client.get(edge, {})) or 0.0)
        rows.append(EdgeRow(*edge, rate=rate, error_share=failed.get(edge, 0.0) / rate, p95_s=p95_s))
    return rows


def _histograms(rates: Rates) -> dict[tuple[str, ...], dict[float, float]]:
    histograms: dict[tuple[str, ...], dict[float, float]] = {}
    for (*edge, le), rate in rates.items():
        histograms.setdefault(tuple(edge), {})[float(le)] = rate
    return histograms


def _slowest(receiver: Receiver, tenant: str, window_s: float) -> SlowTrace | None:
    candidates = [
        exemplar
        for exemplar in receiver.exemplars(tenant, LATENCY, window_s)
        if exemplar.trace_id and exemplar.labels.get("span_kind") == "SPAN_KIND_SERVER"
    ]
    if not candidates:
        return None
    slowest = max(candidates, key=lambda exemplar: (exemplar.value, exemplar.trace_id))
    return SlowTrace(
        slowest.labels.get("service", ""),
        slowest.labels.get("span_name", ""),
        slowest.trace_id,
        slowest.value,
    )
