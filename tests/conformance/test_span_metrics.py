"""Span metrics: values, labels and their collisions (processors §1, cases 1, 3 to 12, 27, 28 and 39)."""

from typing import Any

import pytest

from tenants._engine import InvalidPlan
from tests.conformance.case import Case, Classic, Difference, row
from tests.conformance.driver import check, compile_plan
from tests.conformance.fixtures import (
    BASE_RESOURCE,
    CALLS,
    L0,
    LATENCY,
    SIZE,
    base_request,
    base_span,
)
from tests.traces import batch, plan, request, span, span_metrics_plan

TWO_BUCKETS = {"histogram_buckets": [0.5, 1.0]}
FOO_BAR = {"foo": "foo-value", "bar": "bar-value"}
BELOW_KIND = {name: value for name, value in L0.items() if name != "span_kind"}
UNSPECIFIED_UNSET = {"span_kind": "SPAN_KIND_UNSPECIFIED", "status_code": "STATUS_CODE_UNSET"}
NO_KIND = {"intrinsic_dimensions": {"span_kind": False}}
ENVIRONMENTS = ["deployment.environment", "deployment_environment"]


def labels_case(
    settings: dict[str, Any],
    attributes: dict[str, Any],
    labels: dict[str, str],
    *,
    resource: dict[str, Any] | None = None,
    count: int = 10,
) -> Case:
    """Expect that ``count`` x F-BASE with these attributes is one series of calls with these labels."""
    return Case(
        plan=plan(span_metrics_plan(**settings)),
        pushes=[base_request(count, resource, attributes)],
        expected={CALLS: [(labels, count)]},
    )


COUNTED = [
    row(
        "1",
        "ten equal spans",
        Case(
            plan=plan(span_metrics_plan(**TWO_BUCKETS)),
            pushes=[base_request(10)],
            expected={
                CALLS: [(L0, 10)],
                LATENCY: [(L0, Classic({"0.5": 0, "1": 10, "+Inf": 10}, sum=10))],
                SIZE: [(L0, 10 * base_span().ByteSize())],
            },
            nothing_else=True,
        ),
    ),
    row(
        "27",
        "span that ends before it starts",
        Case(
            plan=plan(span_metrics_plan(**TWO_BUCKETS)),
            pushes=[request(batch({}, span(trace_id=b"", span_id=b"", start_ns=1, end_ns=0)))],
            now_ns=0,
            expected={
                CALLS: [(UNSPECIFIED_UNSET, 1)],
                LATENCY: [(UNSPECIFIED_UNSET, Classic({"0.5": 1, "1": 1, "+Inf": 1}, sum=0))],
                SIZE: [(UNSPECIFIED_UNSET, 9)],
            },
            nothing_else=True,
        ),
    ),
    row(
        "28",
        "kind and status code that have no name",
        Case(
            plan=plan(span_metrics_plan(intrinsic_dimensions={"status_message": True})),
            pushes=[request(batch(BASE_RESOURCE, base_span(kind=42, status=7, message="boom")))],
            expected={CALLS: [(L0 | {"span_kind": "42", "status_code": "7", "status_message": "boom"}, 1)]},
        ),
    ),
]

LABELLED = [
    row(
        "3",
        "intrinsics off and on, dimensions present and absent",
        labels_case(
            {
                "intrinsic_dimensions": {"span_kind": False, "status_message": True},
                "dimensions": ["foo", "bar", "does-not-exist"],
            },
            FOO_BAR,
            BELOW_KIND | FOO_BAR | {"status_message": "OK"},
        ),
    ),
    row(
        "4",
        "absent dimensions with odd names",
        labels_case({"dimensions": ["label-name", "foo.name", "foo bar"]}, {}, L0),
    ),
    row(
        "5",
        "dimensions named like intrinsics, one of them off",
        labels_case(
            NO_KIND | {"dimensions": ["span.kind", "span_name"]},
            {"span.kind": "colliding_kind", "span_name": "colliding_name"},
            BELOW_KIND | {"__span_kind": "colliding_kind", "__span_name": "colliding_name"},
        ),
    ),
    row(
        "6a",
        "colliding dimensions, the last absent",
        labels_case({"dimensions": ENVIRONMENTS}, {"deployment.environment": "prod"}, L0),
    ),
    row(
        "6b",
        "colliding dimensions, the last absent, and both kept",
        labels_case(
            {"dimensions": ENVIRONMENTS, "keep_colliding_dimensions": True},
            {"deployment.environment": "prod"},
            L0 | {"deployment_environment": "prod"},
        ),
        differs=Difference("Q2", "behind a switch that is off by default, an absent dimension deletes no label"),
    ),
    row(
        "7",
        "colliding dimensions, the first absent",
        labels_case(
            {"dimensions": ENVIRONMENTS},
            {"deployment_environment": "prod"},
            L0 | {"deployment_environment": "prod"},
        ),
    ),
    row(
        "8",
        "resource before span, even if empty",
        labels_case(
            {"dimensions": ["k", "e"]},
            {"k": "span", "e": "span"},
            L0 | {"k": "res"},
            resource={"k": "res", "e": ""},
        ),
    ),
    row(
        "9",
        "mapping of two sources",
        labels_case(
            {"dimension_mappings": [{"name": "foo.bar", "source_labels": ["foo", "bar"], "join": "/"}]},
            FOO_BAR,
            L0 | {"foo_bar": "foo-value/bar-value"},
        ),
    ),
    row(
        "10",
        "mappings some of whose sources are missing",
        labels_case(
            {
                "dimension_mappings": [
                    {"name": "first_only", "source_labels": ["first", "second"], "join": "/"},
                    {"name": "world_only", "source_labels": ["hello", "world"], "join": "/"},
                    {"name": "first/last", "source_labels": ["first", "middle", "last"], "join": "->"},
                ]
            },
            {"first": "first-value", "world": "world-value", "last": "last-value"},
            L0 | {"first_only": "first-value", "world_only": "world-value", "first_last": "first-value->last-value"},
        ),
    ),
    row(
        "12",
        "mapping named like an intrinsic",
        labels_case(
            {"dimension_mappings": [{"name": "span.kind", "source_labels": ["k"], "join": ""}]},
            {"k": "v"},
            L0 | {"__span_kind": "v"},
        ),
    ),
    row(
        "39a",
        "dimension job, target_info on",
        labels_case(
            {"dimensions": ["job"], "enable_target_info": True},
            {"job": "attr-job"},
            L0 | {"job": "test-service"},
        ),
    ),
    row(
        "39b",
        "dimension job, target_info off",
        labels_case({"dimensions": ["job"]}, {"job": "attr-job"}, L0 | {"job": "attr-job"}),
    ),
]


@pytest.mark.parametrize("case", COUNTED)
def test_values(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", LABELLED)
def test_labels(case: Case) -> None:
    check(case)


def mapping(name: str) -> dict[str, Any]:
    """Return a mapping of one source."""
    return {"name": name, "source_labels": ["source"], "join": ""}


@pytest.mark.parametrize(
    ("dimensions", "mappings", "named"),
    [
        row("11a", "dimension and mapping of one name", ["foo_bar"], [mapping("foo_bar")], ["foo_bar"]),
        row("11b", "dimension and mapping of one label", ["a.b"], [mapping("a-b")], ["a.b", "a-b", "a_b"]),
        row("11c", "two mappings of one label", [], [mapping("a.b"), mapping("a-b")], ["a.b", "a-b", "a_b"]),
    ],
)
def test_mapping_that_collides_is_refused(
    dimensions: list[str], mappings: list[dict[str, Any]], named: list[str]
) -> None:
    with pytest.raises(InvalidPlan) as refusal:
        compile_plan(plan(span_metrics_plan(dimensions=dimensions, dimension_mappings=mappings)))
    assert [name for name in named if name not in str(refusal.value)] == []


@pytest.mark.parametrize("dimensions", [row("11d", "two dimensions of one label", ENVIRONMENTS[::-1])])
def test_dimensions_that_collide_are_not_refused(dimensions: list[str]) -> None:
    compile_plan(plan(span_metrics_plan(dimensions=dimensions)))
