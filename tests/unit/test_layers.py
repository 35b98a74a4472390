"""Where every field of a tenant's settings comes from, in both ways of inheritance (tenancy §2.1, 2.2)."""

from collections.abc import Iterator, Mapping
from functools import cache
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tenants.identity import TenantId
from tenants.settings import Duration, Overrides, ServiceConfig, TenantSettings, parse_service_config, resolve
from tenants.settings.in_force import OverridesInForce
from tenants.settings.layers import Resolved
from tenants.settings.model import key_of, validate
from tenants.settings.schema import Effect, about
from tenants.settings.tenant_settings import explain
from tenants.settings.tenant_state import TenantState

ACME = TenantId("acme")
GENERATOR = "metrics_generator"
SPANS = f"{GENERATOR}.processor.span_metrics"
GRAPHS = f"{GENERATOR}.processor.service_graphs"
HOSTS = f"{GENERATOR}.processor.host_info"


def policy(name: str) -> list[object]:
    return [{"include": {"match_type": "strict", "attributes": [{"key": "name", "value": name}]}}]


SWITCH = [True, False]
VALUES: Mapping[str, list[Any]] = {
    f"{GENERATOR}.processors": [["span-metrics"], ["service-graphs", "host-info"], []],
    f"{GENERATOR}.max_active_series": [0, 1, 500],
    f"{GENERATOR}.max_active_entities": [0, 2, 600],
    f"{GENERATOR}.max_cardinality_per_label": [0, 3],
    f"{GENERATOR}.collection_interval": ["1s", "20s", "0s"],
    f"{GENERATOR}.disable_collection": SWITCH,
    f"{GENERATOR}.generate_native_histograms": ["classic", "native", "both"],
    f"{GENERATOR}.native_histogram_bucket_factor": [0, 1.5, 2],
    f"{GENERATOR}.native_histogram_max_bucket_number": [0, 7],
    f"{GENERATOR}.native_histogram_min_reset_duration": ["0s", "1m"],
    f"{GENERATOR}.trace_id_label_name": ["tid", "trace"],
    f"{GENERATOR}.ingestion_time_range_slack": ["0s", "1h"],
    f"{GENERATOR}.span_name_sanitization": ["", "dry_run", "enabled"],
    f"{GENERATOR}.remote_write_headers": [{}, {"X-A": "1"}],
    f"{GENERATOR}.remote_write": [[], [{"url": "https://a.example/"}]],
    f"{GENERATOR}.shards": [1, 2, 9],
    f"{SPANS}.histogram_buckets": [[], [1, 2], [5]],
    **{
        f"{SPANS}.intrinsic_dimensions.{name}": SWITCH
        for name in ("service", "span_name", "span_kind", "status_code", "status_message")
    },
    f"{SPANS}.dimensions": [[], ["a"], ["b", "c"]],
    f"{SPANS}.dimension_mappings": [[], [{"name": "joined", "source_labels": ["a", "b"]}]],
    f"{SPANS}.filter_policies": [[], policy("a"), policy("b")],
    f"{SPANS}.enable_target_info": SWITCH,
    f"{SPANS}.target_info_excluded_dimensions": [[], ["x"]],
    f"{SPANS}.enable_instance_label": SWITCH,
    f"{SPANS}.span_multiplier_key": ["", "ratio"],
    f"{SPANS}.enable_tracestate_span_multiplier": SWITCH,
    f"{SPANS}.keep_colliding_dimensions": SWITCH,
    f"{SPANS}.enable_strict_filter_types": SWITCH,
    f"{GRAPHS}.histogram_buckets": [[], [1, 2], [5]],
    f"{GRAPHS}.dimensions": [[], ["a"]],
    f"{GRAPHS}.peer_attributes": [[], ["peer"]],
    f"{GRAPHS}.filter_policies": [[], policy("a")],
    f"{GRAPHS}.enable_client_server_prefix": SWITCH,
    f"{GRAPHS}.enable_messaging_system_latency_histogram": SWITCH,
    f"{GRAPHS}.enable_virtual_node_label": SWITCH,
    f"{GRAPHS}.span_multiplier_key": ["", "ratio"],
    f"{GRAPHS}.enable_tracestate_span_multiplier": SWITCH,
    f"{GRAPHS}.keep_colliding_dimensions": SWITCH,
    f"{GRAPHS}.enable_strict_filter_types": SWITCH,
    f"{GRAPHS}.pair_database_spans": SWITCH,
    f"{GRAPHS}.count_every_receiver": SWITCH,
    f"{GRAPHS}.enable_virtual_node_latency": SWITCH,
    f"{GRAPHS}.zero_parent_id_is_root": SWITCH,
    f"{HOSTS}.host_identifiers": [["a"], ["b", "c"]],
    f"{HOSTS}.metric_name": ["hosts", "machines"],
    "ingestion.rate_strategy": ["local", "global"],
    "ingestion.rate_limit_bytes": [0, 1000],
    "ingestion.burst_size_bytes": [0, 2000],
    "ingestion.max_attribute_bytes": [0, 64, 4096],
    "ingestion.artificial_delay": ["0s", "1s"],
    "ingestion.retry_info_enabled": SWITCH,
    "ingestion.acknowledge": ["accepted", "durable"],
    "forwarders": [[], ["x"]],
    "cost_attribution.dimensions": [{}, {"resource.team": "team"}],
}

STATIC = """
ingestion: {max_attribute_bytes: 100, artificial_delay: 2s}
metrics_generator:
  metrics_ingestion_time_range_slack: 31s
  registry: {collection_interval: 16s}
  processor:
    span_metrics: {dimensions: [static], enable_target_info: true, span_multiplier_key: static}
    service_graphs: {enable_client_server_prefix: true, span_multiplier_key: static}
    host_info: {metric_name: static}
"""
CONFIGS = {"": ServiceConfig(), STATIC: parse_service_config(STATIC.encode(), {})}

# Tenancy §2.2, for entries that are used whole.
LEFT_TO_DEFAULTS = {
    "ingestion.retry_info_enabled",
    "ingestion.acknowledge",
    f"{GENERATOR}.native_histogram_bucket_factor",
    f"{GENERATOR}.native_histogram_max_bucket_number",
    f"{GENERATOR}.native_histogram_min_reset_duration",
    f"{GENERATOR}.span_name_sanitization",
    # Not the reference's: what they hold is of the operator, and nobody's zero.
    f"{GENERATOR}.shards",
    f"{GENERATOR}.remote_write",
}
ZERO_IS_UNSET = {
    "ingestion.max_attribute_bytes",
    f"{GENERATOR}.ingestion_time_range_slack",
    f"{GENERATOR}.native_histogram_min_reset_duration",
    f"{GENERATOR}.span_name_sanitization",
    f"{SPANS}.span_multiplier_key",
    f"{GRAPHS}.span_multiplier_key",
}

Written = Mapping[str, Any]
"""A layer: values by dotted key."""
Stack = Mapping[str, Written | None]
"""Layers by the source that they are; None: it is not there."""


def nested(written: Written) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in written.items():
        *groups, name = key.split(".")
        place = document
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return document


def layer(written: Written) -> Overrides:
    return validate(Overrides, nested(written))


def placed(stack: Stack, text: str = "", *, is_whole: bool = False) -> tuple[ServiceConfig, OverridesInForce]:
    """Put layers where they stand."""
    made = {source: layer(written) for source, written in stack.items() if written is not None}
    config = CONFIGS[text]
    settings = {"defaults": made.get("defaults", Overrides()), "inheritance": "replace" if is_whole else "inherit"}
    config = config.model_copy(update={"overrides": type(config.overrides)(**settings)})
    runtime = {name: made[source] for source, name in (("tenant", "acme"), ("wildcard", "*")) if source in made}
    return config, OverridesInForce(
        1,
        runtime,
        {"acme": made["api"]} if "api" in made else {},
        {},
        {"acme": made["operator"]} if "operator" in made else {},
    )


def explained(stack: Stack, text: str = "", *, is_whole: bool = False) -> dict[str, Resolved[Any]]:
    return explain(*placed(stack, text, is_whole=is_whole), ACME)


@st.composite
def layers(draw: st.DrawFn) -> Written:
    keys = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=12, unique=True))
    return {key: draw(st.sampled_from(VALUES[key])) for key in keys}


stacks = st.fixed_dictionaries(
    {"defaults": layers()},
    optional={"wildcard": layers(), "tenant": layers(), "operator": layers(), "api": layers()},
)
texts = st.sampled_from(sorted(CONFIGS))


@cache
def without_overrides(text: str) -> dict[str, Resolved[Any]]:
    return explained({}, text)


def expected(stack: Stack, text: str = "", *, is_whole: bool = False) -> dict[str, tuple[Any, str]]:
    """Say what holds, in the words of the spec, by key."""
    made = {source: layer(written) for source, written in stack.items() if written is not None}
    return {key: _expected(made, key, text, is_whole=is_whole) for key in VALUES}


def _expected(made: Mapping[str, Overrides], key: str, text: str, *, is_whole: bool) -> tuple[Any, str]:
    fallback = without_overrides(text)[key]
    read = attrgetter(key)

    def present(source: str) -> bool:
        value = read(made[source])
        is_zero = is_whole and key in ZERO_IS_UNSET and source not in {"api", "operator"}
        return value is not None and not (is_zero and value in (0, "", Duration(0)))

    order = [source for source in ("api", "operator", "tenant", "wildcard", "defaults") if source in made]
    if key == "ingestion.rate_strategy":
        order = [source for source in order if source == "defaults"]
    chosen = next((source for source in order if source in {"tenant", "wildcard", "defaults"}), "defaults")
    if is_whole:
        skipped = {"tenant", "wildcard", "defaults"} - {chosen}
        if key in LEFT_TO_DEFAULTS:
            skipped.discard("defaults")
        order = [source for source in order if source not in skipped]
    for source in order:
        if present(source):
            return read(made[source]), source
    is_unset = is_whole and chosen != "defaults" and fallback.source == "builtin"
    if is_unset and key not in LEFT_TO_DEFAULTS and key != "ingestion.rate_strategy":
        zeros = {"ingestion.rate_limit_bytes": 0, "ingestion.burst_size_bytes": 0}
        return zeros.get(key, fallback.value), f"{chosen} (unset)"
    return fallback.value, fallback.source


# Every key


def keys_with_effect(model: type[BaseModel], path: str = "", effect: Effect | None = None) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = f"{path}.{key_of(name, field)}".removeprefix(".")
        acts = about(field).effect or effect
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_with_effect(field.annotation, key, acts)
        elif acts is not Effect.NEVER:
            yield key


def test_every_key_that_has_an_effect_is_tried_and_explained() -> None:
    keys = set(keys_with_effect(Overrides))
    # Kept for their owners, though nothing is done with them.
    kept = {"forwarders", "cost_attribution.dimensions"}
    assert VALUES.keys() == keys | kept
    assert VALUES.keys() <= explained({}).keys()


@pytest.mark.parametrize("key", VALUES)
def test_every_value_wins_over_every_weaker_layer(key: str) -> None:
    order = ["defaults", "wildcard", "tenant", "operator", "api"]
    for strongest in range(1, len(order) + 1):
        for value in VALUES[key]:
            stack = {source: {key: VALUES[key][-1]} for source in order[: strongest - 1]}
            stack[order[strongest - 1]] = {key: value}
            found = explained(stack)[key]
            assert (found.value, found.source) == expected(stack)[key]


# Any layers


@given(stacks, texts, st.booleans())
def test_strongest_layer_that_holds_a_field_answers_for_it(stack: Stack, text: str, is_whole: bool) -> None:
    found = explained(stack, text, is_whole=is_whole)
    for key, answer in expected(stack, text, is_whole=is_whole).items():
        assert (found[key].value, found[key].source) == answer, key


@given(stacks, texts, st.booleans(), st.sampled_from(["wildcard", "tenant", "operator", "api"]))
def test_layer_that_holds_nothing_changes_nothing(stack: Stack, text: str, is_whole: bool, source: str) -> None:
    """But for an entry that is used whole: that it holds nothing is what it says."""
    if is_whole and source in {"wildcard", "tenant"}:
        return
    without = {name: written for name, written in stack.items() if name != source}
    nothing = {**without, source: {}}
    assert explained(nothing, text, is_whole=is_whole) == explained(without, text, is_whole=is_whole)
    assert resolved(nothing, text, is_whole=is_whole) == resolved(without, text, is_whole=is_whole)


@given(stacks, texts, st.booleans(), st.data())
def test_field_that_its_source_loses_comes_from_elsewhere_and_no_other_field_moves(
    stack: Stack, text: str, is_whole: bool, data: st.DataObject
) -> None:
    before = explained(stack, text, is_whole=is_whole)
    held = sorted(key for key in VALUES if before[key].source in stack)
    if not held:
        return
    key = data.draw(st.sampled_from(held))
    source = before[key].source.value
    rest = {name: value for name, value in (stack[source] or {}).items() if name != key}
    after = explained({**stack, source: rest}, text, is_whole=is_whole)
    assert after[key].source != source
    assert {name: found for name, found in after.items() if name != key} == {
        name: found for name, found in before.items() if name != key
    }


@given(stacks, texts, st.booleans())
def test_what_is_explained_is_what_is_in_force(stack: Stack, text: str, is_whole: bool) -> None:
    found = {key: each.value for key, each in explained(stack, text, is_whole=is_whole).items()}
    settings = resolved(stack, text, is_whole=is_whole)
    for name in (
        "max_active_series",
        "max_active_entities",
        "max_cardinality_per_label",
        "collection_interval",
        "disable_collection",
        "ingestion_time_range_slack",
        "trace_id_label_name",
        "span_name_sanitization",
    ):
        assert getattr(settings, name) == found[f"{GENERATOR}.{name}"], name
    # 0 is a size by the tenant's rate, of which nothing is known here.
    assert settings.shards == (found[f"{GENERATOR}.shards"] or 1)
    for name in type(settings.ingestion).__slots__:
        assert getattr(settings.ingestion, name) == found[f"ingestion.{name}"], name
    for processor in ("span_metrics", "service_graphs", "host_info"):
        processed = getattr(settings, processor)
        for key in VALUES:
            prefix, _, name = key.rpartition(".")
            if processed is not None and prefix == f"{GENERATOR}.processor.{processor}":
                assert getattr(processed, name) == found[key], key


def resolved(stack: Stack, text: str = "", *, is_whole: bool = False) -> TenantSettings:
    return resolve(*placed(stack, text, is_whole=is_whole), ACME)


# Cases of the contract


def test_entry_used_whole_without_rates_refuses_everything() -> None:
    """Tenancy conformance 17 and 18."""
    stack: Stack = {"tenant": {f"{GENERATOR}.processors": ["span-metrics"]}}
    found = explained(stack, is_whole=True)
    assert (found["ingestion.rate_limit_bytes"].value, found["ingestion.burst_size_bytes"].value) == (0, 0)
    assert found["ingestion.rate_limit_bytes"].source == "tenant (unset)"
    assert resolved(stack).ingestion.rate_limit_bytes == 30_000_000


def test_entry_used_whole_takes_nothing_from_the_wildcard() -> None:
    """Tenancy conformance 19 and 20."""
    rate, series = "ingestion.rate_limit_bytes", f"{GENERATOR}.max_active_series"
    both: Stack = {"wildcard": {rate: 5000, series: 7}, "tenant": {rate: 9000}}
    for is_whole, inherited in ((False, 7), (True, 0)):
        settings = resolved(both, is_whole=is_whole)
        assert (settings.ingestion.rate_limit_bytes, settings.max_active_series) == (9000, inherited)
        other = resolve(*placed(both, is_whole=is_whole), TenantId("other"))
        assert (other.ingestion.rate_limit_bytes, other.max_active_series) == (5000, 7)


def test_strategy_of_an_entry_counts_for_nothing() -> None:
    """Tenancy conformance 21; where entries inherit it is refused when the file is read."""
    found = explained({"tenant": {"ingestion.rate_strategy": "global"}}, is_whole=True)["ingestion.rate_strategy"]
    assert (found.value, found.source) == ("local", "builtin")


def test_entry_used_whole_leaves_some_fields_to_the_defaults() -> None:
    """Tenancy conformance 22 and 23."""
    key = f"{GENERATOR}.span_name_sanitization"
    stack: Stack = {"defaults": {"ingestion.retry_info_enabled": False, key: "enabled"}, "tenant": {}}
    settings = resolved(stack, is_whole=True)
    assert (settings.ingestion.retry_info_enabled, settings.span_name_sanitization) == (False, "enabled")
    # A text that is empty switches nothing off in an entry, but does so in a document (tenancy §2.5).
    assert resolved({**stack, "tenant": {key: ""}}, is_whole=True).span_name_sanitization == "enabled"
    assert resolved({**stack, "api": {key: ""}}, is_whole=True).span_name_sanitization == ""
    assert resolved({**stack, "tenant": {key: ""}}).span_name_sanitization == ""


def test_document_switches_generation_on_and_off() -> None:
    """Tenancy conformance 24, 25 and 26."""
    key = f"{GENERATOR}.processors"
    file: Stack = {"tenant": {key: ["span-metrics", "service-graphs"]}}
    assert resolved({**file, "api": {key: ["service-graphs"]}}).active_processors == ("service-graphs",)
    assert resolved({**file, "api": {key: []}}).active_processors == ()
    assert resolved({**file, "api": {}}).active_processors == ("span-metrics", "service-graphs")


# States


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize(
    ("state", "is_generating", "is_collecting", "moved"),
    [
        (TenantState.ACTIVE, True, True, None),
        (TenantState.DRY_RUN, True, False, "disable_collection"),
        (TenantState.PAUSED, False, True, "processors"),
        (TenantState.BLOCKED, False, True, "processors"),
    ],
)
def test_state_of_a_tenant_has_the_last_word(
    state: TenantState, is_generating: bool, is_collecting: bool, moved: str | None, is_whole: bool
) -> None:
    written = {f"{GENERATOR}.processors": ["span-metrics"], f"{GENERATOR}.disable_collection": False}
    config, overrides = placed({"api": written, "tenant": written}, is_whole=is_whole)
    overrides = OverridesInForce(1, overrides.runtime, overrides.documents, {"acme": state})
    settings, found = resolve(config, overrides, ACME), explain(config, overrides, ACME)
    assert settings.state is state
    assert (settings.is_generating, not settings.disable_collection) == (is_generating, is_collecting)
    assert [key for key, each in found.items() if each.source == "state"] == ([f"{GENERATOR}.{moved}"] if moved else [])
    other = resolve(config, overrides, TenantId("other"))
    assert other.state is TenantState.ACTIVE


@pytest.mark.parametrize(
    ("overrides", "state"),
    [
        (OverridesInForce(), "blocked"),
        (OverridesInForce(runtime={"*": Overrides()}), "blocked"),
        (OverridesInForce(runtime={"acme": Overrides()}), "active"),
        (OverridesInForce(documents={"acme": Overrides()}), "blocked"),
        (OverridesInForce(states={"acme": TenantState.ACTIVE}), "active"),
        (OverridesInForce(runtime={"acme": Overrides()}, states={"acme": TenantState.BLOCKED}), "blocked"),
    ],
)
def test_tenant_that_nobody_knows_is_blocked_while_the_registry_is_closed(
    overrides: OverridesInForce, state: str
) -> None:
    closed = parse_service_config(b"tenant_registry: closed", {})
    assert resolve(closed, overrides, ACME).state == state
