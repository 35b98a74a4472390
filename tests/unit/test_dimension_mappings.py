"""Which dimension mappings are taken, in one layer and where layers meet."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tenants.settings import Failed, Loaded, Overrides, RuntimeFile, ServiceConfig, SettingsError, parse_service_config
from tenants.settings.model import validate

SPAN_METRICS = "metrics_generator.processor.span_metrics"


def mapping(name: object, *sources: object, **more: object) -> dict[str, object]:
    return {"name": name, "source_labels": list(sources or ("x",)), **more}


def span_metrics(**fields: object) -> dict[str, object]:
    return {"metrics_generator": {"processor": {"span_metrics": fields}}}


def refused(**fields: object) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        validate(Overrides, span_metrics(**fields))
    return {fault.path.removeprefix(f"{SPAN_METRICS}."): fault.message for fault in caught.value.faults}


# One mapping


@pytest.mark.parametrize(
    "good",
    [
        mapping("a"),
        mapping("a.b", "x", "y", join="/"),
        mapping("a", join=""),
        mapping("span.kind"),
        mapping("größe"),
        mapping("1a"),
        mapping("x" * 1024, *["s"] * 64, join="j" * 1024),
    ],
)
def test_mapping_has_a_name_and_sources(good: Mapping[str, object]) -> None:
    layer = validate(Overrides, span_metrics(dimension_mappings=[good]))
    (taken,) = layer.metrics_generator.processor.span_metrics.dimension_mappings or ()
    assert taken.name == good["name"]
    assert taken.join == good.get("join", "")


@pytest.mark.parametrize(
    ("bad", "path", "message"),
    [
        ({}, "name", "is required; add it"),
        ({"name": "a"}, "source_labels", "is required; add it"),
        (mapping(""), "name", "should be the name of a label, not an empty text"),
        (mapping(5), "name", "should be text; put it in quotes"),
        (mapping("x" * 1025), "name", "should be at most 1024 bytes, not 1025"),
        (mapping("\ud800"), "name", "is not valid Unicode text"),
        (mapping("le"), "name", "the label le belongs to the metrics themselves; use another name"),
        (mapping("--name.."), "name", "the label __name__ belongs to the metrics themselves; use another name"),
        ({"name": "a", "source_labels": []}, "source_labels", "should not be empty"),
        ({"name": "a", "source_labels": "x"}, "source_labels", "should be a list"),
        (mapping("a", *["s"] * 65), "source_labels", "should have at most 64 entries, not 65"),
        (mapping("a", "x", ""), "source_labels[1]", "should be an attribute name, not an empty text"),
        (mapping("a", 5), "source_labels[0]", "should be text; put it in quotes"),
        (mapping("a", join=1), "join", "should be text; put it in quotes"),
        (mapping("a", join="j" * 1025), "join", "should be at most 1024 bytes, not 1025"),
        (mapping("a", joins="-"), "joins", "unknown key; did you mean join?"),
    ],
)
def test_any_other_mapping_is_refused(bad: Mapping[str, object], path: str, message: str) -> None:
    assert refused(dimension_mappings=[bad])[f"dimension_mappings[0].{path}"] == message


def test_there_are_at_most_64_mappings() -> None:
    validate(Overrides, span_metrics(dimension_mappings=[mapping(f"m{n}") for n in range(64)]))
    found = refused(dimension_mappings=[mapping(f"m{n}") for n in range(65)])
    assert found == {"dimension_mappings": "should have at most 64 entries, not 65"}


# Collisions within a layer


@pytest.mark.parametrize(
    ("dimensions", "names", "message"),
    [
        (
            ["foo.bar"],
            ["a", "foo_bar"],
            'entry [1] "foo_bar" becomes the label foo_bar, and so does the dimension "foo.bar"; rename one of them',
        ),
        (
            [],
            ["a.b", "a-b"],
            'entry [1] "a-b" becomes the label a_b, and so does the mapping "a.b"; rename one of them',
        ),
        (
            ["span.kind"],
            ["span_kind"],
            'entry [0] "span_kind" becomes the label __span_kind, and so does the dimension "span.kind"; '
            "rename one of them",
        ),
        (["__service"], ["service"], 'entry [0] "service" becomes the label __service'),
        (["x", "x"], ["y"], None),
        (["job"], ["instance"], None),
        (["span_name"], ["span__name"], None),
    ],
)
def test_mapping_may_not_become_a_label_that_is_taken(
    dimensions: list[str], names: list[str], message: str | None
) -> None:
    fields = {"dimensions": dimensions, "dimension_mappings": [mapping(name) for name in names]}
    if message is None:
        validate(Overrides, span_metrics(**fields))
        return
    found = refused(**fields)
    assert list(found) == ["dimension_mappings"]
    assert message in found["dimension_mappings"]


def test_refused_dimensions_do_not_hide_colliding_mappings() -> None:
    found = refused(dimensions=[""], dimension_mappings=[mapping("a"), mapping("a")])
    assert set(found) == {"dimensions[0]", "dimension_mappings"}


# Collisions between layers

DIMENSION = f"{SPAN_METRICS}.dimensions"
MAPPINGS = f"{SPAN_METRICS}.dimension_mappings"
MAPS_REGION = (
    "{metrics_generator: {processor: {span_metrics: {dimension_mappings: [{name: region, source_labels: [x]}]}}}}"
)
REGION = "{metrics_generator: {processor: {span_metrics: {dimensions: [region]}}}}"
BOTH = 'the mapping "region" becomes the label region, and so does the dimension "region"; rename one of them, or set '


def service(text: str) -> ServiceConfig:
    return parse_service_config(text.encode(), {})


def static(fields: str) -> str:
    return f"metrics_generator: {{processor: {{span_metrics: {fields}}}}}"


STATIC_REGION = static("{dimensions: [region]}")
DEFAULTS_REGION = f"overrides: {{defaults: {REGION}}}"


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (
            f"{STATIC_REGION}\noverrides: {{defaults: {MAPS_REGION}}}",
            f"overrides.defaults.{MAPPINGS}",
            f"{BOTH}dimensions here too: they are inherited from the service configuration",
        ),
        (
            static("{dimension_mappings: [{name: region, source_labels: [x]}]}") + f"\n{DEFAULTS_REGION}",
            f"overrides.defaults.{DIMENSION}",
            f"{BOTH}dimension_mappings here too: they are inherited from the service configuration",
        ),
        (
            static("{dimensions: [region], dimension_mappings: [{name: region, source_labels: [x]}]}"),
            MAPPINGS,
            'entry [0] "region" becomes the label region, and so does the dimension "region"; rename one of them',
        ),
    ],
)
def test_defaults_are_compared_with_the_service_configuration(text: str, path: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        service(text)
    assert [(fault.path, fault.message) for fault in caught.value.faults] == [(path, message)]
    assert caught.value.faults[0].line


def polled(text: str, config: str = "") -> dict[str, str]:
    file = RuntimeFile(Path("overrides.yaml"), lambda _: text.encode(), config=service(config))
    result = file.poll()
    if isinstance(result, Loaded):
        return {}
    assert isinstance(result, Failed)
    assert result.reason == "validate"
    assert all(fault.line for fault in result.faults)
    return {fault.path: fault.message for fault in result.faults}


@pytest.mark.parametrize(
    ("entries", "config", "expected"),
    [
        (
            f"{{acme: {MAPS_REGION}}}",
            STATIC_REGION,
            {
                f"overrides.acme.{MAPPINGS}": f"{BOTH}dimensions here too: "
                "they are inherited from the service configuration"
            },
        ),
        (
            f"{{acme: {MAPS_REGION}}}",
            DEFAULTS_REGION,
            {
                f"overrides.acme.{MAPPINGS}": f"{BOTH}dimensions here too: "
                "they are inherited from overrides.defaults of the service configuration"
            },
        ),
        (
            f"{{acme: {REGION}, '*': {MAPS_REGION}, globex: {{}}}}",
            "",
            {f"overrides.acme.{DIMENSION}": f"{BOTH}dimension_mappings here too: they are inherited from the entry *"},
        ),
        # The owner of the entry * hears of it once, not every tenant that has it.
        (
            f"{{acme: {{}}, '*': {MAPS_REGION}}}",
            DEFAULTS_REGION,
            {
                f'overrides["*"].{MAPPINGS}': f"{BOTH}dimensions here too: "
                "they are inherited from overrides.defaults of the service configuration"
            },
        ),
        # What an entry replaces is not compared.
        (
            f"{{acme: {MAPS_REGION}, '*': {{metrics_generator: {{processor: {{span_metrics: {{dimensions: []}}}}}}}}}}",
            DEFAULTS_REGION,
            {},
        ),
        (f"{{acme: {MAPS_REGION}, globex: {REGION}}}", "", {}),
    ],
)
def test_entries_are_compared_with_what_they_inherit(entries: str, config: str, expected: dict[str, str]) -> None:
    assert polled(f"overrides: {entries}", config) == expected


def test_collisions_are_reported_beside_the_other_faults() -> None:
    text = f"overrides: {{acme: {MAPS_REGION}, globex: {{bogus: 1}}}}"
    assert set(polled(text, STATIC_REGION)) == {f"overrides.acme.{MAPPINGS}", "overrides.globex.bogus"}


def test_without_a_service_configuration_entries_inherit_the_built_in_values() -> None:
    file = RuntimeFile(Path("overrides.yaml"), lambda _: f"overrides: {{acme: {MAPS_REGION}}}".encode())
    assert isinstance(file.poll(), Loaded)
