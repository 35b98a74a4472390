"""The part of a tenant's settings that the engine needs, in the form ``tenants._engine.Plan`` reads.

One document for gateway, shard and collector, so that they cannot disagree. No secret is in it.
"""

import json

from tenants.settings.tenant_settings import ServiceGraphsSettings, SpanMetricsSettings, TenantSettings


def plan_json(settings: TenantSettings) -> str:
    """Write the plan. The same settings always give the same text, so plans can be compared as text."""
    plan = {
        "span_metrics": _span_metrics(settings.span_metrics),
        "service_graphs": _service_graphs(settings.service_graphs, settings.shards),
        "ingestion_time_range_slack_s": settings.ingestion_time_range_slack.seconds,
        "trace_id_label_name": settings.trace_id_label_name,
        "max_label_name_length": settings.max_label_name_length,
        "max_label_value_length": settings.max_label_value_length,
        "stale_duration_s": settings.stale_duration.seconds,
        "max_active_series": settings.max_active_series,
    }
    return json.dumps(plan, allow_nan=False, separators=(",", ":"))


def _span_metrics(settings: SpanMetricsSettings | None) -> dict[str, object] | None:
    if settings is None:
        return None
    return {
        "count": settings.count,
        "latency": settings.latency,
        "size": settings.size,
        "histogram_buckets": settings.histogram_buckets,
        "intrinsic_dimensions": settings.intrinsic_dimensions.model_dump(),
        "dimensions": settings.dimensions,
    }


def _service_graphs(settings: ServiceGraphsSettings | None, shards: int) -> dict[str, object] | None:
    if settings is None:
        return None
    return {
        "request": settings.request,
        "latency": settings.latency,
        "histogram_buckets": settings.histogram_buckets,
        "dimensions": settings.dimensions,
        "peer_attributes": settings.peer_attributes,
        "database_name_attributes": settings.database_name_attributes,
        "wait_s": settings.wait.seconds,
        # A shard sees its part of the tenant's traces: it gets its part of the room, rounded up.
        "max_items": -(-settings.max_items // shards),
        "enable_client_server_prefix": settings.enable_client_server_prefix,
        "enable_messaging_system_latency_histogram": settings.enable_messaging_system_latency_histogram,
        "enable_virtual_node_label": settings.enable_virtual_node_label,
    }
