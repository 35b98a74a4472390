"""Hypothesis strategies for plans: every setting of every processor.

Drawn plans are valid ones, and such that what they say does not depend on when shards are flushed: nothing ends during
a script, nothing meets a limit of the tenant, span names stay, and native histograms are never reset.
"""

from typing import Any

from hypothesis import strategies as st

from tests.reference_labels import INTRINSIC_LABELS, sanitize_protected
from tests.trace_strategies import ATTRIBUTES, MULTIPLIER_KEY, RESOURCE_ATTRIBUTES, SERVICES
from tests.traces import filter_block, histograms_plan, host_info_plan, plan, service_graphs_plan, span_metrics_plan

MANY = 10_000

bounds = st.sampled_from(
    [[], [0.002, 0.1, 1.0], [1.0, 0.5, 2.0], [1e-9, 1.5e-9, 1e21], [0.1 * 2**n for n in range(8)]]
) | st.lists(st.floats(1e-9, 1e9), max_size=4, unique=True)
dimensions = st.lists(st.sampled_from(ATTRIBUTES), max_size=4)
on = st.sampled_from([True, True, True, False])
off = st.sampled_from([False, False, True])

KINDS = [f"SPAN_KIND_{kind}" for kind in ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")]
STATUSES = [f"STATUS_CODE_{status}" for status in ("UNSET", "OK", "ERROR")]
FILTER_VALUES: list[Any] = ["", "a", "shop", "größe", "ok\n", 0, -1, 5432, 3, 3.0, 0.0, 5432.0, 0.1, True, False]
PATTERNS = ["", ".*", "^$", "a", "^a", "b$", "ok$", "shop|deploy", "x+", "^[a-z]+$", r"^\d+$", r"\w", "(?i)SHOP", "^ok"]
MAPPING_NAMES = ["joined", "http.joined", "span.name", "gr\u00f6\u00dfe"]


@st.composite
def _filter_entries(draw: st.DrawFn, match_type: str) -> tuple[str, Any]:
    """Draw a key with a value that may be asked of it."""
    is_regex = match_type == "regex"
    where = draw(st.sampled_from(["kind", "kind", "status", "name", "service", "service", "attribute", "attribute"]))
    if where == "service":
        return "resource.service.name", draw(st.sampled_from(SERVICES))
    if where == "attribute":
        scope = draw(st.sampled_from(["span.", "span.", "resource.", "parent.span."]))
        name = draw(st.sampled_from([*ATTRIBUTES, "service.name", '"http.method"']))
        return scope + name, draw(st.sampled_from(PATTERNS if is_regex else FILTER_VALUES))
    texts = {"kind": KINDS, "status": STATUSES, "name": ["", "a", "shop", "ok\n"]}[where]
    patterns = {"kind": "SERVER|CONSUMER", "status": "OK|ERROR$", "name": "^(a|b|shop)"}
    value = st.sampled_from([patterns[where], *PATTERNS]) if is_regex else st.sampled_from(texts)
    return draw(st.sampled_from(["", "span:"])) + where, draw(value)


@st.composite
def _filter_blocks(draw: st.DrawFn) -> dict[str, Any]:
    match_type = draw(st.sampled_from(["strict", "strict", "regex"]))
    return filter_block(match_type, draw(st.lists(_filter_entries(match_type), min_size=1, max_size=2)))


@st.composite
def _filter_policies(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw no policies more often than some: they leave little to count."""
    if draw(on):
        return []
    kinds = st.sampled_from(["exclude", "include", "include_any"])
    return draw(st.lists(st.dictionaries(kinds, _filter_blocks(), min_size=1, max_size=2), min_size=1, max_size=2))


@st.composite
def _dimension_mappings(draw: st.DrawFn, beside: list[str]) -> list[dict[str, Any]]:
    """Draw mappings whose labels are those of no dimension."""
    taken = {sanitize_protected(dimension, INTRINSIC_LABELS) for dimension in beside}
    free = [name for name in MAPPING_NAMES if sanitize_protected(name, INTRINSIC_LABELS) not in taken]
    return [
        {
            "name": name,
            "source_labels": draw(st.lists(st.sampled_from(ATTRIBUTES), min_size=1, max_size=3)),
            "join": draw(st.sampled_from(["/", "", "->", "é"])),
        }
        for name in draw(st.lists(st.sampled_from(free), max_size=2, unique=True))
    ]


@st.composite
def _common_settings(draw: st.DrawFn) -> dict[str, Any]:
    """Draw what both processors of spans have in common."""
    return {
        "histogram_buckets": draw(bounds),
        "dimensions": draw(dimensions),
        "filter_policies": draw(_filter_policies()),
        "span_multiplier_key": draw(st.sampled_from(["", "", MULTIPLIER_KEY])),
        "enable_tracestate_span_multiplier": draw(off),
        "keep_colliding_dimensions": draw(off),
        "enable_strict_filter_types": draw(off),
    }


@st.composite
def span_metrics_plans(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the span-metrics part of a plan."""
    common = draw(_common_settings())
    return span_metrics_plan(
        **common,
        count=draw(on),
        latency=draw(on),
        size=draw(on),
        intrinsic_dimensions={name: draw(on) for name in sorted(INTRINSIC_LABELS)},
        dimension_mappings=draw(_dimension_mappings(common["dimensions"])),
        enable_target_info=draw(off),
        enable_instance_label=draw(on),
        target_info_excluded_dimensions=draw(st.lists(st.sampled_from(RESOURCE_ATTRIBUTES[:-1]), max_size=2)),
    )


@st.composite
def service_graphs_plans(draw: st.DrawFn, *, max_items: st.SearchStrategy[int]) -> dict[str, Any]:
    """Draw the service-graphs part of a plan."""
    defaults = service_graphs_plan()
    return service_graphs_plan(
        **draw(_common_settings()),
        request=draw(on),
        latency=draw(on),
        connection_info=draw(off),
        peer_attributes=draw(st.just(defaults["peer_attributes"]) | dimensions),
        database_name_attributes=draw(st.just(defaults["database_name_attributes"]) | dimensions),
        wait_s=draw(st.sampled_from([10.0, 2.5, 0.001, 1e-9, 400.0])),
        max_items=draw(max_items),
        enable_client_server_prefix=draw(off),
        enable_messaging_system_latency_histogram=draw(off),
        enable_virtual_node_label=draw(off),
        pair_database_spans=draw(off),
        count_every_receiver=draw(off),
        enable_virtual_node_latency=draw(on),
        zero_parent_id_is_root=draw(off),
    )


@st.composite
def host_info_plans(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the host-info part of a plan."""
    identifiers = st.lists(st.sampled_from(["host.id", "k8s.node.name", "cluster", "a"]), min_size=1, max_size=3)
    return host_info_plan(host_identifiers=draw(identifiers), metric_name=draw(st.sampled_from(["hosts", "h:1"])))


@st.composite
def histograms_plans(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the form of histograms."""
    return histograms_plan(
        draw(st.sampled_from(["classic", "classic", "native", "both"])),
        native_bucket_factor=draw(st.sampled_from([1.1, 1.1, 1.0001, 1.01, 1.5, 2.0, 4.0, 65536.0])),
        native_max_buckets=draw(st.sampled_from([100, 1, 2, 5])),
        native_min_reset_duration_s=0.0,
    )


@st.composite
def plans(draw: st.DrawFn, *, max_items: st.SearchStrategy[int]) -> dict[str, Any]:
    """Draw a whole plan in which span metrics or service graphs are on."""
    span_metrics = draw(st.none() | span_metrics_plans() | span_metrics_plans())
    graphs = service_graphs_plans(max_items=max_items)
    service_graphs = draw(graphs if span_metrics is None else st.none() | graphs | graphs)
    return plan(
        span_metrics,
        service_graphs,
        draw(st.none() | host_info_plans()),
        histograms=draw(histograms_plans()),
        trace_id_label_name=draw(st.sampled_from(["traceID", "trace_id"])),
        max_label_name_length=draw(st.sampled_from([1024, 1024, 1024, 0, 8, 6])),
        max_label_value_length=draw(st.sampled_from([2048, 2048, 2048, 0, 8, 5])),
        max_attribute_bytes=draw(st.sampled_from([2048, 2048, 0, 64, 8, 5])),
        stale_duration_s=1e6,
        limiter_type=draw(st.sampled_from(["series", "entity"])),
        max_active_series=draw(st.sampled_from([0, MANY])),
        max_active_entities=draw(st.sampled_from([0, MANY])),
        max_cardinality_per_label=draw(st.sampled_from([0, MANY])),
        span_name_sanitization=draw(st.sampled_from(["", "dry_run"])),
    )
