"""Every setting of a tenant: as its entry in the runtime file says it, and as the model's plan does.

Both are made from the same values, and not by the product. No setting has its default, where it has another value that
does not switch off the rest.
"""

from collections.abc import Mapping
from typing import Any, Final

from tests import traces
from tests.integration.service import merged
from tests.integration.varied_load import SPAN_RATIO
from tests.prometheus import Prometheus

Plan = dict[str, Any]

# "environment" is what every resource says too, so it replaces a label of traces_target_info.
EXTERNAL: Final = {"environment": "production", "zone": "z1"}
WAIT_S: Final = 15.0
DATABASE_NAMES: Final = ["db.system"]
MAX_LABEL_NAME: Final = 24
MAX_LABEL_VALUE: Final = 40
SLACK_S: Final = 300.0
TRACE_ID_LABEL: Final = "trace_id"

_block = traces.filter_block
SPAN_METRICS: Final[dict[str, Any]] = {
    "histogram_buckets": [0.001, 0.03, 0.5, 4],
    "intrinsic_dimensions": {
        "service": True,
        "span_name": True,
        "span_kind": True,
        "status_code": True,
        "status_message": True,
    },
    "dimensions": ["region", "span.kind", "http.method", "http_method"],
    "dimension_mappings": [
        {"name": "operation", "source_labels": ["http.method", "http.route"], "join": " "},
        {"name": "status_code", "source_labels": ["http.response.status_code"], "join": ""},
    ],
    "filter_policies": [
        {"include": _block("strict", {"span.visible": True})},
        {"include": _block("regex", {"resource.service.name": "^(web|cart|pay|Löwe|garbled)"})},
        {"include_any": _block("strict", {"span.priority": 0})},
        {"exclude": _block("regex", {"span.http.route": "^/(health|ready)$", "kind": "SERVER|CLIENT"})},
    ],
    "enable_target_info": True,
    "target_info_excluded_dimensions": ["process.command_args", "1st"],
    "enable_instance_label": False,
    "span_multiplier_key": SPAN_RATIO,
    "enable_tracestate_span_multiplier": True,
    "keep_colliding_dimensions": True,
    "enable_strict_filter_types": True,
}
SERVICE_GRAPHS: Final[dict[str, Any]] = {
    "histogram_buckets": [0.002, 0.1, 6],
    "dimensions": ["region", "http.method", "http_method", "connection.type"],
    "peer_attributes": ["net.peer.name", "messaging.destination.name", "peer.service", "db.namespace"],
    "filter_policies": [
        {"include": _block("regex", {"resource.deployment.tier": "^prod"})},
        {"include_any": _block("strict", {"span.priority": 0}), "exclude": _block("regex", {"name": "^internal"})},
        {"exclude": _block("strict", {"span.http.route": "/health", "status": "STATUS_CODE_ERROR"})},
    ],
    "enable_client_server_prefix": True,
    "enable_messaging_system_latency_histogram": True,
    "enable_virtual_node_label": True,
    "span_multiplier_key": SPAN_RATIO,
    "enable_tracestate_span_multiplier": True,
    "keep_colliding_dimensions": True,
    "enable_strict_filter_types": True,
    "pair_database_spans": True,
    "count_every_receiver": True,
    "enable_virtual_node_latency": False,
    "zero_parent_id_is_root": True,
}
HOST_INFO: Final[dict[str, Any]] = {"host_identifiers": ["host.name", "host.id"], "metric_name": "shop:hosts"}
PROCESSOR: Final = {"span_metrics": SPAN_METRICS, "service_graphs": SERVICE_GRAPHS, "host_info": HOST_INFO}
# Where Tempo's way and another are both to be had: Tempo's, and dimensions without prefixes.
AS_TEMPO: Final = merged(
    PROCESSOR,
    {
        "span_metrics": {
            "enable_instance_label": True,
            "keep_colliding_dimensions": False,
            "enable_strict_filter_types": False,
        },
        "service_graphs": {
            "enable_client_server_prefix": False,
            "keep_colliding_dimensions": False,
            "enable_strict_filter_types": False,
            "pair_database_spans": False,
            "count_every_receiver": False,
            "enable_virtual_node_latency": True,
            "zero_parent_id_is_root": False,
        },
    },
)
# Spans that all count, and count once.
UNWEIGHTED: Final = {"span_multiplier_key": "", "enable_tracestate_span_multiplier": False}
EACH_SPAN_ONCE: Final = merged(
    PROCESSOR,
    {
        "span_metrics": {
            "dimensions": [*SPAN_METRICS["dimensions"], "enduser.id"],
            "filter_policies": [],
            # These are not UTF-8 on some resources, whose spans count all the same.
            "target_info_excluded_dimensions": ["note", "host.name"],
            **UNWEIGHTED,
        },
        "service_graphs": UNWEIGHTED,
    },
)


def entry(prometheus: Prometheus, processor: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return what a tenant's entry says, every key of it."""
    return {
        "processors": ["span-metrics", "service-graphs", "service-graphs-connection-info", "host-info"],
        "max_active_series": 1_000_000,
        "max_active_entities": 1_000_000,
        "max_cardinality_per_label": 5_000,
        "collection_interval": "1s",
        "disable_collection": False,
        "generate_native_histograms": "both",
        "native_histogram_bucket_factor": 1.3,
        "native_histogram_max_bucket_number": 6,
        "native_histogram_min_reset_duration": "0s",
        "trace_id_label_name": TRACE_ID_LABEL,
        "ingestion_time_range_slack": f"{SLACK_S:.0f}s",
        "span_name_sanitization": "dry_run",
        "remote_write_headers": {"X-Own": "own"},
        # Small requests: one collection is many of them.
        "remote_write": [{"name": "own", "url": prometheus.url, "max_samples_per_send": 500}],
        "shards": 2,
        "processor": processor,
        "ring_size": 3,
        "forwarder": {"queue_size": 10, "workers": 2},
        **more,
    }


def plan(processor: Mapping[str, Any]) -> Plan:
    """Return what the model is to do under such an entry."""
    return traces.plan(
        traces.span_metrics_plan(**processor["span_metrics"]),
        traces.service_graphs_plan(
            connection_info=True,
            wait_s=WAIT_S,
            database_name_attributes=DATABASE_NAMES,
            **processor["service_graphs"],
        ),
        traces.host_info_plan(**processor["host_info"]),
        histograms=traces.histograms_plan(
            "both", native_bucket_factor=1.3, native_max_buckets=6, native_min_reset_duration_s=0.0
        ),
        ingestion_time_range_slack_s=SLACK_S,
        max_label_name_length=MAX_LABEL_NAME,
        max_label_value_length=MAX_LABEL_VALUE,
        span_name_sanitization="dry_run",
    )
