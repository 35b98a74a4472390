"""The part of a tenant's settings that the engine needs, in the form ``tenants._engine.Plan`` reads.

One document for gateway, shard and collector, so that they cannot disagree. No secret is in it.
"""

import json
from collections.abc import Sequence
from typing import Any

from tenants.settings.filter_policies import FilterPolicy
from tenants.settings.tenant_settings import (
    HistogramSettings,
    HostInfoSettings,
    ServiceGraphsSettings,
    SpanMetricsSettings,
    TenantSettings,
)


def plan_json(settings: TenantSettings) -> str:
    """Write the plan. The same settings always give the same text, so plans can be compared as text."""
    plan = {
        "span_metrics": _span_metrics(settings.span_metrics),
        "service_graphs": _service_graphs(settings.service_graphs, settings.shards),
        "host_info": _host_info(settings.host_info),
        "histograms": _histograms(settings.histograms),
        "ingestion_time_range_slack_s": settings.ingestion_time_range_slack.seconds,
        "trace_id_label_name": settings.trace_id_label_name,
        "max_label_name_length": settings.max_label_name_length,
        "max_label_value_length": settings.max_label_value_length,
        "max_attribute_bytes": settings.ingestion.max_attribute_bytes,
        "stale_duration_s": settings.stale_duration.seconds,
        "limiter_type": settings.limiter_type,
        "max_active_series": settings.max_active_series,
        "max_active_entities": settings.max_active_entities,
        "max_cardinality_per_label": settings.max_cardinality_per_label,
        "span_name_sanitization": settings.span_name_sanitization,
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
        "dimension_mappings": [mapping.model_dump() for mapping in settings.dimension_mappings],
        "filter_policies": _policies(settings.filter_policies),
        "enable_target_info": settings.enable_target_info,
        "enable_instance_label": settings.enable_instance_label,
        "target_info_excluded_dimensions": settings.target_info_excluded_dimensions,
        "span_multiplier_key": settings.span_multiplier_key,
        "enable_tracestate_span_multiplier": settings.enable_tracestate_span_multiplier,
        "keep_colliding_dimensions": settings.keep_colliding_dimensions,
        "enable_strict_filter_types": settings.enable_strict_filter_types,
    }


def _service_graphs(settings: ServiceGraphsSettings | None, shards: int) -> dict[str, object] | None:
    if settings is None:
        return None
    return {
        "request": settings.request,
        "latency": settings.latency,
        "connection_info": settings.connection_info,
        "histogram_buckets": settings.histogram_buckets,
        "dimensions": settings.dimensions,
        "peer_attributes": settings.peer_attributes,
        "database_name_attributes": settings.database_name_attributes,
        "filter_policies": _policies(settings.filter_policies),
        "wait_s": settings.wait.seconds,
        # A shard sees its part of the tenant's traces: it gets its part of the room, rounded up.
        "max_items": -(-settings.max_items // shards),
        "enable_client_server_prefix": settings.enable_client_server_prefix,
        "enable_messaging_system_latency_histogram": settings.enable_messaging_system_latency_histogram,
        "enable_virtual_node_label": settings.enable_virtual_node_label,
        "span_multiplier_key": settings.span_multiplier_key,
        "enable_tracestate_span_multiplier": settings.enable_tracestate_span_multiplier,
        "keep_colliding_dimensions": settings.keep_colliding_dimensions,
        "enable_strict_filter_types": settings.enable_strict_filter_types,
        "pair_database_spans": settings.pair_database_spans,
        "count_every_receiver": settings.count_every_receiver,
        "enable_virtual_node_latency": settings.enable_virtual_node_latency,
        "zero_parent_id_is_root": settings.zero_parent_id_is_root,
    }


def _host_info(settings: HostInfoSettings | None) -> dict[str, object] | None:
    if settings is None:
        return None
    return {"host_identifiers": settings.host_identifiers, "metric_name": settings.metric_name}


def _histograms(settings: HistogramSettings) -> dict[str, object]:
    return {
        "mode": settings.mode,
        "native_bucket_factor": settings.native_bucket_factor,
        "native_max_buckets": settings.native_max_buckets,
        "native_min_reset_duration_s": settings.native_min_reset_duration.seconds,
    }


def _policies(policies: Sequence[FilterPolicy]) -> list[dict[str, Any]]:
    """Write the blocks that are there; values keep their type, for the engine compares types too (processors §0.8)."""
    return [policy.model_dump(exclude_none=True) for policy in policies]
