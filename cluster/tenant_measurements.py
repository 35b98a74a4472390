"""The metrics of one tenant at its collector, from the figures that it answers."""

from collections import Counter
from collections.abc import Sequence

from cluster.measurements import Measurements
from tenants.endpoint import EndpointCounters
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot


def measure_tenant(tenant: str, snapshot: TenantCollectorSnapshot) -> Measurements:
    """Measure everything that the collector knows about the tenant."""
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
    for reason, count in snapshot.endpoint.samples_discarded.items():
        measured.append(("millrace_remote_write_samples_total", (tenant, "", reason), count))
    by_label: dict[str, list[EndpointCounters]] = {}
    for endpoint in (*snapshot.endpoint.endpoints, *snapshot.endpoint.retiring):
        by_label.setdefault(endpoint.endpoint, []).append(endpoint)
    for label, endpoints in by_label.items():
        measured += _measure_endpoints((tenant, label), endpoints)
    return measured


def _measure_endpoints(label: tuple[str, str], endpoints: Sequence[EndpointCounters]) -> Measurements:
    """Measure endpoints of one name as one: one that retires may have the name of its successor."""
    outcomes: Counter[str] = Counter()
    for endpoint in endpoints:
        outcomes.update({"sent": endpoint.samples_sent, "dropped": endpoint.samples_dropped})
        outcomes.update(endpoint.samples_failed)
    measured: Measurements = [
        ("millrace_remote_write_samples_total", (*label, outcome), count) for outcome, count in outcomes.items()
    ]
    measured += [
        ("millrace_remote_write_exemplars_total", label, sum(each.exemplars_sent for each in endpoints)),
        ("millrace_remote_write_bytes_total", label, sum(each.bytes_sent for each in endpoints)),
        ("millrace_remote_write_retries_total", label, sum(each.retries for each in endpoints)),
        ("millrace_remote_write_pending_samples", label, sum(each.pending_samples for each in endpoints)),
        ("millrace_remote_write_pending_bytes", label, sum(each.pending_bytes for each in endpoints)),
    ]
    sent_ms = [each.highest_sent_timestamp_ms for each in endpoints if each.highest_sent_timestamp_ms is not None]
    if sent_ms:
        newest_s = max(sent_ms) / 1000
        measured.append(("millrace_remote_write_highest_sent_timestamp_seconds", label, newest_s))
    return measured
