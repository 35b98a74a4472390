"""Small builders of OTLP messages and plans, for cases written by hand and for drawn ones.

Text may hold what is not UTF-8: write such a byte as its surrogate escape, ``"\\udcff"`` for FF.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tests import otlp_raw

UNSPECIFIED, INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = range(6)
UNSET, OK, ERROR = range(3)
SECOND_NS: Final = 1_000_000_000

MISSING: Final = object()
"""An attribute without a value message; ``None`` is a value message without a value."""

Attributes = Mapping[str, Any] | Iterable[tuple[str, Any]]


def text(value: str) -> bytes:
    """Return the bytes of a text, surrogate escapes as the single bytes that they stand for."""
    return value.encode("utf-8", "surrogateescape")


def any_value(value: object) -> Any:
    """Return the AnyValue of a plain value: ``bytes`` are a bytes value, lists and dictionaries nest."""
    match value:
        case None:
            return otlp_raw.AnyValue()
        case str():
            return otlp_raw.AnyValue(string_value=text(value))
        case bool():
            return otlp_raw.AnyValue(bool_value=value)
        case int():
            return otlp_raw.AnyValue(int_value=value)
        case float():
            return otlp_raw.AnyValue(double_value=value)
        case bytes():
            return otlp_raw.AnyValue(bytes_value=value)
        case list():
            array = otlp_raw.AnyValue()
            array.array_value.SetInParent()
            array.array_value.values.extend(any_value(element) for element in value)
            return array
        case dict():
            pairs = otlp_raw.AnyValue()
            pairs.kvlist_value.SetInParent()
            pairs.kvlist_value.values.extend(key_values(value))
            return pairs
        case _:
            return value


def key_values(attributes: Attributes) -> list[Any]:
    """Return KeyValues in order; pairs instead of a mapping may repeat a key."""
    pairs = attributes.items() if isinstance(attributes, Mapping) else attributes
    return [
        otlp_raw.KeyValue(key=text(key))
        if value is MISSING
        else otlp_raw.KeyValue(key=text(key), value=any_value(value))
        for key, value in pairs
    ]


def span(
    name: str = "",
    *,
    kind: int = UNSPECIFIED,
    trace_id: bytes = bytes(range(1, 17)),
    span_id: bytes = b"\x01" * 8,
    parent: bytes = b"",
    start_ns: int = 0,
    end_ns: int = 0,
    status: int | None = None,
    message: str = "",
    attributes: Attributes = (),
    trace_state: str = "",
) -> Any:
    """Return a Span; with ``status`` None it has no status message at all."""
    built = otlp_raw.Span(
        name=text(name),
        kind=kind,
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent,
        start_time_unix_nano=start_ns,
        end_time_unix_nano=end_ns,
        attributes=key_values(attributes),
        trace_state=text(trace_state),
    )
    if status is not None:
        built.status.SetInParent()
        built.status.code = status
        built.status.message = text(message)
    return built


def batch(resource: Attributes | None, *spans: Any) -> Any:
    """Return the ResourceSpans of a resource with these attributes; None is no resource message."""
    built = otlp_raw.ResourceSpans()
    if resource is not None:
        built.resource.SetInParent()
        built.resource.attributes.extend(key_values(resource))
    built.scope_spans.add().spans.extend(spans)
    return built


def request(*batches: Any) -> Any:
    """Return an ExportTraceServiceRequest."""
    return otlp_raw.ExportTraceServiceRequest(resource_spans=batches)


def filter_block(match_type: str, attributes: Attributes) -> dict[str, Any]:
    """Return one block of a filter policy."""
    pairs = attributes.items() if isinstance(attributes, Mapping) else attributes
    return {"match_type": match_type, "attributes": [{"key": key, "value": value} for key, value in pairs]}


def span_metrics_plan(**settings: Any) -> dict[str, Any]:
    """Return the ``span_metrics`` part of a plan with its defaults (processors, appendix A)."""
    intrinsic = {
        "service": True,
        "span_name": True,
        "span_kind": True,
        "status_code": True,
        "status_message": False,
    }
    return {
        "count": True,
        "latency": True,
        "size": True,
        "histogram_buckets": [0.002 * 2**n for n in range(14)],
        "dimensions": [],
        "dimension_mappings": [],
        "filter_policies": [],
        "enable_target_info": False,
        "enable_instance_label": True,
        "target_info_excluded_dimensions": [],
        "span_multiplier_key": "",
        "enable_tracestate_span_multiplier": False,
        "keep_colliding_dimensions": False,
        "enable_strict_filter_types": False,
    } | (settings | {"intrinsic_dimensions": intrinsic | settings.get("intrinsic_dimensions", {})})


def service_graphs_plan(**settings: Any) -> dict[str, Any]:
    """Return the ``service_graphs`` part of a plan with its defaults (processors, appendix A)."""
    return {
        "request": True,
        "latency": True,
        "connection_info": False,
        "histogram_buckets": [0.1 * 2**n for n in range(8)],
        "dimensions": [],
        "peer_attributes": ["peer.service", "db.name", "db.system", "db.system.name"],
        "database_name_attributes": ["db.namespace", "db.name", "db.system", "db.system.name"],
        "filter_policies": [],
        "wait_s": 10.0,
        "max_items": 10000,
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
    } | settings


def host_info_plan(**settings: Any) -> dict[str, Any]:
    """Return the ``host_info`` part of a plan with its defaults (processors, appendix A)."""
    return {"host_identifiers": ["k8s.node.name", "host.id"], "metric_name": "traces_host_info"} | settings


def histograms_plan(mode: str = "classic", **settings: Any) -> dict[str, Any]:
    """Return the ``histograms`` part of a plan with its defaults (processors §4.4)."""
    return {
        "mode": mode,
        "native_bucket_factor": 1.1,
        "native_max_buckets": 100,
        "native_min_reset_duration_s": 900.0,
    } | settings


def plan(
    span_metrics: dict[str, Any] | None = None,
    service_graphs: dict[str, Any] | None = None,
    host_info: dict[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Return a whole plan; a processor that is left out is off."""
    return {
        "span_metrics": span_metrics,
        "service_graphs": service_graphs,
        "host_info": host_info,
        "histograms": histograms_plan(),
        "ingestion_time_range_slack_s": 30.0,
        "trace_id_label_name": "traceID",
        "max_label_name_length": 1024,
        "max_label_value_length": 2048,
        "max_attribute_bytes": 0,
        "stale_duration_s": 900.0,
        "limiter_type": "series",
        "max_active_series": 0,
        "max_active_entities": 0,
        "max_cardinality_per_label": 0,
        "span_name_sanitization": "",
    } | settings
