"""The document of a tenant: what it may hold, how it is read, patched and stored. Numbers are cases of tenancy §8."""

import copy
import difflib
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tenants.settings import Overrides, ServiceConfig, SettingsError, parse_service_config
from tenants.settings.api_document import (
    TenantDocument,
    is_tenant_owned,
    merge_patch,
    merged,
    read_document,
    read_stored,
    to_json,
    to_overrides,
)
from tenants.settings.errors import MAX_FAULTS, MORE_FAULTS
from tenants.settings.inherited_collisions import document_collision
from tenants.settings.model import MAX_NEAR_MISSES, SettingsModel, validate

Json = dict[str, Any]


def nested(path: str, value: object) -> Json:
    document: Any = value
    for part in reversed(path.split(".")):
        document = {part: document}
    result: Json = document
    return result


def read(document: object) -> Json:
    return to_json(read_document(json.dumps(document).encode()))


def patched(stored: Json | None, patch: object) -> Json:
    return merge_patch(stored, json.dumps(patch).encode())


def faults(text: bytes) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        read_document(text)
    return {fault.path: fault.message for fault in caught.value.faults}


def faults_of(document: object) -> dict[str, str]:
    return faults(json.dumps(document).encode())


GENERATOR = "metrics_generator"
FACTOR = f"{GENERATOR}.native_histogram_bucket_factor"
SPAN_METRICS = f"{GENERATOR}.processor.span_metrics"
SERVICE_GRAPHS = f"{GENERATOR}.processor.service_graphs"


def strict(key: str, value: object, match_type: str = "strict") -> Json:
    return {"include": {"match_type": match_type, "attributes": [{"key": key, "value": value}]}}


ACCEPTED: list[tuple[int, str, object, object]] = [
    # case, key, value, value as stored
    (73, f"{GENERATOR}.collection_interval", "15s", "15s"),
    (73, f"{GENERATOR}.collection_interval", "5m", "5m"),
    (73, f"{GENERATOR}.collection_interval", 30_000_000_000, "30s"),
    (73, f"{GENERATOR}.collection_interval", "60000ms", "1m"),
    (74, f"{GENERATOR}.ingestion_time_range_slack", "0s", "0s"),
    (74, f"{GENERATOR}.ingestion_time_range_slack", "12h", "12h"),
    (75, f"{GENERATOR}.generate_native_histograms", "both", "both"),
    (76, f"{GENERATOR}.native_histogram_bucket_factor", 1.01, 1.01),
    (76, f"{GENERATOR}.native_histogram_bucket_factor", 2, 2),
    (77, f"{SPAN_METRICS}.histogram_buckets", [0.5, 1, 2], [0.5, 1, 2]),
    (77, f"{SPAN_METRICS}.histogram_buckets", [], []),
    (78, f"{GENERATOR}.processors", [], []),
    (78, f"{GENERATOR}.processors", ["span-metrics", "host-info", "span-metrics"], ["host-info", "span-metrics"]),
    (79, f"{SPAN_METRICS}.intrinsic_dimensions", {"service": False}, {"service": False}),
    (
        80,
        f"{SPAN_METRICS}.dimension_mappings",
        [{"name": "a", "source_labels": ["b"]}],
        [{"name": "a", "source_labels": ["b"], "join": ""}],
    ),
    (81, f"{SPAN_METRICS}.filter_policies", [strict("kind", "SPAN_KIND_SERVER")], [strict("kind", "SPAN_KIND_SERVER")]),
    (83, "cost_attribution.dimensions", {"resource.a": "team", "b": ""}, {"resource.a": "team", "b": ""}),
    (84, "forwarders", [], []),
]

REFUSED: list[tuple[int, str, object, str]] = [
    # case, key, value, what follows the key in the path of the fault
    (72, f"{GENERATOR}.max_active_series", 5, ""),
    (72, f"{GENERATOR}.max_active_entities", 5, ""),
    (72, f"{GENERATOR}.max_cardinality_per_label", 5, ""),
    (72, f"{GENERATOR}.remote_write_headers", {"a": "b"}, ""),
    (72, f"{GENERATOR}.remote_write", [], ""),
    (72, f"{GENERATOR}.shards", 2, ""),
    (72, f"{GENERATOR}.ring_size", 2, ""),
    (72, "ingestion", {"rate_limit_bytes": 1}, ""),
    (72, "cost_attribution.max_cardinality", 5, ""),
    (73, f"{GENERATOR}.collection_interval", "14s", ""),
    (73, f"{GENERATOR}.collection_interval", "5m1s", ""),
    (73, f"{GENERATOR}.collection_interval", 30, ""),
    (73, f"{GENERATOR}.collection_interval", "1d", ""),
    (73, f"{GENERATOR}.collection_interval", 0, ""),
    (73, f"{GENERATOR}.collection_interval", 30.0, ""),
    (74, f"{GENERATOR}.ingestion_time_range_slack", "-1s", ""),
    (74, f"{GENERATOR}.ingestion_time_range_slack", "12h1s", ""),
    (75, f"{GENERATOR}.generate_native_histograms", "Native", ""),
    (75, f"{GENERATOR}.generate_native_histograms", "", ""),
    (75, f"{GENERATOR}.generate_native_histograms", True, ""),
    (76, f"{GENERATOR}.native_histogram_bucket_factor", 1, ""),
    (76, f"{GENERATOR}.native_histogram_bucket_factor", 0, ""),
    (76, f"{GENERATOR}.native_histogram_bucket_factor", "1.1", ""),
    (77, f"{SPAN_METRICS}.histogram_buckets", [1, 1], ""),
    (77, f"{SPAN_METRICS}.histogram_buckets", [2, 1], ""),
    (78, f"{GENERATOR}.processors", ["local-blocks"], "[0]"),
    (78, f"{GENERATOR}.processors", ["span-metrics", "Span-Metrics"], "[1]"),
    (78, f"{GENERATOR}.processors", "span-metrics", ""),
    (79, f"{SPAN_METRICS}.intrinsic_dimensions", {"job": True}, ".job"),
    (80, f"{SPAN_METRICS}.dimension_mappings", [{"name": "", "source_labels": ["b"]}], "[0].name"),
    (80, f"{SPAN_METRICS}.dimension_mappings", [{"name": "a", "source_labels": []}], "[0].source_labels"),
    (81, f"{SPAN_METRICS}.filter_policies", [{}], "[0]"),
    (81, f"{SPAN_METRICS}.filter_policies", [strict("span.a", "(", "regex")], "[0].include.attributes[0]"),
    (81, f"{SPAN_METRICS}.filter_policies", [strict("kind", "SERVER")], "[0].include.attributes[0]"),
    (81, f"{SPAN_METRICS}.filter_policies", [strict("event.a", "b")], "[0].include.attributes[0].key"),
    (82, f"{SERVICE_GRAPHS}.filter_policies", [{}], "[0]"),
    (83, "cost_attribution.dimensions", {"resource.a": "", "span.a": ""}, ""),
    (83, "cost_attribution.dimensions", {"a": "__name__"}, ""),
    (83, "cost_attribution.dimensions", {"a": "tenant"}, ""),
    (84, "forwarders", ["otlp-copy"], ""),
]


@pytest.mark.parametrize(("case", "key", "value", "stored"), ACCEPTED)
def test_accepted_values_and_how_they_are_stored(case: int, key: str, value: object, stored: object) -> None:
    assert read(nested(key, value)) == nested(key, stored)


@pytest.mark.parametrize(("case", "key", "value", "below"), REFUSED)
def test_refused_values_are_refused_at_their_place(case: int, key: str, value: object, below: str) -> None:
    assert list(faults_of(nested(key, value))) == [f"{key}{below}"]
    with pytest.raises(SettingsError):
        patched({}, nested(key, value))


def test_77_a_fault_in_buckets_names_the_entry() -> None:
    assert (
        "entry [1]"
        in faults_of(nested(f"{SPAN_METRICS}.histogram_buckets", [1, 1]))[f"{SPAN_METRICS}.histogram_buckets"]
    )


def test_80_a_mapping_does_not_take_the_label_of_a_dimension() -> None:
    mapping = {"name": "http.route", "source_labels": ["x"]}
    said = faults_of(nested(SPAN_METRICS, {"dimensions": ["http_route"], "dimension_mappings": [mapping]}))
    assert list(said) == [f"{SPAN_METRICS}.dimension_mappings"]


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        (b"", "", "is not JSON"),
        (b"{", "", "is not JSON"),
        (b"null", "", "should be a JSON object"),
        (b"[]", "", "should be a JSON object"),
        (b'"x"', "", "should be a JSON object"),
        (b"{} {}", "", "is not JSON: Extra data"),  # case 85
        (b"{}x", "", "is not JSON: Extra data"),
        (b"\xff{}", "", "is not UTF-8"),
        (b"\xef\xbb\xbf{}", "", "is not JSON"),
        (b"{'a': 1}", "", "is not JSON"),
        (b'{"unknown": true}', "unknown", "unknown key"),  # case 71
        (b'{"unknown": null}', "unknown", "unknown key"),
        (b'{"Metrics_Generator": {}}', "Metrics_Generator", "did you mean metrics_generator?"),
        (
            b'{"metrics_generator": {"processors": [], "processors": []}}',
            "metrics_generator.processors",
            "occurs twice",
        ),
        (
            b'{"metrics_generator": {"native_histogram_bucket_factor": NaN}}',
            FACTOR,
            "NaN is not a finite number",
        ),
        (b'{"metrics_generator": {"native_histogram_bucket_factor": -Infinity}}', FACTOR, "not a finite number"),
        (b'{"metrics_generator": {"native_histogram_bucket_factor": 1e999}}', FACTOR, "1e999 is not a finite number"),
        (b'{"metrics_generator": {"native_histogram_max_bucket_number": ' + b"9" * 5000 + b"}}", "", "too many digits"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "", "nested deeper than 64"),
        (b'["' + b"]" * 5000 + b'",' + b"[" * 5000, "", "nested deeper than 64"),
        # Were each quote tried as the beginning of a text, this would take a quarter of an hour.
        (b'"' + b'\\"' * 131_000, "", "is not JSON"),
        (b" " * (256 * 1024) + b"{}", "", "262144 are allowed"),
        (b'{"metrics_generator": 5}', "metrics_generator", "should be a mapping"),
        (b'{"metrics_generator": {"processor": []}}', "metrics_generator.processor", "should be a mapping"),
    ],
)
def test_what_is_no_document_is_refused(text: bytes, path: str, said: str) -> None:
    found = faults(text)
    assert list(found) == [path]
    assert said in found[path]


def test_every_fault_is_reported_at_once() -> None:
    document = {
        "x": 1,
        "ingestion": {"rate_limit_bytes": 5},
        "metrics_generator": {
            "collection_interval": "1s",
            "processors": ["nope"],
            "max_active_series": None,
            "processor": {"span_metrics": {"dimension": []}},
        },
    }
    said = faults_of(document)
    assert said.keys() == {
        "x",
        "ingestion",
        "metrics_generator.collection_interval",
        "metrics_generator.processors[0]",
        "metrics_generator.max_active_series",
        "metrics_generator.processor.span_metrics.dimension",
    }
    assert "only" in said["ingestion"]
    assert "operators only" in said["metrics_generator.max_active_series"]
    assert "did you mean dimensions?" in said["metrics_generator.processor.span_metrics.dimension"]


@pytest.mark.parametrize(
    "document",
    [
        {f"{n:x}": 1 for n in range(25_000)},
        {"metrics_generator": {f"max_active_series_{n}": 1 for n in range(5_000)}},
        nested(f"{SPAN_METRICS}.filter_policies", [{f"a{n}": 1} for n in range(20_000)]),
        nested(f"{SPAN_METRICS}.dimensions", [1] * 120_000),
        nested(f"{SPAN_METRICS}.filter_policies", [{}] * 80_000),
        nested(f"{GENERATOR}.processors", ["a"] * 60_000),
        nested("cost_attribution.dimensions", {f"{n:x}": 1 for n in range(25_000)}),
    ],
    ids=["unknown", "similar", "in-lists", "wrong-type", "empty", "unknown-names", "mapping"],
)
def test_of_many_faults_the_first_are_told(document: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    largest = 0

    def compare(key: str, *rest: Any, **options: Any) -> list[str]:
        compared.append(key)
        return difflib.get_close_matches(key, *rest, **options)

    def check(model: Any, value: Any) -> Any:
        nonlocal largest
        largest = max(largest, entries_of(value))
        return validate(model, value)

    monkeypatch.setattr("tenants.settings.model.difflib", SimpleNamespace(get_close_matches=compare))
    monkeypatch.setattr("tenants.settings.api_document.validate", check)
    with pytest.raises(SettingsError) as caught:
        read_document(json.dumps(document, separators=(",", ":")).encode())
    assert len(caught.value.faults) == MAX_FAULTS
    assert caught.value.faults[-1] == MORE_FAULTS
    assert MORE_FAULTS not in caught.value.faults[:-1]
    assert len(compared) <= MAX_NEAR_MISSES
    # What is checked in one go is told in one go, too.
    assert largest <= 1_100


def entries_of(value: object) -> int:
    """Count entries of lists and mappings, at any depth."""
    inner: list[Any] = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return len(inner) + sum(map(entries_of, inner))


def test_faults_behind_many_entries_are_found() -> None:
    def policies(last: object) -> Json:
        attributes = [{"key": "span.a", "value": "b"}] * 30
        block = {"include": {"match_type": "strict", "attributes": attributes}}
        bad = {"include": {"match_type": "strict", "attributes": [*attributes, {"key": "span.a", "value": last}]}}
        return nested(f"{SPAN_METRICS}.filter_policies", [block] * 63 + [bad])

    assert read(policies("b")) == policies("b")
    found = faults_of(policies([]))
    assert list(found) == [f"{SPAN_METRICS}.filter_policies[63].include.attributes[30].value"]


def test_of_many_repeated_members_the_first_are_told() -> None:
    with pytest.raises(SettingsError) as caught:
        read_document(b'{"a":[' + b",".join([b'{"a":1,"a":1}'] * 15_000) + b"]}")
    assert len(caught.value.faults) == MAX_FAULTS
    assert caught.value.faults[-1] == MORE_FAULTS


def test_every_repeated_member_is_named() -> None:
    text = b'{"metrics_generator": {"processors": [], "processors": []}, "forwarders": [], "forwarders": []}'
    assert faults(text).keys() == {"metrics_generator.processors", "forwarders"}


def test_brackets_in_texts_are_not_nesting() -> None:
    key = f"{SPAN_METRICS}.filter_policies"
    assert read(nested(key, [strict("span.a", "[" * 100 + '"\\')]))


def test_absent_and_null_are_the_same_and_nothing_else_is() -> None:
    assert read({}) == {}
    assert read({"metrics_generator": None, "cost_attribution": {"dimensions": None}, "forwarders": None}) == {}
    assert read({"metrics_generator": {"processor": {}}}) == {}
    present = nested(GENERATOR, {"processors": [], "disable_collection": False, "span_name_sanitization": ""})
    assert read(present) == present


def test_models_that_are_made_lose_no_check_of_a_whole() -> None:
    own = set(SettingsModel.__pydantic_decorators__.model_validators)

    def mappings(model: type[BaseModel]) -> list[type[BaseModel]]:
        kinds = [field.annotation for field in model.model_fields.values()]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        return [model, *(below for kind in inner for below in mappings(kind))]

    for model in mappings(Overrides):
        decorators = model.__pydantic_decorators__
        assert set(decorators.model_validators) == own
        assert not decorators.field_validators


def test_the_schema_describes_keys_and_bounds() -> None:
    schema = TenantDocument.model_json_schema(by_alias=True)
    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() == {"metrics_generator", "forwarders", "cost_attribution"}
    assert "15s to 5m" in json.dumps(schema)
    assert "max_active_series" not in json.dumps(schema)


@pytest.mark.parametrize(
    ("key", "is_owned"),
    [
        ("metrics_generator.processors", True),
        ("metrics_generator.processor.span_metrics.intrinsic_dimensions.service", True),
        ("metrics_generator.processor", False),
        ("metrics_generator.max_active_series", False),
        ("ingestion.rate_limit_bytes", False),
        ("forwarders", True),
        ("forwarders.a", False),
        ("nope", False),
    ],
)
def test_who_owns_a_key(key: str, is_owned: bool) -> None:
    assert is_tenant_owned(key) is is_owned


# Merge patch

RFC_7396_APPENDIX_A: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "result"), RFC_7396_APPENDIX_A)
def test_merging_follows_the_rfc(target: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy((target, patch))
    assert merged(target, patch) == result
    assert (target, patch) == before


@pytest.mark.parametrize("text", [b"{", b"", b"null", b"[]", b'"x"', b'{"nope":1}', b'{"nope":null}', b"{}{}"])
@pytest.mark.parametrize("stored", [None, nested(GENERATOR, {"processors": ["span-metrics"]})])
def test_65_69_what_is_no_patch_is_refused(stored: Json | None, text: bytes) -> None:
    with pytest.raises(SettingsError):
        merge_patch(stored, text)


def test_64_a_patch_keeps_what_it_does_not_name() -> None:
    stored = nested(GENERATOR, {"processors": ["span-metrics"]})
    assert patched(stored, nested(f"{GENERATOR}.collection_interval", "1m")) == nested(
        GENERATOR, {"collection_interval": "1m", "processors": ["span-metrics"]}
    )
    assert patched(stored, {"metrics_generator": None}) == {}
    assert patched(None, {}) == {}


def test_maps_merge_member_by_member_and_lists_as_a_unit() -> None:
    stored = {"cost_attribution": {"dimensions": {"a": "x", "b": "y"}}, **nested(f"{SPAN_METRICS}.dimensions", ["a"])}
    patch = {"cost_attribution": {"dimensions": {"a": None, "c": ""}}, **nested(f"{SPAN_METRICS}.dimensions", ["b"])}
    assert patched(stored, patch) == {
        **nested(f"{SPAN_METRICS}.dimensions", ["b"]),
        "cost_attribution": {"dimensions": {"b": "y", "c": ""}},
    }


def test_what_comes_of_a_patch_is_checked_as_a_whole() -> None:
    stored = nested(f"{SPAN_METRICS}.dimensions", ["http.route"])
    with pytest.raises(SettingsError, match="becomes the label http_route"):
        patched(stored, nested(f"{SPAN_METRICS}.dimension_mappings", [{"name": "http_route", "source_labels": ["a"]}]))


def test_unknown_members_of_a_patch_and_faults_in_it_are_reported_together() -> None:
    with pytest.raises(SettingsError) as caught:
        patched({}, {"nope": None, **nested(GENERATOR, {"shards": None, "collection_interval": "1s"})})
    assert {fault.path for fault in caught.value.faults} == {
        "nope",
        "metrics_generator.shards",
        "metrics_generator.collection_interval",
    }


# Documents of newer versions

NEWER: Json = {
    "novelty": {"a": [1]},
    "metrics_generator": {
        "collection_interval": "30s",
        "shiny": 5,
        "processor": {
            "span_metrics": {
                "filter_policies": [{**strict("kind", "SPAN_KIND_SERVER"), "comment": "why"}],
                "intrinsic_dimensions": {"trace_flags": True},
            }
        },
    },
}


def test_90_a_document_with_members_of_a_newer_version_is_applied_without_them() -> None:
    overrides, ignored = read_stored(NEWER)
    assert set(ignored) == {
        "novelty",
        "metrics_generator.shiny",
        f"{SPAN_METRICS}.filter_policies[0].comment",
        f"{SPAN_METRICS}.intrinsic_dimensions.trace_flags",
    }
    assert str(overrides.metrics_generator.collection_interval) == "30s"
    (policy,) = overrides.metrics_generator.processor.span_metrics.filter_policies or ()
    assert policy.include is not None


def test_90_a_patch_keeps_the_members_of_a_newer_version() -> None:
    stored = copy.deepcopy(NEWER)
    result = patched(stored, nested(f"{GENERATOR}.disable_collection", True))
    assert result == merged(NEWER, nested(f"{GENERATOR}.disable_collection", True))
    assert stored == NEWER
    assert "filter_policies" not in json.dumps(patched(stored, nested(f"{SPAN_METRICS}.filter_policies", None)))


@pytest.mark.parametrize(
    "stored", [{**NEWER, "forwarders": ["x"]}, nested(f"{GENERATOR}.collection_interval", "1s"), None, []]
)
def test_a_stored_document_with_a_fault_is_not_applied(stored: Any) -> None:
    with pytest.raises(SettingsError):
        read_stored(stored)


# What a document inherits


def layer(dimensions: list[str] | None, mapping: str | None) -> Overrides:
    mappings = None if mapping is None else [{"name": mapping, "source_labels": ["a"]}]
    return validate(Overrides, nested(SPAN_METRICS, {"dimensions": dimensions, "dimension_mappings": mappings}))


@pytest.mark.parametrize("where", ["acme", "*", "defaults", "static"])
@pytest.mark.parametrize("is_whole", [False, True])
def test_a_document_is_compared_with_what_it_inherits(where: str, is_whole: bool) -> None:
    document, below = layer(None, "http_route"), layer(["http.route"], None)
    config = ServiceConfig()
    if where == "static":
        text = "metrics_generator: {processor: {span_metrics: {dimensions: [http.route]}}}"
        config = parse_service_config(text.encode(), {})
    runtime = {where: below} if where in {"acme", "*"} else {}
    static = config.metrics_generator.processor.span_metrics
    defaults = below if where == "defaults" else Overrides()
    fault = document_collision(document, static, defaults, runtime, "acme", uses_entries_whole=is_whole)
    assert fault is not None
    assert fault.path == f"{SPAN_METRICS}.dimension_mappings"


def test_a_document_is_not_compared_with_what_a_whole_entry_hides() -> None:
    document, hidden = layer(None, "http_route"), layer(["http.route"], None)
    static = ServiceConfig().metrics_generator.processor.span_metrics
    runtime = {"acme": layer(None, None), "*": hidden}
    assert document_collision(document, static, hidden, runtime, "acme") is not None
    assert document_collision(document, static, hidden, runtime, "acme", uses_entries_whole=True) is None
    assert document_collision(document, static, hidden, {}, "acme", uses_entries_whole=True) is not None


# Laws

NAMES = st.text(st.sampled_from("abc._"), min_size=1, max_size=6).filter(lambda name: name not in {"__name__", "le"})


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def durations(low_s: int, high_s: int) -> st.SearchStrategy[Any]:
    seconds = st.integers(low_s, high_s)
    return seconds.map(lambda s: f"{s}s") | seconds.map(lambda s: s * 10**9) | seconds.map(lambda s: f"{s * 1000}ms")


def objects(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional={key: maybe(value) for key, value in values.items()})


BUCKETS = st.lists(st.floats(0.001, 1e6), max_size=5, unique=True).map(sorted)
POLICIES = st.lists(
    st.builds(strict, NAMES.map(lambda name: f"span.{name}"), NAMES | st.booleans() | st.integers(0, 9))
)
PROCESSORS = st.lists(st.sampled_from(["span-metrics", "service-graphs", "host-info", "span-metrics-size"]), max_size=5)
DOCUMENTS = objects(
    forwarders=st.just([]),
    cost_attribution=objects(
        dimensions=st.fixed_dictionaries({}, optional={key: st.sampled_from(["", f"of_{key}"]) for key in ("x", "y")})
    ),
    metrics_generator=objects(
        processors=PROCESSORS,
        disable_collection=st.booleans(),
        collection_interval=durations(15, 300),
        ingestion_time_range_slack=durations(0, 43200),
        generate_native_histograms=st.sampled_from(["classic", "native", "both"]),
        native_histogram_bucket_factor=st.floats(1.001, 100) | st.integers(2, 9),
        native_histogram_max_bucket_number=st.integers(1, 10_000),
        native_histogram_min_reset_duration=durations(0, 10_000),
        trace_id_label_name=st.from_regex(r"[a-z_]{1,9}", fullmatch=True).filter(lambda name: name != "le"),
        span_name_sanitization=st.sampled_from(["", "dry_run", "enabled"]),
        processor=objects(
            span_metrics=objects(
                histogram_buckets=BUCKETS,
                dimensions=st.lists(NAMES.map(lambda name: f"d{name}"), max_size=3),
                dimension_mappings=st.sampled_from([[], [{"name": "m", "source_labels": ["a", "b"], "join": "/"}]]),
                intrinsic_dimensions=objects(service=st.booleans(), status_message=st.booleans()),
                filter_policies=POLICIES,
                enable_target_info=st.booleans(),
                span_multiplier_key=st.sampled_from(["", "ratio"]),
            ),
            service_graphs=objects(histogram_buckets=BUCKETS, filter_policies=POLICIES, dimensions=st.lists(NAMES)),
            host_info=objects(metric_name=NAMES, host_identifiers=st.lists(NAMES, min_size=1)),
        ),
    ),
)


def holds_null(value: object) -> bool:
    if isinstance(value, dict):
        return any(holds_null(inner) for inner in value.values())
    return value is None


@given(DOCUMENTS)
def test_a_document_that_is_read_and_written_stays_the_same(document: Json) -> None:
    written = read(document)
    assert read(written) == written
    assert not holds_null(written)
    overrides, ignored = read_stored(written)
    assert not ignored
    assert overrides == to_overrides(read_document(json.dumps(document).encode()))
    # Everything that it says is in the layer, and nothing else.
    assert to_json(overrides) == written


@given(DOCUMENTS, DOCUMENTS)
def test_a_patch_leads_to_the_document_that_the_rfc_says(before: Json, patch: Json) -> None:
    stored = read(before)
    result = patched(stored, patch)
    assert result == read(merged(stored, patch))
    assert patched(result, patch) == result


@given(DOCUMENTS)
def test_patching_nothing_and_patching_with_nothing(document: Json) -> None:
    written = read(document)
    assert patched(None, document) == written
    assert patched(written, {}) == written
    assert patched(written, dict.fromkeys(written)) == {}
    assert patched(written, written) == written


@given(DOCUMENTS, DOCUMENTS)
def test_the_last_of_two_patches_wins_where_both_speak(first: Json, second: Json) -> None:
    stored = patched(patched(None, first), second)
    theirs = read(second)
    assert patched(stored, theirs) == stored
