"""Files written for Grafana Tempo: the scoped format loads as it is, the legacy flat one is converted, not guessed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.settings import (
    Failed,
    Loaded,
    Overrides,
    RuntimeFile,
    RuntimeOverrides,
    ServiceConfig,
    SettingsError,
    parse_service_config,
)
from tenants.settings.legacy import FLAT_NAMES, convert, to_yaml
from tenants.settings.model import key_of
from tenants.settings.without_effect import keys_without_effect
from tenants.settings.yaml_document import read_yaml

SCOPED = Path(__file__).with_name("tempo_overrides.yaml")

# The yaml names of Tempo's LegacyOverrides (modules/overrides/config_legacy.go), without those of local-blocks, which
# Tempo 3 no longer has.
TEMPO_FLAT_NAMES = """
ingestion_rate_strategy ingestion_rate_limit_bytes ingestion_burst_size_bytes ingestion_tenant_shard_size
ingestion_max_attribute_bytes ingestion_artificial_delay ingestion_retry_info_enabled max_traces_per_user
max_global_traces_per_user forwarders metrics_generator_ring_size metrics_generator_processors
metrics_generator_max_active_series metrics_generator_max_active_entities metrics_generator_collection_interval
metrics_generator_disable_collection metrics_generator_generate_native_histograms
metrics_generator_native_histogram_bucket_factor metrics_generator_native_histogram_max_bucket_number
metrics_generator_native_histogram_min_reset_duration metrics_generator_trace_id_label_name
metrics_generator_forwarder_queue_size metrics_generator_forwarder_workers metrics_generator_remote_write_headers
metrics_generator_processor_service_graphs_histogram_buckets metrics_generator_processor_service_graphs_dimensions
metrics_generator_processor_service_graphs_peer_attributes
metrics_generator_processor_service_graphs_enable_client_server_prefix
metrics_generator_processor_service_graphs_enable_messaging_system_latency_histogram
metrics_generator_processor_service_graphs_enable_virtual_node_label
metrics_generator_processor_service_graphs_span_multiplier_key
metrics_generator_processor_span_metrics_histogram_buckets metrics_generator_processor_span_metrics_dimensions
metrics_generator_processor_span_metrics_intrinsic_dimensions
metrics_generator_processor_span_metrics_filter_policies metrics_generator_processor_span_metrics_dimension_mappings
metrics_generator_processor_span_metrics_enable_target_info
metrics_generator_processor_span_metrics_target_info_excluded_dimensions
metrics_generator_processor_span_metrics_enable_instance_label
metrics_generator_processor_span_metrics_span_multiplier_key
metrics_generator_processor_host_info_host_identifiers metrics_generator_processor_host_info_metric_name
metrics_generator_ingestion_time_range_slack block_retention compaction_disabled compaction_window
max_bytes_per_tag_values_query max_blocks_per_tag_values_query max_search_duration max_metrics_duration
unsafe_query_hints max_bytes_per_trace cost_attribution parquet_dedicated_columns
"""


def load(text: bytes, config: ServiceConfig | None = None) -> RuntimeOverrides:
    outcome = RuntimeFile(Path("overrides.yaml"), lambda _: text, config=config).poll()
    assert isinstance(outcome, Loaded), outcome
    return outcome.overrides


def converted(text: str) -> dict[str, Any]:
    return convert(read_yaml(text.encode()))


def faults(text: str) -> dict[str, tuple[str, int | None]]:
    with pytest.raises(SettingsError) as caught:
        converted(text)
    return {fault.path: (fault.message, fault.line) for fault in caught.value.faults}


# The scoped format


@pytest.mark.parametrize("inheritance", ["replace", "inherit"])
def test_a_scoped_file_of_tempo_loads_unchanged(inheritance: str) -> None:
    config = parse_service_config(f"overrides: {{inheritance: {inheritance}}}".encode(), {})
    overrides = load(SCOPED.read_bytes(), config)
    assert overrides.keys() == {"*", "acme", "123"}
    acme = overrides["acme"]
    assert acme.ingestion.rate_limit_bytes == 15_000_000
    assert acme.metrics_generator.remote_write_headers is not None
    assert {key.partition(".")[0] for key in keys_without_effect(acme)} == {
        "compaction",
        "cost_attribution",
        "forwarders",
        "global",
        "ingestion",
        "metrics_generator",
        "read",
        "storage",
    }


def test_the_scoped_file_has_every_key_that_tempo_has() -> None:
    document: Any = read_yaml(SCOPED.read_bytes()).value
    acme = document["overrides"]["acme"]

    def holds(path: tuple[str, ...]) -> bool:
        inner: Any = acme
        for part in path:
            inner = inner.get(part) if isinstance(inner, Mapping) else None
        return inner is not None

    ours = {("metrics_generator", "shards"), ("metrics_generator", "remote_write"), ("ingestion", "acknowledge")}
    switches = {
        "keep_colliding_dimensions",
        "enable_strict_filter_types",
        "pair_database_spans",
        "count_every_receiver",
        "enable_virtual_node_latency",
        "zero_parent_id_is_root",
    }
    missing = [
        path for path in FLAT_NAMES.values() if path not in ours and path[-1] not in switches and not holds(path)
    ]
    assert not missing


# The legacy format


def test_every_name_of_tempo_is_converted() -> None:
    assert not set(TEMPO_FLAT_NAMES.split()) - FLAT_NAMES.keys()


@pytest.mark.parametrize(
    ("flat", "scoped"),
    [
        ("metrics_generator_processors", "metrics_generator.processors"),
        ("metrics_generator_forwarder_queue_size", "metrics_generator.forwarder.queue_size"),
        (
            "metrics_generator_processor_service_graphs_peer_attributes",
            "metrics_generator.processor.service_graphs.peer_attributes",
        ),
        ("ingestion_rate_limit_bytes", "ingestion.rate_limit_bytes"),
        ("max_traces_per_user", "ingestion.max_traces_per_user"),
        ("max_global_traces_per_user", "ingestion.max_global_traces_per_user"),
        ("block_retention", "compaction.block_retention"),
        ("max_search_duration", "read.max_search_duration"),
        ("max_bytes_per_trace", "global.max_bytes_per_trace"),
        ("parquet_dedicated_columns", "storage.parquet_dedicated_columns"),
        ("forwarders", "forwarders"),
        ("cost_attribution", "cost_attribution"),
    ],
)
def test_where_a_flat_name_stands_in_the_scoped_format(flat: str, scoped: str) -> None:
    assert ".".join(FLAT_NAMES[flat]) == scoped


def test_no_scoped_key_is_forgotten_or_has_the_name_of_another() -> None:
    assert len(set(FLAT_NAMES.values())) == len(FLAT_NAMES)
    scopes = {key_of(name, field) for name, field in Overrides.model_fields.items()}
    assert {path[0] for path in FLAT_NAMES.values()} == scopes


FLAT = """
overrides:
  acme: # what acme pays for
    ingestion_rate_limit_bytes: 15000000
    max_traces_per_user: 100
    block_retention: 2w
    metrics_generator_processors: [span-metrics]
    metrics_generator_collection_interval: 30s
    metrics_generator_remote_write_headers: {Authorization: Bearer s3cr3t}
    metrics_generator_processor_span_metrics_intrinsic_dimensions: {span_kind: false}
    metrics_generator_processor_span_metrics_dimensions: &dimensions [http.route]
    metrics_generator_processor_service_graphs_dimensions: *dimensions
    cost_attribution: {dimensions: {resource.team: team}}
  globex:
  123: {max_bytes_per_trace: 0}
"""
SCOPED_FLAT = {
    "overrides": {
        "acme": {
            "ingestion": {"rate_limit_bytes": 15_000_000, "max_traces_per_user": 100},
            "compaction": {"block_retention": "2w"},
            "metrics_generator": {
                "processors": ["span-metrics"],
                "collection_interval": "30s",
                "remote_write_headers": {"Authorization": "Bearer s3cr3t"},
                "processor": {
                    "span_metrics": {"intrinsic_dimensions": {"span_kind": False}, "dimensions": ["http.route"]},
                    "service_graphs": {"dimensions": ["http.route"]},
                },
            },
            "cost_attribution": {"dimensions": {"resource.team": "team"}},
        },
        "globex": None,
        "123": {"global": {"max_bytes_per_trace": 0}},
    }
}


def test_a_flat_runtime_file_becomes_a_scoped_one_that_loads() -> None:
    assert converted(FLAT) == SCOPED_FLAT
    text = to_yaml(SCOPED_FLAT)
    assert "&" not in text
    assert load(text.encode())["acme"].ingestion.rate_limit_bytes == 15_000_000


def test_flat_limits_of_a_service_configuration_become_defaults() -> None:
    text = """
server: {http_listen_port: 3200}
overrides:
  enable_legacy_overrides: true
  per_tenant_override_config: /conf/overrides.yaml
  ingestion_burst_size_bytes: 5
  metrics_generator_ring_size: 1
"""
    assert converted(text) == {
        "server": {"http_listen_port": 3200},
        "overrides": {
            "defaults": {"ingestion": {"burst_size_bytes": 5}, "metrics_generator": {"ring_size": 1}},
            "per_tenant_override_config": "/conf/overrides.yaml",
        },
    }


def test_a_service_configuration_with_nothing_but_flat_limits_is_recognised() -> None:
    assert converted("overrides: {max_bytes_per_trace: 1}") == {
        "overrides": {"defaults": {"global": {"max_bytes_per_trace": 1}}}
    }


def test_every_key_that_is_not_flat_is_a_fault_at_its_line() -> None:
    text = """
overrides:
  acme:
    metrics_generator_procesors: []
    ingestion: {rate_limit_bytes: 1}
    unheard_of: 1
  globex:
    forwarders: []
    metrics_generator: {}
  initech: 5
"""
    said = faults(text)
    assert {path: line for path, (_, line) in said.items()} == {
        "overrides.acme.metrics_generator_procesors": 4,
        "overrides.acme.ingestion": 5,
        "overrides.acme.unheard_of": 6,
        "overrides.globex.metrics_generator": 9,
        "overrides.initech": 10,
    }
    assert "did you mean metrics_generator_processors?" in said["overrides.acme.metrics_generator_procesors"][0]
    assert "scoped format already" in said["overrides.acme.ingestion"][0]


def test_defaults_beside_flat_limits_are_a_fault() -> None:
    assert faults("overrides: {defaults: {}, max_bytes_per_trace: 1}").keys() == {"overrides.defaults"}


@pytest.mark.parametrize("text", ["", "a: 1", "overrides:", "overrides: []", "[]", "overrides: x"])
def test_a_file_without_overrides_cannot_be_converted(text: str) -> None:
    assert faults(text).keys() == {"overrides"}


@pytest.mark.parametrize(
    "entry", ["metrics_generator_processors: []", "max_bytes_per_trace: 1", "block_retention: 1d", "ingestion_x: 1"]
)
def test_a_flat_runtime_file_is_refused_and_the_way_out_is_named(entry: str) -> None:
    outcome = RuntimeFile(Path("overrides.yaml"), lambda _: f"overrides: {{acme: {{{entry}}}}}".encode()).poll()
    assert isinstance(outcome, Failed)
    (fault,) = outcome.faults
    assert ("millrace config convert" in fault.message) is (entry != "ingestion_x: 1")


@pytest.mark.parametrize("entry", ["ingestion_rate_limit_bytes: 1", "max_traces_per_user: 1"])
def test_flat_limits_in_the_service_configuration_are_refused_and_the_way_out_is_named(entry: str) -> None:
    with pytest.raises(SettingsError, match="millrace config convert"):
        parse_service_config(f"overrides: {{{entry}}}".encode(), {})


# What is written reads back as the same

TEXTS = (
    st.text(max_size=12)
    | st.sampled_from(
        [
            "1e-3",
            "0o17",
            "0x1F",
            "1.",
            ".5",
            "+1",
            "true",
            "null",
            "~",
            "",
            "1_000",
            "1:30",
            "<<",
            "=",
            "2001-01-01",
            "on",
        ]
    )
    | st.sampled_from(
        ["{a}", "- a", "a: b", "#", "a #b", "\n", "a\nb", " a ", "\u00e9", "\u2028", "\x85", ".inf", "${A}", "'", '"']
    )
)
# A file has no half characters, and the writer no way to write them.
WHOLE_TEXTS = TEXTS.filter(lambda text: not any(0xD800 <= ord(character) < 0xE000 for character in text))
NUMBERS = st.integers(-(2**63), 2**64) | st.floats(allow_nan=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WHOLE_TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WHOLE_TEXTS, inner, max_size=3),
    max_leaves=8,
)


def typed(value: object) -> object:
    """Values that are equal in Python and not in a file differ: 1, 1.0 and true."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    return type(value), value


@given(st.dictionaries(WHOLE_TEXTS, VALUES, max_size=4))
def test_what_is_written_reads_back_as_the_same(value: dict[str, Any]) -> None:
    assert typed(read_yaml(to_yaml(value).encode()).value) == typed(value)
