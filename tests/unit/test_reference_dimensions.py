"""Dimension mappings, colliding dimensions and refused plans: cases computed by hand, for model and engine.

Numbers beside the tests are those of the conformance cases of processors §6.1.
"""

from typing import Any

import pytest

from tests.traces import (
    MISSING,
    SECOND_NS,
    Attributes,
    batch,
    plan,
    request,
    service_graphs_plan,
    span,
    span_metrics_plan,
)
from tests.unit.refused_plans import refusal

NOW_NS = 1_700_000_000 * SECOND_NS
NO_INTRINSICS = dict.fromkeys(["service", "span_name", "span_kind", "status_code"], False)


def labels(
    implementation: Any, attributes: Attributes, resource: Attributes = (), limits: Any = (), **settings: Any
) -> dict[str, str]:
    """Return the labels of one span, which has no intrinsic ones."""
    of_spans = span_metrics_plan(**({"intrinsic_dimensions": NO_INTRINSICS} | settings), latency=False, size=False)
    tenant = implementation(plan(of_spans, **dict(limits)))
    tenant.push(request(batch(resource, span("op", end_ns=NOW_NS, attributes=attributes))), NOW_NS)
    tenant.flush(NOW_NS)
    (series,) = tenant.collect().series
    return {name: value for name, value in series if name != "__name__"}


def mapping(name: str, *sources: str, join: str = "/") -> dict[str, Any]:
    return {"name": name, "source_labels": list(sources), "join": join}


MAPPING_CASES: list[tuple[list[dict[str, Any]], dict[str, str]]] = [
    ([mapping("foo.bar", "foo", "bar")], {"foo_bar": "foo-value/bar-value"}),  # 9
    (
        [
            mapping("first_only", "first", "second"),
            mapping("world_only", "hello", "world"),
            mapping("first/last", "first", "middle", "last", join="->"),
        ],
        {"first_only": "first-value", "world_only": "world-value", "first_last": "first-value->last-value"},
    ),  # 10
    ([mapping("span.kind", "first")], {"__span_kind": "first-value"}),  # 12
    ([mapping("nothing", "second", "empty")], {}),
    ([mapping("shadowed", "shadowed", "foo")], {"shadowed": "foo-value"}),
    ([mapping("typed", "number", "list", "foo", join="")], {"typed": "5[a]foo-value"}),
    ([mapping("again", "foo", "foo", join="é")], {"again": "foo-valueéfoo-value"}),
]


@pytest.mark.parametrize(("mappings", "expected"), MAPPING_CASES)
def test_mappings_join_the_sources_that_have_a_value(
    implementation: Any, mappings: list[dict[str, Any]], expected: dict[str, str]
) -> None:
    attributes = {name: f"{name}-value" for name in ("foo", "bar", "first", "world", "last", "shadowed")}
    attributes |= {"empty": "", "number": 5, "list": ["a"]}  # type: ignore[dict-item]
    assert labels(implementation, attributes, {"shadowed": ""}, dimension_mappings=mappings) == expected


ATTRIBUTES = {"a.b": "first", "a_b": "last"}


@pytest.mark.parametrize(
    ("attributes", "kept", "expected"),
    [
        ({"a.b": "first"}, False, {}),  # 6
        ({"a.b": "first"}, True, {"a_b": "first"}),
        ({"a.b": "first", "a_b": ""}, True, {"a_b": "first"}),
        (ATTRIBUTES, False, {"a_b": "last"}),
        (ATTRIBUTES, True, {"a_b": "last"}),
        ({"a_b": "last"}, True, {"a_b": "last"}),
        ({}, True, {}),
    ],
)
def test_colliding_dimensions(
    implementation: Any, attributes: dict[str, str], kept: bool, expected: dict[str, str]
) -> None:
    settings = {"dimensions": ["a.b", "a_b"], "keep_colliding_dimensions": kept}
    assert labels(implementation, attributes, **settings) == expected


@pytest.mark.parametrize(("kept", "expected"), [(False, {}), (True, {"long_n": "1"})])
def test_labels_may_collide_when_they_are_cut(implementation: Any, kept: bool, expected: dict[str, str]) -> None:
    settings = {"dimensions": ["long_name_1", "long_name_2"], "keep_colliding_dimensions": kept}
    found = labels(implementation, {"long_name_1": "1"}, limits={"max_label_name_length": 6}, **settings)
    assert found == expected


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dimensions": ["foo_bar"], "dimension_mappings": [mapping("foo.bar", "x")]}, ["foo.bar", "foo_bar"]),  # 11
        ({"dimension_mappings": [mapping("m", "x"), mapping("m", "y")]}, ["m"]),
        ({"dimensions": ["span.kind"], "dimension_mappings": [mapping("span_kind", "x")]}, ["span_kind"]),
        ({"dimension_mappings": [mapping("", "x")]}, []),
        ({"dimension_mappings": [mapping("le", "x")]}, ["le"]),
        ({"dimensions": ["le"]}, ["le"]),
        ({"dimensions": ["..name__"]}, ["__name__"]),
        ({"dimensions": [""]}, []),
        ({"histogram_buckets": [1.0, 2.0, 1.0]}, []),
        ({"histogram_buckets": [0.0]}, []),
        ({"histogram_buckets": [-1.0]}, []),
        ({"histogram_buckets": [float(n) for n in range(1, 102)]}, []),
    ],
)
def test_span_metrics_that_are_refused(implementation: Any, settings: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(refusal(implementation)) as refused:
        implementation(plan(span_metrics_plan(**settings)))
    assert all(name in str(refused.value) for name in named)


@pytest.mark.parametrize("dimension", ["le", "__name__", ""])
def test_dimensions_of_edges_that_are_refused(implementation: Any, dimension: str) -> None:
    with pytest.raises(refusal(implementation)):
        implementation(plan(service_graphs=service_graphs_plan(dimensions=[dimension])))


def test_dimensions_may_collide_with_each_other(implementation: Any) -> None:  # 11
    settings = {"dimensions": ["deployment_environment", "deployment.environment"]}
    assert labels(implementation, {"deployment.environment": "prod"}, **settings) == {"deployment_environment": "prod"}


def test_attribute_without_value_object_is_empty(implementation: Any) -> None:  # Q31
    settings = {"dimensions": ["k"], "dimension_mappings": [mapping("m", "k", "l")]}
    assert labels(implementation, {"k": MISSING, "l": "x"}, **settings) == {"m": "x"}
