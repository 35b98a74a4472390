"""The plans that the engine's benchmarks compile: the defaults of both processors, and what a benchmark adds."""

from collections.abc import Sequence

#: Keeps health checks out and one environment in: a regular expression on every span, and a resource attribute.
FILTER_POLICIES = [
    {"exclude": {"match_type": "regex", "attributes": [{"key": "name", "value": "^(GET )?/(health|ready|live)z?$"}]}},
    {
        "include": {
            "match_type": "strict",
            "attributes": [{"key": "resource.deployment.environment.name", "value": "production"}],
        }
    },
]


def plan(
    dimensions: Sequence[str] = (),
    *,
    mode: str = "classic",
    is_full: bool = False,
    max_items: int = 1_000_000,
) -> dict[str, object]:
    """Return a plan document.

    Args:
        dimensions: attributes that become labels of span metrics.
        mode: form of the histograms.
        is_full: with filters on both processors and target info; its label ``instance`` is off, as a label for every
            process would be a series for every process.
        max_items: high, as a benchmark must not be fast because it dropped edges.
    """
    filters = FILTER_POLICIES if is_full else []
    return {
        "span_metrics": {
            "count": True,
            "latency": True,
            "size": True,
            "histogram_buckets": [0.002 * 2**n for n in range(14)],
            "intrinsic_dimensions": {
                "service": True,
                "span_name": True,
                "span_kind": True,
                "status_code": True,
                "status_message": False,
            },
            "dimensions": list(dimensions),
            "dimension_mappings": [],
            "filter_policies": filters,
            "enable_target_info": is_full,
            "enable_instance_label": False,
            "target_info_excluded_dimensions": [],
            "span_multiplier_key": "",
            "enable_tracestate_span_multiplier": False,
            "keep_colliding_dimensions": False,
            "enable_strict_filter_types": False,
        },
        "service_graphs": {
            "request": True,
            "latency": True,
            "connection_info": False,
            "histogram_buckets": [0.1 * 2**n for n in range(8)],
            "dimensions": [],
            "peer_attributes": ["peer.service", "db.name", "db.system", "db.system.name"],
            "database_name_attributes": ["db.namespace", "db.name", "db.system", "db.system.name"],
            "filter_policies": filters,
            "wait_s": 10.0,
            "max_items": max_items,
            "enable_client_server_prefix": False,
            "enable_messaging_system_latency_histogram": False,
            "enable_virtual_node_label": False,
            "span_multiplier_key": "",
            "enable_tracestate_span_multiplier": False,
            "keep_colliding_dimensions": False,
            "enable_strict_filter_types": False,
            "pair_database_spans": False,
            "count_every_receiver": False,
            "enable_virtual_node_latency": True,
            "zero_parent_id_is_root": False,
        },
        "host_info": None,
        "histograms": {
            "mode": mode,
            "native_bucket_factor": 1.1,
            "native_max_buckets": 100,
            "native_min_reset_duration_s": 900.0,
        },
        "ingestion_time_range_slack_s": 30.0,
        "trace_id_label_name": "traceID",
        "max_label_name_length": 1024,
        "max_label_value_length": 2048,
        "max_attribute_bytes": 2048,
        "stale_duration_s": 900.0,
        "limiter_type": "series",
        "max_active_series": 0,
        "max_active_entities": 0,
        "max_cardinality_per_label": 0,
        "span_name_sanitization": "",
    }
