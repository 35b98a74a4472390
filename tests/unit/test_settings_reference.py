"""The reference is made from the schema: it misses nothing, and says of everything what there is to say."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tenants.identity import TenantId
from tenants.settings import Overrides, ServiceConfig, parse_service_config
from tenants.settings.api_document import is_tenant_owned
from tenants.settings.in_force import OverridesInForce
from tenants.settings.model import key_of, models_in
from tenants.settings.reference import Layer, SettingDoc, all_settings, below, find, near_misses, page
from tenants.settings.schema import Effect, Owner
from tenants.settings.tenant_settings import explain
from tenants.settings.without_effect import keys_without_effect

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def of(layer: Layer) -> dict[str, SettingDoc]:
    return {setting.key: setting for setting in all_settings() if setting.layer is layer}


def keys_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    """The keys of a model, found without the reference."""
    keys = set()
    for name, field in model.model_fields.items():
        key = prefix + key_of(name, field)
        keys.add(key)
        for nested in models_in(field.annotation):
            if nested is not Overrides:
                kind = str(field.annotation)
                inside = "[]" if "tuple[" in kind else ".<name>" if "Mapping[" in kind else ""
                keys |= keys_of(nested, f"{key}{inside}.")
    return keys


@pytest.mark.parametrize(("layer", "model"), [(Layer.SERVICE, ServiceConfig), (Layer.OVERRIDES, Overrides)])
def test_every_key_is_in_the_reference_once(layer: Layer, model: type[BaseModel]) -> None:
    keys = [setting.key for setting in all_settings() if setting.layer is layer]
    assert set(keys) == keys_of(model)
    assert len(keys) == len(set(keys))


def test_every_setting_says_what_there_is_to_say() -> None:
    incomplete = [
        setting.key
        for setting in all_settings()
        if not (setting.type and setting.description and setting.owner and setting.effect)
        or (setting.is_number and not setting.unit)
    ]
    assert not incomplete


def test_no_description_repeats_the_unit_in_brackets() -> None:
    repeated = [s.key for s in all_settings() if s.unit and f"({s.unit}" in s.description]
    assert not repeated


def test_the_service_configuration_is_the_operators_and_read_at_the_start() -> None:
    settings = of(Layer.SERVICE).values()
    assert {setting.owner for setting in settings} == {Owner.OPERATOR}
    assert {setting.effect for setting in settings} == {Effect.RESTART, Effect.NEVER}


def test_owner_and_effect_come_from_the_mapping_around() -> None:
    overrides = of(Layer.OVERRIDES)
    expected: dict[str, tuple[Owner, Effect]] = {
        "metrics_generator.processors": (Owner.TENANT, Effect.COLLECTION),
        "metrics_generator.max_active_series": (Owner.OPERATOR, Effect.COLLECTION),
        "metrics_generator.processor.span_metrics.filter_policies[].include.attributes[].key": (
            Owner.TENANT,
            Effect.COLLECTION,
        ),
        "metrics_generator.remote_write[].url": (Owner.OPERATOR, Effect.COLLECTION),
        "metrics_generator.forwarder.workers": (Owner.OPERATOR, Effect.NEVER),
        "ingestion.rate_limit_bytes": (Owner.OPERATOR, Effect.REQUEST),
        "ingestion.tenant_shard_size": (Owner.OPERATOR, Effect.NEVER),
        "read.max_search_duration": (Owner.OPERATOR, Effect.NEVER),
        "cost_attribution.dimensions": (Owner.TENANT, Effect.NEVER),
        "cost_attribution.max_cardinality": (Owner.OPERATOR, Effect.NEVER),
        "forwarders": (Owner.TENANT, Effect.NEVER),
    }
    assert {key: (overrides[key].owner, overrides[key].effect) for key in expected} == expected


@pytest.mark.parametrize(
    ("layer", "key", "expected"),
    [
        (Layer.SERVICE, "listen.http", ("host:port", "127.0.0.1:8080", "", "")),
        (Layer.SERVICE, "store.url", ("secret text", '""', "", "")),
        (Layer.SERVICE, "remote_write[].url", ("text", "required", "", "")),
        (Layer.SERVICE, "remote_write[].remote_timeout", ("duration", "30s", "10ms to 10m", "")),
        (Layer.SERVICE, "remote_write", ("list of mappings", "[]", "at most 16 entries", "")),
        (Layer.SERVICE, "cluster.max_request_bytes", ("whole number", "16777216", "1024 to 1073741824", "bytes")),
        (Layer.OVERRIDES, "metrics_generator", ("mapping", "", "", "")),
        (
            Layer.OVERRIDES,
            "metrics_generator.collection_interval",
            ("duration", "15s", "1s to 5m, in documents 15s to 5m", ""),
        ),
        (
            Layer.OVERRIDES,
            "metrics_generator.generate_native_histograms",
            ("one of classic, native, both", "classic", "", ""),
        ),
        (
            Layer.OVERRIDES,
            "metrics_generator.span_name_sanitization",
            ('one of "", dry_run, enabled', '""', "", ""),
        ),
        (Layer.OVERRIDES, "metrics_generator.native_histogram_bucket_factor", ("number", "1.1", "", "ratio")),
        (
            Layer.OVERRIDES,
            "metrics_generator.processor.service_graphs.histogram_buckets",
            ("list of number", "[0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8]", "at most 100 entries", "seconds"),
        ),
        (Layer.OVERRIDES, "ingestion.rate_limit_bytes", ("whole number", "30000000", "0 to 2^63-1", "bytes a second")),
        (Layer.OVERRIDES, "compaction.block_retention", ("duration (also 1d, 2w, 1y)", "", "", "")),
        (
            Layer.OVERRIDES,
            "cost_attribution.dimensions",
            ("mapping of text to text", "{}", "at most 64 entries", ""),
        ),
    ],
)
def test_what_a_setting_may_be_in_words(layer: Layer, key: str, expected: tuple[str, str, str, str]) -> None:
    setting = of(layer)[key]
    assert (setting.type, setting.default, setting.bounds, setting.unit) == expected


def test_everything_that_explain_says_is_in_the_reference() -> None:
    explained = explain(ServiceConfig(), OverridesInForce(), TenantId("acme"))
    assert explained.keys() <= of(Layer.OVERRIDES).keys() | of(Layer.SERVICE).keys()


def test_documents_hold_what_the_reference_gives_to_tenants() -> None:
    values = {key: setting for key, setting in of(Layer.OVERRIDES).items() if "[]." not in key}
    mappings = {key for key, setting in values.items() if setting.type == "mapping"}
    owned = {key for key, setting in values.items() if setting.owner is Owner.TENANT} - mappings
    assert {key for key in values if is_tenant_owned(key)} == owned


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("remote_write[0].url", "remote_write[].url"),
        ("overrides.defaults.metrics_generator.shards", "metrics_generator.shards"),
        (" metrics_generator.shards ", "metrics_generator.shards"),
        ("global.max_bytes_per_trace", "global.max_bytes_per_trace"),
        ("overrides.defaults", "overrides.defaults"),
    ],
)
def test_a_key_is_found_as_it_is_written(written: str, key: str) -> None:
    assert {setting.key for setting in find(written)} == {key}


def test_a_key_of_both_layers_is_found_in_both() -> None:
    found = find("metrics_generator.processor.span_metrics.dimensions")
    assert [setting.layer for setting in found] == [Layer.SERVICE, Layer.OVERRIDES]


def test_what_stands_below_a_key() -> None:
    assert [setting.key for setting in below("listen")][:2] == ["listen.otlp_grpc", "listen.otlp_http"]
    assert "remote_write[].url" in {setting.key for setting in below("remote_write")}
    assert not below("listen.http")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("metrics_generator.procesors", "metrics_generator.processors"),
        ("max_active_series", "metrics_generator.max_active_series"),
        ("max_active_serie", "metrics_generator.max_active_series"),
        ("overrides.defaults.ingestion.rate_limit", "ingestion.rate_limit_bytes"),
    ],
)
def test_a_key_that_is_not_quite_right_finds_the_one_that_is_meant(written: str, meant: str) -> None:
    assert not find(written)
    assert meant in near_misses(written)


def test_keys_without_effect_are_named_where_they_are_set() -> None:
    text = """
metrics_generator: {processor: {service_graphs: {workers: 3, max_items: 5}}}
overrides:
  defaults:
    read: {max_search_duration: 1d, unsafe_query_hints: null}
    ingestion: {rate_limit_bytes: 1, tenant_shard_size: 0}
    metrics_generator: {ring_size: 1, forwarder: {workers: 1}, processors: []}
    forwarders: []
"""
    assert set(keys_without_effect(parse_service_config(text.encode(), {}))) == {
        "metrics_generator.processor.service_graphs.workers",
        "overrides.defaults.read.max_search_duration",
        "overrides.defaults.ingestion.tenant_shard_size",
        "overrides.defaults.metrics_generator.ring_size",
        "overrides.defaults.metrics_generator.forwarder.workers",
        "overrides.defaults.forwarders",
    }
    assert not list(keys_without_effect(ServiceConfig()))


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `make docs`"


def test_the_page_names_every_key() -> None:
    text = page()
    outside_lists: dict[str, Any] = {setting.key: None for setting in all_settings() if "[]." not in setting.key}
    assert not [key for key in outside_lists if f"| `{key}` |" not in text]
    inside_lists = {setting.key.rpartition("[].")[2] for setting in all_settings() if "[]." in setting.key}
    assert not [key for key in inside_lists if f"| `{key}` |" not in text]


def test_no_cell_of_the_page_is_torn_by_its_text() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    columns = {row.replace("\\|", "").count("|") for row in rows}
    assert columns == {5, 7}
