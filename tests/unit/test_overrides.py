"""One override layer (what is accepted), and the layers together (what wins)."""

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tenants.identity import TenantId
from tenants.settings import (
    Duration,
    Overrides,
    ServiceConfig,
    SettingsError,
    Source,
    TenantSettings,
    parse_service_config,
    resolve,
)
from tenants.settings.dimension_mappings import DimensionMapping
from tenants.settings.filter_policies import FilterPolicy
from tenants.settings.in_force import OverridesInForce
from tenants.settings.ingestion import IngestionSettings
from tenants.settings.model import validate
from tenants.settings.tenant_settings import HistogramSettings, HostInfoSettings, explain
from tests.overrides_in_force import in_force

ACME = TenantId("acme")
SECRET = "s3cr3t-value"
ALL = ["span-metrics", "service-graphs", "host-info"]


Keys = Mapping[str, object]


def entry(scopes: Keys) -> Overrides:
    return validate(Overrides, scopes, path=("overrides", "acme"))


def layer(generator: Keys) -> Overrides:
    return entry({"metrics_generator": generator})


def faults(scopes: Keys) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        entry(scopes)
    return {fault.path.removeprefix("overrides.acme."): fault.message for fault in caught.value.faults}


def service(text: str = "") -> ServiceConfig:
    return parse_service_config(text.encode(), {})


def layered(
    text: str = "",
    *,
    tenant: Keys | None = None,
    wildcard: Keys | None = None,
    defaults: Keys | None = None,
) -> tuple[ServiceConfig, OverridesInForce]:
    """Return the service configuration and the overrides with these layers of ``metrics_generator``."""
    runtime = {}
    if tenant is not None:
        runtime["acme"] = layer(tenant)
    if wildcard is not None:
        runtime["*"] = layer(wildcard)
    config = service(text)
    if defaults is not None:
        config = config.model_copy(
            update={"overrides": config.overrides.model_copy(update={"defaults": layer(defaults)})}
        )
    return config, in_force(runtime)


def effective(text: str = "", **layers: Keys | None) -> TenantSettings:
    return resolve(*layered(text, **layers), ACME)


def source(key: str, text: str = "", **layers: Keys | None) -> Source:
    """Return where the value of a key of ``metrics_generator`` is from."""
    return explain(*layered(text, **layers), ACME)[f"metrics_generator.{key}"].source


SWITCHES = (
    "span_metrics.enable_target_info",
    "span_metrics.enable_instance_label",
    "span_metrics.enable_tracestate_span_multiplier",
    "span_metrics.keep_colliding_dimensions",
    "span_metrics.enable_strict_filter_types",
    "service_graphs.enable_client_server_prefix",
    "service_graphs.enable_messaging_system_latency_histogram",
    "service_graphs.enable_virtual_node_label",
    "service_graphs.enable_tracestate_span_multiplier",
    "service_graphs.keep_colliding_dimensions",
    "service_graphs.enable_strict_filter_types",
    "service_graphs.pair_database_spans",
    "service_graphs.count_every_receiver",
    "service_graphs.enable_virtual_node_latency",
    "service_graphs.zero_parent_id_is_root",
)


def nested(path: str, value: object) -> dict[str, object]:
    head, _, rest = path.partition(".")
    return {head: nested(rest, value) if rest else value}


# What one layer accepts


@pytest.mark.parametrize("value", [None, {}, {"metrics_generator": None}, {"ingestion": {}, "global": None}])
def test_empty_layer_overrides_nothing(value: object) -> None:
    assert validate(Overrides, value) == Overrides()


@pytest.mark.parametrize(
    ("key", "accepted", "refused"),
    [
        ("max_active_series", [0, 1, 2**32 - 1], [-5, 2**32, "5", 1.5, True]),
        ("max_active_entities", [0, 1, 2**32 - 1], [-1, 2**32, "0", 1.5, False]),
        ("max_cardinality_per_label", [0, 10, 2**64 - 1], [-1, 2**64, "10", True]),
        ("disable_collection", [True, False], [0, 1, "true"]),
        ("generate_native_histograms", ["classic", "native", "both"], ["", "Classic", "none", False, 1, []]),
        (
            "native_histogram_bucket_factor",
            [0, 0.0, 1.0001, 1.1, 2, 65536.5],
            [1, 0.99, -1.1, float("nan"), float("inf"), "1.1", True, False, 10**400],
        ),
        ("native_histogram_max_bucket_number", [0, 1, 10_000], [-1, 10_001, 1.5, "100", True, False]),
        (
            "native_histogram_min_reset_duration",
            ["0s", 0, "1ns", "15m", "87600h"],
            ["-1ns", "87600h1ns", "1d", 1.5, False],
        ),
        ("span_name_sanitization", ["", "dry_run", "enabled"], ["on", "Enabled", "dry-run", True, []]),
        ("ring_size", [0, 3], [-1, "3", True]),
        ("forwarder.queue_size", [1, 100, 1_000_000], [-1, 0, 1_000_001, "100", True]),
        ("forwarder.workers", [1, 2, 64], [-1, 0, 65, "2", True]),
        (
            "collection_interval",
            ["1s", "15s", "5m", 30_000_000_000, 0, "0", "0s"],
            ["999ms", "5m1s", "-5s", "30", "1d", 30, False],
        ),
        ("ingestion_time_range_slack", ["0s", "12h", 1], ["-1s", "12h1s", "x", True]),
        ("trace_id_label_name", ["traceID", "_t", "a" * 96], ["", "trace.id", "1a", "a" * 97, "le", 3]),
        ("shards", [0, 1, 64], [65, -1, "2", 1.0, True]),
        ("processors", [[], ALL], ["span-metrics", [1], [None], {"span-metrics": 1}]),
        (
            "processor.span_metrics.dimensions",
            [[], ["a.b"], ["x"] * 64, ["x" * 1024], ["größe", "1x"]],
            [[""], [3], "a", ["x"] * 65, ["\ud800"], ["x" * 1025], ["ö" * 513], ["..name__"]],
        ),
        ("processor.service_graphs.dimensions", [[], ["a.b"]], [[""], "a"]),
        ("processor.service_graphs.peer_attributes", [[], ["a"]], [[""], "a", ["x" * 1025]]),
        ("processor.span_metrics.target_info_excluded_dimensions", [[], ["le"]], [[""], ["x"] * 65]),
        ("processor.span_metrics.span_multiplier_key", ["", "a.b", "x" * 1024], [1, "x" * 1025, "\ud800"]),
        ("processor.service_graphs.span_multiplier_key", ["", "a.b"], [1, "x" * 1025]),
        ("processor.host_info.host_identifiers", [["host.id"], ["x"] * 64], [[], [""], ["x"] * 65, "host.id"]),
        (
            "processor.host_info.metric_name",
            ["traces_host_info", "a b", "1x", "größe", "x" * 1024],
            ["", "x" * 1025, 1, "traces_target_info", "traces_spanmetrics_calls_total", "traces_service_graph_x"],
        ),
        (
            "processor.span_metrics.histogram_buckets",
            [[], [1], [0.1, 1, 2.5], list(range(1, 101))],
            [
                [1, 1],
                [2, 1],
                [0],
                [-1],
                [float("nan")],
                [float("inf")],
                ["1"],
                [True],
                list(range(1, 102)),
                1,
            ],
        ),
        ("processor.service_graphs.histogram_buckets", [[0.5, 1]], [[1, 1], [1, float("inf")]]),
        (
            "processor.span_metrics.intrinsic_dimensions",
            [{}, {"service": False}],
            [{"job": True}, {"service": 1}, []],
        ),
        *((f"processor.{switch}", [True, False], [0, 1, "true", "yes", []]) for switch in SWITCHES),
        (
            "remote_write_headers",
            [{}, {"Authorization": "x"}],
            [{"Content-Type": "x"}, {"a": 1}, {"a": "x\n"}, []],
        ),
        ("remote_write", [[], [{"url": "http://h/"}]], [[{"url": "h"}], [{}], {"url": "http://h/"}]),
    ],
)
def test_value_is_accepted_within_its_bounds_only(key: str, accepted: list[object], refused: list[object]) -> None:
    for value in accepted:
        layer(nested(key, value))
    for value in refused:
        found = faults(nested(f"metrics_generator.{key}", value))
        assert all(path.startswith(f"metrics_generator.{key}") for path in found), value


@pytest.mark.parametrize("buckets", [[1, 1], [2, 1]])
def test_refused_buckets_are_named_by_path_and_index(buckets: list[float]) -> None:
    path = "metrics_generator.processor.span_metrics.histogram_buckets"
    found = faults(nested(path, buckets))
    assert "entry [1]" in found[path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("local-blocks", "is not a processor; known are span-metrics,"),
        ("Span-Metrics", "is not a processor"),
        ("", "is not a processor"),
    ],
)
def test_unknown_processors_are_refused(name: str, message: str) -> None:
    found = faults(nested("metrics_generator.processors", ["span-metrics", name]))
    assert message in found["metrics_generator.processors[1]"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("generate_native_histograms", "", "should be 'classic', 'native' or 'both'"),
        ("native_histogram_bucket_factor", 1, "should be a finite number greater than 1, or 0 to inherit it"),
        ("native_histogram_bucket_factor", "1.1", "should be a number, without quotes"),
        ("native_histogram_max_bucket_number", 10_001, "should be less than or equal to 10000"),
        ("native_histogram_min_reset_duration", "-1s", "should be from 0s to 87600h, not -1s"),
        ("span_name_sanitization", "on", "should be '', 'dry_run' or 'enabled'"),
        ("disable_collection", 1, "should be true or false, without quotes"),
        ("forwarder.queue_size", 0, "should be greater than or equal to 1"),
        ("forwarder.workers", 65, "should be less than or equal to 64"),
        ("processor.span_metrics.span_multiplier_key", "x" * 1025, "should be at most 1024 bytes, not 1025"),
        ("processor.host_info.metric_name", "", "should be the name of a metric, not an empty text"),
        (
            "processor.host_info.metric_name",
            "traces_spanmetrics_latency_count",
            "is the name of a metric that another processor generates; choose another",
        ),
        (
            "processor.host_info.host_identifiers",
            [],
            "should name an attribute at least; to generate no host info, take host-info out of processors",
        ),
    ],
)
def test_refusal_says_what_would_be_right(key: str, value: object, message: str) -> None:
    assert faults(nested(f"metrics_generator.{key}", value)) == {f"metrics_generator.{key}": message}


def test_keys_without_effect_are_accepted_and_change_nothing() -> None:
    document = {scope: keys for scope, keys in yaml.safe_load(TEMPO).items() if scope != "ingestion"}
    settings = [resolve(service(), in_force({"acme": entry(scopes)}), ACME) for scopes in (document, {})]
    assert settings[0] == settings[1]


TEMPO = """
ingestion:
  rate_strategy: global
  rate_limit_bytes: 15000000
  burst_size_bytes: 20000000
  max_attribute_bytes: 4096
  artificial_delay: 50ms
  retry_info_enabled: false
  max_traces_per_user: 10000
  max_global_traces_per_user: 0
  tenant_shard_size: 3
read:
  max_bytes_per_tag_values_query: 5000000
  max_blocks_per_tag_values_query: 10
  max_condition_groups_per_tag_query: 4
  max_search_duration: 1d
  max_metrics_duration: 3h
  unsafe_query_hints: true
  left_pad_trace_ids: true
  metrics_spanonly_fetch: false
  engine_bytes_tracking: true
compaction: {block_retention: 2w, compaction_window: 1h, compaction_disabled: true}
global: {max_bytes_per_trace: 5000000}
storage: {parquet_dedicated_columns: [{name: db.statement, type: string, scope: span}]}
forwarders: [jaeger]
cost_attribution: {dimensions: {resource.team: team, span.region: ""}, max_cardinality: 5}
metrics_generator: {ring_size: 3, forwarder: {queue_size: 7, workers: 9}}
"""


def test_entry_with_all_scopes_of_tempo_is_accepted() -> None:
    document = yaml.safe_load(TEMPO)
    accepted = entry(document)
    written = accepted.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    assert {scope: set(keys) for scope, keys in written.items() if isinstance(keys, dict)} == {
        scope: set(keys) for scope, keys in document.items() if isinstance(keys, dict)
    }


@pytest.mark.parametrize(
    ("key", "accepted", "refused"),
    [
        ("ingestion.rate_strategy", ["local", "global"], ["Local", "", 1]),
        ("ingestion.rate_limit_bytes", [0, 30_000_000], [-5, "10MB", 1.5, True]),
        ("ingestion.burst_size_bytes", [0, 1], [-5, "1"]),
        ("ingestion.max_attribute_bytes", [0, 64, 2048], [-1, 1, 63, (1 << 30) + 1, "2KiB"]),
        ("ingestion.artificial_delay", ["0s", "1m", 5_000_000], ["-1s", "1m1s", "1d", 1.5]),
        ("ingestion.retry_info_enabled", [True, False], ["yes", 1]),
        ("ingestion.tenant_shard_size", [0, 5], [-1, "5"]),
        ("read.max_search_duration", ["1d", "2w", "0s"], ["x", 1.5]),
        ("read.max_bytes_per_tag_values_query", [0, 1], [-1, "1"]),
        ("compaction.block_retention", ["336h", "2w"], ["soon"]),
        ("global.max_bytes_per_trace", [0, 5_000_000], [-1, "5MB"]),
        ("storage.parquet_dedicated_columns", [[], [{"name": "a"}]], [{}, "a", ["a"]]),
        ("forwarders", [[], ["a", "b"]], ["a", [1], ["a", "a"]]),
        (
            "cost_attribution.dimensions",
            [{}, {"resource.a": "", "span.b": ""}, {"a": "x"}],
            [{"resource.a": "", "span.a": ""}, {"a": "__name__"}, {"a": "tenant"}, {"": "x"}, ["a"]],
        ),
        ("cost_attribution.max_cardinality", [0, 10_000], [-1, "5"]),
    ],
)
def test_value_of_another_scope_is_accepted_within_its_bounds_only(
    key: str, accepted: list[object], refused: list[object]
) -> None:
    for value in accepted:
        entry(nested(key, value))
    for value in refused:
        assert all(path.startswith(key) for path in faults(nested(key, value))), value


@pytest.mark.parametrize(
    ("scopes", "path", "advice"),
    [
        ({"metrics_generatr": {}}, "metrics_generatr", "did you mean metrics_generator?"),
        ({"metrics_generator": {"procesors": []}}, "metrics_generator.procesors", "did you mean processors?"),
        ({"processors": []}, "processors", "belongs at metrics_generator.processors"),
        (
            {"metrics_generator_processors": []},
            "metrics_generator_processors",
            "write metrics_generator.processors",
        ),
        ({"ingestion_rate_limit_bytes": 1}, "ingestion_rate_limit_bytes", "legacy flat format"),
        ({"metrics_generator": {"bogus": None}}, "metrics_generator.bogus", "unknown key"),
    ],
)
def test_unknown_key_is_refused_with_advice(scopes: dict[str, object], path: str, advice: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validate(Overrides, scopes)
    (fault,) = caught.value.faults
    assert fault.path == path
    assert advice in fault.message


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(type(Overrides().metrics_generator).model_fields)), json_like)
def test_any_value_of_any_key_is_accepted_or_refused(key: str, value: object) -> None:
    try:
        accepted = layer({key: value})
    except SettingsError:
        return
    resolve(ServiceConfig(), in_force({"acme": accepted}), ACME)


def test_refused_secrets_do_not_show_even_without_the_loader() -> None:
    with pytest.raises(ValidationError) as caught:
        Overrides.model_validate({"metrics_generator": {"remote_write_headers": {"Host": SECRET}}})
    assert SECRET not in str(caught.value)


# Which layer wins


def test_without_processors_nothing_is_generated() -> None:
    settings = effective()
    assert not settings.is_generating
    assert (settings.span_metrics, settings.service_graphs, settings.host_info) == (None, None, None)


def test_unconfigured_tenant_has_the_built_in_settings() -> None:
    settings = effective(tenant={"processors": ALL})
    assert settings.is_generating
    assert settings.tenant == ACME
    assert settings.span_metrics is not None
    assert settings.service_graphs is not None
    assert len(settings.span_metrics.histogram_buckets) == 14
    assert len(settings.service_graphs.histogram_buckets) == 8
    assert settings.host_info == HostInfoSettings(("k8s.node.name", "host.id"), "traces_host_info")
    assert settings.histograms == HistogramSettings("classic", 1.1, 100, Duration.parse("15m"))
    assert settings.disable_collection is False
    assert settings.limiter_type == "series"
    assert (settings.max_active_entities, settings.max_cardinality_per_label) == (0, 0)
    assert settings.span_name_sanitization == ""
    assert settings.ingestion_time_range_slack.seconds == 30
    assert settings.collection_interval.seconds == 15
    assert settings.stale_duration.seconds == 900
    assert settings.trace_id_label_name == "traceID"
    assert settings.max_active_series == 0
    assert settings.shards == 1
    assert settings.external_labels == ()
    assert settings.remote_write == ()
    assert settings.state == "active"
    assert settings.ingestion == IngestionSettings("local", 30_000_000, 30_000_000, 2048, Duration(0), True, "accepted")
    origins = {key: found.source for key, found in explain(*layered(tenant={"processors": ALL}), ACME).items()}
    assert {key: origin for key, origin in origins.items() if origin != "builtin"} == {
        "metrics_generator.processors": "tenant"
    }


STATIC = """
metrics_generator:
  limiter_type: entity
  metrics_ingestion_time_range_slack: 31s
  registry:
    {collection_interval: 16s, stale_duration: 11m, max_label_name_length: 5, max_label_value_length: 6}
  processor:
    span_metrics:
      {histogram_buckets: [1], dimensions: [static], dimension_mappings: [{name: joined, source_labels: [static]}],
       filter_policies: [{include: {match_type: strict, attributes: [{key: name, value: static}]}}],
       enable_target_info: true, target_info_excluded_dimensions: [static], enable_instance_label: false,
       span_multiplier_key: static, enable_tracestate_span_multiplier: true,
       keep_colliding_dimensions: true, enable_strict_filter_types: true}
    service_graphs:
      {histogram_buckets: [2], dimensions: [static], peer_attributes: [static],
       database_name_attributes: [static], wait: 3s, max_items: 7,
       enable_client_server_prefix: true, enable_virtual_node_label: true,
       enable_messaging_system_latency_histogram: true,
       filter_policies: [{include: {match_type: strict, attributes: [{key: name, value: static}]}}],
       span_multiplier_key: static, enable_tracestate_span_multiplier: true,
       keep_colliding_dimensions: true, enable_strict_filter_types: true, pair_database_spans: true,
       count_every_receiver: true, enable_virtual_node_latency: false, zero_parent_id_is_root: true}
    host_info: {host_identifiers: [static], metric_name: static}
remote_write: [{url: 'http://static/', name: static}]
"""


NOT_NAMED_AS_THE_KEY = {
    "generate_native_histograms": "histograms.mode",
    "native_histogram_bucket_factor": "histograms.native_bucket_factor",
    "native_histogram_max_bucket_number": "histograms.native_max_buckets",
    "native_histogram_min_reset_duration": "histograms.native_min_reset_duration",
}
BUILT_IN = {*NOT_NAMED_AS_THE_KEY, "trace_id_label_name", "shards", "disable_collection", "span_name_sanitization"}
BUILT_IN |= {"max_active_series", "max_active_entities", "max_cardinality_per_label"}


def read(settings: TenantSettings, key: str) -> object:
    value: object = settings
    key = NOT_NAMED_AS_THE_KEY.get(key, key)
    for name in key.removeprefix("processor.").split("."):
        value = getattr(value, name)
    return value


def policies(*names: str) -> list[dict[str, object]]:
    attributes = ({"key": "name", "value": name} for name in names)
    return [{"include": {"match_type": "strict", "attributes": [attribute]}} for attribute in attributes]


def checked_policies(*names: str) -> tuple[FilterPolicy, ...]:
    return tuple(validate(FilterPolicy, policy) for policy in policies(*names))


def mappings(*names: str) -> list[dict[str, object]]:
    return [{"name": name, "source_labels": ["x"], "join": "-"} for name in names]


def checked_mappings(*names: str) -> tuple[DimensionMapping, ...]:
    return tuple(validate(DimensionMapping, mapping) for mapping in mappings(*names))


STATIC_MAPPING = (validate(DimensionMapping, {"name": "joined", "source_labels": ["static"]}),)
STATIC_ON = {
    "span_metrics.enable_target_info",
    *(
        name
        for name in SWITCHES
        if name.endswith("multiplier") or name.endswith("dimensions") or "filter_types" in name
    ),
    *(name for name in SWITCHES if name.startswith("service_graphs.") and not name.endswith("virtual_node_latency")),
}

# key, value in `defaults`, in `*`, in the tenant's entry; as effective; the static or built-in value.
FIELDS: list[tuple[str, list[object], list[object], object]] = [
    (
        "collection_interval",
        ["20s", "21s", "22s"],
        [Duration.parse(f"{n}s") for n in (20, 21, 22)],
        Duration.parse("16s"),
    ),
    (
        "ingestion_time_range_slack",
        ["1s", "2s", "0s"],
        [Duration.parse(f"{n}s") for n in (1, 2, 0)],
        Duration.parse("31s"),
    ),
    ("trace_id_label_name", ["a", "b", "c"], ["a", "b", "c"], "traceID"),
    ("max_active_series", [1, 2, 0], [1, 2, 0], 0),
    ("shards", [2, 3, 1], [2, 3, 1], 1),
    ("processor.span_metrics.histogram_buckets", [[5], [6, 7], []], [(5.0,), (6.0, 7.0), ()], (1.0,)),
    ("processor.span_metrics.dimensions", [["a"], ["b"], []], [("a",), ("b",), ()], ("static",)),
    ("processor.service_graphs.histogram_buckets", [[5], [6, 7], []], [(5.0,), (6.0, 7.0), ()], (2.0,)),
    ("processor.service_graphs.dimensions", [["a"], ["b"], []], [("a",), ("b",), ()], ("static",)),
    ("processor.service_graphs.peer_attributes", [["a"], ["b"], []], [("a",), ("b",), ()], ("static",)),
    (
        "processor.span_metrics.dimension_mappings",
        [mappings("a"), mappings("b", "c"), []],
        [checked_mappings("a"), checked_mappings("b", "c"), ()],
        STATIC_MAPPING,
    ),
    *(
        (
            f"processor.{processor}.filter_policies",
            [policies("a"), policies("b", "c"), []],
            [checked_policies("a"), checked_policies("b", "c"), ()],
            checked_policies("static"),
        )
        for processor in ("span_metrics", "service_graphs")
    ),
    ("processor.span_metrics.target_info_excluded_dimensions", [["a"], ["b"], []], [("a",), ("b",), ()], ("static",)),
    # An explicit empty text is present: it clears the key of the layers below.
    ("processor.span_metrics.span_multiplier_key", ["a", "b", ""], ["a", "b", ""], "static"),
    ("processor.service_graphs.span_multiplier_key", ["a", "b", ""], ["a", "b", ""], "static"),
    ("processor.host_info.host_identifiers", [["a"], ["b"], ["c"]], [("a",), ("b",), ("c",)], ("static",)),
    ("processor.host_info.metric_name", ["a", "b", "c"], ["a", "b", "c"], "static"),
    ("max_active_entities", [1, 2, 0], [1, 2, 0], 0),
    ("max_cardinality_per_label", [1, 2, 0], [1, 2, 0], 0),
    ("disable_collection", [True, False, True], [True, False, True], False),
    ("span_name_sanitization", ["enabled", "dry_run", ""], ["enabled", "dry_run", ""], ""),
    ("generate_native_histograms", ["native", "both", "classic"], ["native", "both", "classic"], "classic"),
    ("native_histogram_bucket_factor", [1.2, 1.3, 2], [1.2, 1.3, 2.0], 1.1),
    ("native_histogram_max_bucket_number", [1, 2, 3], [1, 2, 3], 100),
    (
        "native_histogram_min_reset_duration",
        ["1s", "2s", "0s"],
        [Duration.parse(f"{n}s") for n in (1, 2, 0)],
        Duration.parse("15m"),
    ),
    # Three states: false is a value like any other, also against a static true (Q28).
    *((f"processor.{name}", [False, True, False], [False, True, False], name in STATIC_ON) for name in SWITCHES),
    *((f"processor.{name}", [True, False, True], [True, False, True], name in STATIC_ON) for name in SWITCHES),
]


@pytest.mark.parametrize(
    ("key", "given", "expected", "static"), FIELDS, ids=[f"{field[0]}-{field[1][2]}" for field in FIELDS]
)
def test_strongest_layer_in_which_a_field_is_present_wins(
    key: str, given: list[object], expected: list[object], static: object
) -> None:
    in_defaults, in_wildcard, in_tenant = (nested(key, value) for value in given)
    processors = {"processors": ALL}
    cases: list[tuple[dict[str, Keys], object, str]] = [
        (
            {"defaults": processors},
            static,
            "builtin" if key in BUILT_IN else "static",
        ),
        ({"defaults": processors | in_defaults}, expected[0], "defaults"),
        ({"defaults": processors | in_defaults, "wildcard": in_wildcard}, expected[1], "wildcard"),
        ({"defaults": processors | in_defaults, "tenant": in_tenant}, expected[2], "tenant"),
        (
            {"defaults": processors | in_defaults, "wildcard": in_wildcard, "tenant": in_tenant},
            expected[2],
            "tenant",
        ),
        (
            {"defaults": processors, "wildcard": in_wildcard, "tenant": nested(key, None)},
            expected[1],
            "wildcard",
        ),
    ]
    for layers, value, origin in cases:
        assert read(effective(STATIC, **layers), key) == value
        assert source(key, STATIC, **layers) == origin


def test_fields_without_override_come_from_the_service_configuration() -> None:
    settings = effective(STATIC, tenant={"processors": ALL})
    assert settings.service_graphs is not None
    assert settings.service_graphs.wait == Duration.parse("3s")
    assert settings.service_graphs.max_items == 7
    assert settings.service_graphs.database_name_attributes == ("static",)
    assert settings.limiter_type == "entity"
    assert (settings.max_label_name_length, settings.max_label_value_length) == (5, 6)
    assert settings.stale_duration == Duration.parse("11m")
    for key in (
        "limiter_type",
        "registry.stale_duration",
        "registry.max_label_name_length",
        "processor.service_graphs.wait",
    ):
        assert source(key, STATIC) == "static"


def test_entry_inherits_every_field_it_does_not_mention() -> None:
    # Tenancy conformance 18: an entry with processors only keeps the limits of the layers below.
    settings = effective(
        defaults={"max_active_series": 100}, wildcard={"shards": 4}, tenant={"processors": ["span-metrics"]}
    )
    assert (settings.max_active_series, settings.shards) == (100, 4)
    assert settings.is_generating


@pytest.mark.parametrize(
    ("key", "value", "built_in"),
    [
        ("native_histogram_bucket_factor", 1.5, 1.1),
        ("native_histogram_max_bucket_number", 7, 100),
        ("collection_interval", Duration.parse("20s"), Duration.parse("15s")),
    ],
)
@pytest.mark.parametrize("zero", [0, None])
def test_zero_that_means_nothing_counts_as_absent(key: str, value: object, built_in: object, zero: object) -> None:
    inherited: dict[str, Keys] = {"wildcard": {key: value}, "tenant": {key: zero}}
    assert (read(effective(**inherited), key), source(key, **inherited)) == (value, "wildcard")
    nowhere: dict[str, Keys] = {"defaults": {key: zero}, "wildcard": {key: zero}, "tenant": {key: zero}}
    assert (read(effective(**nowhere), key), source(key, **nowhere)) == (built_in, "builtin")


def test_wildcard_applies_to_tenants_without_an_entry() -> None:
    runtime = in_force({"*": layer({"shards": 5}), "acme": layer({"shards": 9})})
    assert resolve(service(), runtime, ACME).shards == 9
    assert resolve(service(), runtime, TenantId("other")).shards == 5


def test_entries_of_other_tenants_and_other_letter_case_do_not_apply() -> None:
    runtime = in_force({"Acme": layer({"shards": 5})})
    assert resolve(service(), runtime, ACME).shards == 1


def test_empty_processor_list_switches_generation_off() -> None:
    assert not effective(defaults={"processors": ALL}, tenant={"processors": []}).is_generating
    assert effective(defaults={"processors": ALL}, tenant={"processors": None}).is_generating


def test_processor_lists_replace_each_other() -> None:
    settings = effective(defaults={"processors": ALL}, tenant={"processors": ["service-graphs"]})
    assert settings.span_metrics is None
    assert settings.service_graphs is not None


def test_intrinsic_dimensions_resolve_one_by_one() -> None:
    key = "processor.span_metrics.intrinsic_dimensions"
    static = "metrics_generator: {processor: {span_metrics: {intrinsic_dimensions: {service: false}}}}"
    layers: dict[str, Keys] = {
        "defaults": {"processors": ALL} | nested(key, {"status_message": True, "span_kind": True}),
        "wildcard": nested(key, {"status_code": False}),
        "tenant": nested(key, {"span_kind": False}),
    }
    settings = effective(static, **layers)
    assert settings.span_metrics is not None
    assert settings.span_metrics.intrinsic_dimensions.model_dump() == {
        "service": False,
        "span_name": True,
        "span_kind": False,
        "status_code": False,
        "status_message": True,
    }
    assert {
        name: source(f"{key}.{name}", static, **layers)
        for name in type(settings.span_metrics.intrinsic_dimensions).model_fields
    } == {
        "service": "static",
        "span_name": "builtin",
        "span_kind": "tenant",
        "status_code": "wildcard",
        "status_message": "defaults",
    }


@pytest.mark.parametrize(
    ("names", "span_metrics", "service_graphs"),
    [
        (["span-metrics"], (True, True, True), None),
        (["span-metrics", "span-metrics-count"], (True, True, True), None),
        (["span-metrics-count"], (True, False, False), None),
        (["span-metrics-latency"], (False, True, False), None),
        (["span-metrics-size"], (False, False, True), None),
        (["span-metrics-size", "span-metrics-count"], (True, False, True), None),
        (["service-graphs"], None, (True, True, False)),
        (["service-graphs-latency", "service-graphs"], None, (True, True, False)),
        (["service-graphs-request"], None, (True, False, False)),
        (["service-graphs-latency"], None, (False, True, False)),
        (["service-graphs-latency", "service-graphs-request"], None, (True, True, False)),
        (["service-graphs-connection-info"], None, (False, False, True)),
        (["service-graphs-connection-info", "service-graphs"], None, (True, True, True)),
        (["service-graphs-connection-info", "service-graphs-latency"], None, (False, True, True)),
        (["service-graphs", "service-graphs", "span-metrics-count"], (True, False, False), (True, True, False)),
        (["host-info"], None, None),
    ],
)
def test_sub_names_fold_into_their_parent(
    names: list[str],
    span_metrics: tuple[bool, bool, bool] | None,
    service_graphs: tuple[bool, bool, bool] | None,
) -> None:
    settings = effective(tenant={"processors": names})
    spans, graphs = settings.span_metrics, settings.service_graphs
    assert (spans and (spans.count, spans.latency, spans.size)) == span_metrics
    assert (graphs and (graphs.request, graphs.latency, graphs.connection_info)) == service_graphs
    assert settings.is_generating


@pytest.mark.parametrize(
    ("names", "active"),
    [
        ([], ()),
        (["host-info", "span-metrics"], ("span-metrics", "host-info")),
        (["span-metrics-count", "span-metrics-size"], ("span-metrics",)),
        (["service-graphs-connection-info"], ("service-graphs",)),
        (ALL, ("span-metrics", "service-graphs", "host-info")),
    ],
)
def test_active_processors_are_named_by_their_parent(names: list[str], active: tuple[str, ...]) -> None:
    settings = effective(tenant={"processors": names})
    assert settings.active_processors == active
    assert settings.is_generating == bool(active)


@pytest.mark.parametrize("name", ["span-metrics-count", "span-metrics-latency"])
def test_sub_names_keep_configured_buckets(name: str) -> None:
    settings = effective(STATIC, tenant={"processors": [name]})
    assert settings.span_metrics is not None
    assert settings.span_metrics.histogram_buckets == (1.0,)


def test_listed_twice_is_listed_once() -> None:
    assert layer({"processors": ["span-metrics", *ALL]}).metrics_generator.processors == tuple(ALL)


# Labels, endpoints and headers


def test_tenant_id_is_injected_over_external_labels() -> None:
    text = "metrics_generator: {registry: {external_labels: {z: '1', org: x, a: ''}, inject_tenant_id_as: org}}"
    settings = effective(text)
    assert settings.external_labels == (("a", ""), ("org", "acme"), ("z", "1"))
    assert source("registry.inject_tenant_id_as", text) == "static"


def test_own_endpoints_replace_the_static_list() -> None:
    static = "remote_write: [{url: 'http://static/', name: static}]"
    assert [e.name for e in effective(static).remote_write] == ["static"]
    own: Keys = {"remote_write": [{"url": "http://own/", "name": "own"}]}
    assert [e.name for e in effective(static, tenant=own).remote_write] == ["own"]
    assert source("remote_write", static, tenant=own) == "tenant"
    assert effective(static, tenant={"remote_write": []}).remote_write == ()


def test_every_effective_endpoint_has_a_name() -> None:
    (endpoint,) = effective("remote_write: [{url: 'http://static/'}]").remote_write
    assert endpoint.name


def sent(settings: TenantSettings) -> dict[str, str]:
    (endpoint,) = settings.remote_write
    return {name: value.get_secret_value() for name, value in endpoint.headers.items()}


@pytest.mark.parametrize(
    ("switches", "static", "own", "expected"),
    [
        ("multitenancy_enabled: true", {}, {}, {"X-Scope-OrgID": "acme"}),
        ("multitenancy_enabled: false", {}, {}, {}),
        ("multitenancy_enabled: true\nremote_write_add_org_id_header: false", {}, {}, {}),
        ("multitenancy_enabled: true", {}, {"x-scope-orgid": "mapped"}, {"x-scope-orgid": "mapped"}),
        ("multitenancy_enabled: true", {"X-SCOPE-ORGID": "mapped"}, {}, {"X-SCOPE-ORGID": "mapped"}),
        ("multitenancy_enabled: true", {"x-scope-orgid": ""}, {}, {"X-Scope-OrgID": "acme"}),
        (
            "multitenancy_enabled: true",
            {"X-Scope-OrgID": "static"},
            {"x-scope-orgid": "mapped"},
            {"x-scope-orgid": "mapped"},
        ),
        ("", {"authorization": "a", "X-A": "1"}, {"Authorization": "b"}, {"Authorization": "b", "X-A": "1"}),
        ("", {"X-Scope-OrgID": "kept"}, {}, {"X-Scope-OrgID": "kept"}),
    ],
)
def test_headers_merge_without_regard_to_case(
    switches: str, static: dict[str, str], own: dict[str, str], expected: dict[str, str]
) -> None:
    text = switches + "\n" + yaml.safe_dump({"remote_write": [{"url": "http://h/", "headers": static}]})
    assert sent(effective(text, tenant={"remote_write_headers": own})) == expected


def test_headers_go_over_own_endpoints_too_and_replace_weaker_layers_whole() -> None:
    settings = effective(
        wildcard={"remote_write_headers": {"X-Wild": "w"}},
        tenant={
            "remote_write": [{"url": "http://h/", "headers": {"X-A": "1"}}],
            "remote_write_headers": {"X-B": "2"},
        },
    )
    assert sent(settings) == {"X-A": "1", "X-B": "2"}


# As values


def rich() -> TenantSettings:
    return effective(
        STATIC,
        tenant={"processors": ALL, "remote_write_headers": {"Authorization": SECRET}},
    )


def test_settings_pickle_and_never_show_secrets() -> None:
    settings = rich()
    copy = pickle.loads(pickle.dumps(settings))
    assert copy == settings
    assert sent(copy)["Authorization"] == SECRET
    assert SECRET not in repr(settings) + str(settings)


def test_settings_are_equal_whatever_layer_the_values_come_from() -> None:
    from_tenant = effective(tenant={"processors": ALL, "shards": 2})
    assert effective(defaults={"processors": ALL, "shards": 2}) == from_tenant
    assert from_tenant != effective(tenant={"processors": ALL, "shards": 3})


@pytest.mark.parametrize(("value", "other"), [(1, True), (1, 1.0), (0, False), (1.0, True), (1, 2), ("1", 1)])
def test_filter_value_of_another_type_is_a_change(value: object, other: object) -> None:
    def filtered(value: object) -> TenantSettings:
        block = {"match_type": "strict", "attributes": [{"key": "span.x", "value": value}]}
        key = "processor.span_metrics.filter_policies"
        return effective(tenant={"processors": ALL, **nested(key, [{"include": block}])})

    assert filtered(value) == filtered(value)
    assert filtered(value) != filtered(other)
    assert pickle.loads(pickle.dumps(filtered(value))) == filtered(value)


def test_changed_secret_is_a_change() -> None:
    assert rich() == rich()
    other = effective(STATIC, tenant={"processors": ALL, "remote_write_headers": {"Authorization": "other"}})
    assert rich() != other


@pytest.mark.parametrize("processor", ["span_metrics", "service_graphs"])
@pytest.mark.parametrize(("dimension", "label"), [("le", "le"), ("__name__", "__name__"), ("..name--", "__name__")])
def test_a_dimension_that_tells_series_apart_is_refused(processor: str, dimension: str, label: str) -> None:
    document = {"metrics_generator": {"processor": {processor: {"dimensions": ["region", dimension]}}}}
    with pytest.raises(SettingsError, match=rf"{processor}\.dimensions\[1\].*the label {label} belongs") as refused:
        validate(Overrides, document)
    assert len(refused.value.faults) == 1


@pytest.mark.parametrize(
    ("entry", "sizes", "shards"),
    [({}, {}, 1), ({}, {"acme": 4}, 4), ({"shards": 0}, {"acme": 4, "globex": 8}, 4), ({"shards": 2}, {"acme": 4}, 2)],
)
def test_tenant_has_the_size_of_its_rate_unless_its_shards_are_fixed(
    entry: dict[str, Any], sizes: dict[str, int], shards: int
) -> None:
    overrides = replace(in_force({"acme": layer(entry)}), sizes=sizes)
    assert resolve(service(), overrides, ACME).shards == shards
