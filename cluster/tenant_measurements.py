"""The metrics of one tenant at its collector, from the figures that it answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from cluster.measurements import Distribution, Measurements
from tenants.endpoint import EndpointCounters
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.processing.ledger import Ledger
from tenants.settings.protobuf_message import ProtobufMessage

MAX_LABEL_NAMES: Final = 1024
"""Label names of one tenant that are measured: a tenant chooses its dimensions, and not the size of the page."""

_EXPIRED: Final = "expired_edges_"

# The engine's figure, and the metric it is; all of them carry the label tenant alone.
_FIGURES: Final[Mapping[str, str]] = {
    "edges": "millrace_processor_service_graphs_edges_total",
    "dropped_spans": "millrace_processor_service_graphs_dropped_spans_total",
    "dropped_edges": "millrace_processor_service_graphs_dropped_edges_total",
    "dropped_span_side_cache_overflow": "millrace_processor_service_graphs_dropped_span_side_cache_overflow_total",
    "active_series": "millrace_registry_active_series",
    "series_added": "millrace_registry_series_added_total",
    "series_removed": "millrace_registry_series_removed_total",
    "series_limited": "millrace_registry_series_limited_total",
    "active_entities": "millrace_registry_active_entities",
    "entities_added": "millrace_registry_entities_added_total",
    "entities_removed": "millrace_registry_entities_removed_total",
    "entities_limited": "millrace_registry_entities_limited_total",
    "active_series_demand_estimate": "millrace_registry_active_series_demand_estimate",
    "entity_demand_estimate": "millrace_registry_entity_demand_estimate",
    "spans_sanitized": "millrace_registry_spans_sanitized_total",
    "post_sanitization_demand_estimate": "millrace_registry_post_sanitization_demand_estimate",
    "drain_patterns_detected": "millrace_registry_drain_patterns_detected_total",
    "drain_patterns_evicted": "millrace_registry_drain_patterns_evicted_total",
    "drain_patterns_expired": "millrace_registry_drain_patterns_expired_total",
    "native_resets": "millrace_registry_native_histogram_resets_total",
    "state_bytes": "millrace_registry_state_bytes",
}


def measure_tenant(tenant: str, snapshot: TenantCollectorSnapshot) -> Measurements:
    """Measure everything that the collector knows about the tenant."""
    measured: Measurements = [
        ("millrace_records_merged_total", (tenant,), snapshot.records),
        ("millrace_records_fenced_total", (tenant,), snapshot.fenced_records),
        ("millrace_tenant_shards", (tenant,), snapshot.shards["count"]),
        ("millrace_shard_ranges_owned", (tenant,), snapshot.shards["owned"]),
        ("millrace_mirror_open_edges", (tenant,), snapshot.shards["open_edges"]),
        ("millrace_mirror_state_bytes", (tenant,), snapshot.shards["state_bytes"]),
        ("millrace_registry_collections_total", (tenant,), snapshot.collections),
        ("millrace_registry_collection_seconds_total", (tenant,), snapshot.collection_s),
        ("millrace_storage_remote_write_update_failed_total", (tenant,), snapshot.endpoint_update_failures),
    ]
    for (stage, outcome), spans in snapshot.ledger.items():
        measured.append(("millrace_ledger_spans_total", (tenant, stage, outcome), spans))
    measured.append(("millrace_ledger_waiting_spans", (tenant,), Ledger.of(snapshot.ledger).waiting))
    for error_type, count in snapshot.collections_failed.items():
        measured.append(("millrace_registry_collections_failed_total", (tenant, error_type), count))
    for reason, count in snapshot.relabel_left_out.items():
        measured.append(("millrace_remote_write_relabel_left_out_total", (tenant, reason), count))
    measured += _measure_registry(tenant, snapshot)
    for reason, count in snapshot.endpoint.samples_discarded.items():
        measured.append(("millrace_remote_write_samples_total", (tenant, "", reason), count))
    by_label: dict[str, list[EndpointCounters]] = {}
    for endpoint in (*snapshot.endpoint.endpoints, *snapshot.endpoint.retiring):
        by_label.setdefault(endpoint.endpoint, []).append(endpoint)
    for label, endpoints in by_label.items():
        measured += _measure_endpoints((tenant, label), endpoints)
    return measured


def _measure_registry(tenant: str, snapshot: TenantCollectorSnapshot) -> Measurements:
    registry = snapshot.registry
    measured: Measurements = [(metric, (tenant,), registry[figure]) for figure, metric in _FIGURES.items()]
    for figure, count in registry.items():
        if figure.startswith(_EXPIRED):
            kind = f"SPAN_KIND_{figure.removeprefix(_EXPIRED).upper()}"
            measured.append(("millrace_processor_service_graphs_expired_edges_total", (tenant, kind), count))
    # Units differ: spans that found no room, edges with a label that is no UTF-8 (processors §5.5).
    for reason, figure in (("max_items", "dropped_spans"), ("invalid_utf8", "invalid_utf8_edges")):
        measured.append(("millrace_spans_discarded_total", (tenant, "service_graphs", reason), registry[figure]))
    for reason in ("too_few_tokens", "too_many_tokens"):
        skipped = registry[f"drain_lines_skipped_{reason}"]
        measured.append(("millrace_registry_drain_lines_skipped_total", (tenant, reason), skipped))
    # Of the two limiters one works (processors §4.7); the limit of the other is not in force, and not shown.
    if snapshot.max_active_series is not None:
        measured.append(("millrace_registry_max_active_series", (tenant,), snapshot.max_active_series))
    if snapshot.max_active_entities is not None:
        measured.append(("millrace_registry_max_active_entities", (tenant,), snapshot.max_active_entities))
    for label in sorted(snapshot.labels)[:MAX_LABEL_NAMES]:
        replaced, demand = snapshot.labels[label]
        measured.append(("millrace_registry_label_values_limited_total", (tenant, label), replaced))
        measured.append(("millrace_registry_label_cardinality_demand_estimate", (tenant, label), demand))
    buckets, total = snapshot.drain_tokens_per_line
    measured.append(("millrace_registry_drain_tokens_per_line", (tenant,), Distribution(tuple(buckets), total)))
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
        (
            "millrace_remote_write_exemplars_rejected_total",
            label,
            sum(each.exemplars_rejected for each in endpoints),
        ),
        ("millrace_remote_write_fallbacks_total", label, sum(each.fallbacks for each in endpoints)),
        (
            "millrace_remote_write_is_version_2",
            label,
            endpoints[0].message is ProtobufMessage.V2,
        ),
        ("millrace_remote_write_bytes_total", label, sum(each.bytes_sent for each in endpoints)),
        ("millrace_remote_write_retries_total", label, sum(each.retries for each in endpoints)),
        ("millrace_remote_write_pending_samples", label, sum(each.pending_samples for each in endpoints)),
        ("millrace_remote_write_pending_bytes", label, sum(each.pending_bytes for each in endpoints)),
        ("millrace_remote_write_pending_batches", label, sum(each.pending_batches for each in endpoints)),
        ("millrace_remote_write_backlog_batches", label, sum(each.stored_batches for each in endpoints)),
        ("millrace_remote_write_backlog_bytes", label, sum(each.stored_bytes for each in endpoints)),
        ("millrace_remote_write_lag_seconds", label, max(each.lag_s for each in endpoints)),
        # Those in force come first.
        ("millrace_remote_write_state", (*label, str(endpoints[0].state)), 1),
    ]
    failed: Counter[str] = Counter()
    for endpoint in endpoints:
        failed.update(endpoint.attempts_failed)
    measured += [
        ("millrace_remote_write_failed_requests_total", (*label, reason), count) for reason, count in failed.items()
    ]
    sent_ms = [each.highest_sent_timestamp_ms for each in endpoints if each.highest_sent_timestamp_ms is not None]
    if sent_ms:
        newest_s = max(sent_ms) / 1000
        measured.append(("millrace_remote_write_highest_sent_timestamp_seconds", label, newest_s))
    return measured
