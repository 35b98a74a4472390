"""Filter policies, as span metrics apply them (processors §0.8, cases 38 and 40 to 48)."""

from typing import Any

import pytest

from tenants._engine import InvalidPlan
from tests.conformance.case import Case, Difference, row
from tests.conformance.driver import check, compile_plan
from tests.conformance.fixtures import CALLS, L0, base_request, base_span
from tests.traces import (
    CLIENT,
    CONSUMER,
    INTERNAL,
    PRODUCER,
    SERVER,
    UNSPECIFIED,
    batch,
    filter_block,
    plan,
    request,
    span_metrics_plan,
)

FILTERED = ("span_metrics", "span_metrics_filtered")
KINDS = {
    UNSPECIFIED: "SPAN_KIND_UNSPECIFIED",
    INTERNAL: "SPAN_KIND_INTERNAL",
    SERVER: "SPAN_KIND_SERVER",
    CLIENT: "SPAN_KIND_CLIENT",
    PRODUCER: "SPAN_KIND_PRODUCER",
    CONSUMER: "SPAN_KIND_CONSUMER",
}


def strict(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return a block that compares whole values."""
    return filter_block("strict", attributes)


def regex(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return a block that searches in texts."""
    return filter_block("regex", attributes)


def base_case(policy: dict[str, Any], accepted: int) -> Case:
    """Expect that of 10 x F-BASE so many are accepted."""
    return Case(
        plan=plan(span_metrics_plan(filter_policies=[policy])),
        pushes=[base_request(10, attributes={"foo": "foo-value"})],
        expected={CALLS: [(L0, accepted)] if accepted else []},
        nothing_else=not accepted,
        discarded={} if accepted else {FILTERED: 10},
    )


@pytest.mark.parametrize(
    "case",
    [
        row("38a", "include an attribute", base_case({"include": strict({"span.foo": "foo-value"})}, 10)),
        row("38b", "include an absent attribute", base_case({"include": strict({"span.nope": "nothere"})}, 0)),
        row("38c", "exclude a status", base_case({"exclude": strict({"status": "STATUS_CODE_OK"})}, 0)),
        row("38d", "include any kind", base_case({"include": regex({"kind": "SPAN_KIND_.*"})}, 10)),
    ],
)
def test_filter_counts_what_it_rejects(case: Case) -> None:
    check(case)


def one_case(
    policies: list[dict[str, Any]],
    is_accepted: bool,
    kind: int = SERVER,
    resource: dict[str, Any] | None = None,
    attributes: dict[str, Any] | None = None,
    **settings: Any,
) -> Case:
    """Expect that one span is accepted, or not."""
    one = base_span(attributes or {}, kind=kind)
    labels = {"span_name": "test", "span_kind": KINDS[kind], "status_code": "STATUS_CODE_OK"}
    intrinsic = {"service": False}
    return Case(
        plan=plan(span_metrics_plan(filter_policies=policies, intrinsic_dimensions=intrinsic, **settings)),
        pushes=[request(batch(resource or {}, one))],
        expected={CALLS: [(labels, 1)] if is_accepted else []},
        nothing_else=not is_accepted,
        discarded={} if is_accepted else {FILTERED: 1},
    )


EARTH = {"location": "earth", "othervalue": "somethinginteresting"}
SERVERS = {"include": strict({"kind": "SPAN_KIND_SERVER"})}
AUTH = {"include_any": strict({"kind": "SPAN_KIND_INTERNAL", "resource.service.name": "auth-service"})}
ANY_FOO = {"include_any": strict({"span.foo": "bar"})}
ANY_SERVER = {"include_any": strict({"kind": "SPAN_KIND_SERVER"})}
NO_DEV = {"exclude": strict({"resource.env": "dev"})}
EDGE_KINDS = [{"include": regex({"kind": "SPAN_KIND_(SERVER|CONSUMER|CLIENT|PRODUCER)"})}]
SOMETHING = {"exclude": regex({"resource.othervalue": "something.*"})}
STRICT_TYPES: dict[str, Any] = {"enable_strict_filter_types": True}
TYPED = Difference(
    "Q32", "behind a switch that is off by default, a value matches only attributes of its type, and numbers by value"
)


def earth(kind: str) -> list[dict[str, Any]]:
    """Return a policy for spans of one kind and place."""
    return [{"include": strict({"kind": kind, "resource.location": "earth"})}]


def including(block: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one policy that includes."""
    return [{"include": block}]


DECISIONS = [
    row("40a", "all attributes match", one_case(earth("SPAN_KIND_SERVER"), True, resource=EARTH)),
    row("40b", "one attribute does not match", one_case(earth("SPAN_KIND_CLIENT"), False, resource=EARTH)),
    row("41", "include and exclude", one_case([*earth("SPAN_KIND_SERVER"), SOMETHING], False, resource=EARTH)),
    row("42a", "include_any", one_case([SERVERS, AUTH], True, INTERNAL, {"service.name": "auth-service"})),
    row("42b", "neither", one_case([SERVERS, AUTH], False, INTERNAL, {"service.name": "noisy-service"})),
    row("42c", "include", one_case([SERVERS, AUTH], True, SERVER, {"service.name": "any-service"})),
    row("43", "second include_any", one_case([ANY_FOO, ANY_SERVER], True)),
    row("44", "no include_any", one_case([ANY_FOO], False)),
    row("45a", "include_any and exclude", one_case([ANY_SERVER, NO_DEV], False, resource={"env": "dev"})),
    row("45b", "include_any and no exclude", one_case([ANY_SERVER, NO_DEV], True, resource={"env": "prod"})),
    row("46a", "regex on INTERNAL", one_case(EDGE_KINDS, False, INTERNAL)),
    row("46b", "regex on UNSPECIFIED", one_case(EDGE_KINDS, False, UNSPECIFIED)),
    row("46c", "regex on SERVER", one_case(EDGE_KINDS, True, SERVER)),
    row("46d", "regex on CONSUMER", one_case(EDGE_KINDS, True, CONSUMER)),
    row("46e", "regex on CLIENT", one_case(EDGE_KINDS, True, CLIENT)),
    row("46f", "regex on PRODUCER", one_case(EDGE_KINDS, True, PRODUCER)),
    row("47a", "0 and a text", one_case(including(strict({"span.x": 0})), True, attributes={"x": "zzz"})),
    row("47b", "200 and 200.0", one_case(including(strict({"span.x": 200})), False, attributes={"x": 200.0})),
    row("47c", "regex and a number", one_case(including(regex({"span.x": "^200$"})), False, attributes={"x": 200})),
    row("47d", "regex inside a text", one_case(including(regex({"span.x": "oo"})), True, attributes={"x": "foobar"})),
    row(
        "47e",
        "0 and a text, types compared",
        one_case(including(strict({"span.x": 0})), False, attributes={"x": "zzz"}, **STRICT_TYPES),
        differs=TYPED,
    ),
    row(
        "47f",
        "200 and 200.0, types compared",
        one_case(including(strict({"span.x": 200})), True, attributes={"x": 200.0}, **STRICT_TYPES),
        differs=TYPED,
    ),
]


@pytest.mark.parametrize("case", DECISIONS)
def test_span_is_accepted_or_not(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "policy",
    [
        row("48a", "no block", {}),
        row("48b", "unknown match type", {"include": filter_block("invalid", {"span.x": "y"})}),
        row("48c", "empty key", {"include": strict({"": "y"})}),
        row("48d", "intrinsic that filters do not know", {"include": strict({"duration": "1s"})}),
        row("48e", "scope that filters do not know", {"include": strict({"event.name": "y"})}),
        row("48f", "unknown kind", {"include": strict({"kind": "INVALID_KIND"})}),
        row("48g", "regex that does not compile", {"include": regex({"span.x": ".*("})}),
    ],
)
def test_policy_is_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(InvalidPlan):
        compile_plan(plan(span_metrics_plan(filter_policies=[policy])))
