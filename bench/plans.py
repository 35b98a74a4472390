"""The plan that the engine's benchmarks compile: the defaults of both processors, with dimensions added."""

from collections.abc import Sequence


def plan(dimensions: Sequence[str] = (), max_items: int = 1_000_000) -> dict[str, object]:
    """Return a plan document. ``max_items`` is high: a benchmark must not be fast because it dropped edges."""
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
        },
        "service_graphs": {
            "request": True,
            "latency": True,
            "histogram_buckets": [0.1 * 2**n for n in range(8)],
            "dimensions": [],
            "peer_attributes": ["peer.service", "db.name", "db.system", "db.system.name"],
            "database_name_attributes": ["db.namespace", "db.name", "db.system", "db.system.name"],
            "wait_s": 10.0,
            "max_items": max_items,
            "enable_client_server_prefix": False,
            "enable_messaging_system_latency_histogram": False,
            "enable_virtual_node_label": False,
        },
        "ingestion_time_range_slack_s": 30.0,
        "trace_id_label_name": "traceID",
        "max_label_name_length": 1024,
        "max_label_value_length": 2048,
        "stale_duration_s": 900.0,
        "max_active_series": 0,
    }
