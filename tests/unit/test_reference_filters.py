"""Filter policies and the markers of filtered edges: cases computed by hand, for the model and for the engine.

Numbers beside the tests are those of the conformance cases of processors §6.
"""

from typing import Any

import pytest

from tests.traces import (
    CLIENT,
    CONSUMER,
    INTERNAL,
    MISSING,
    OK,
    PRODUCER,
    SECOND_NS,
    SERVER,
    UNSPECIFIED,
    Attributes,
    batch,
    filter_block,
    plan,
    request,
    service_graphs_plan,
    span,
    span_metrics_plan,
)
from tests.unit.refused_plans import refusal

NOW_NS = 1_700_000_000 * SECOND_NS


def accepts(
    implementation: Any,
    policies: list[dict[str, Any]],
    attributes: Attributes = (),
    resource: Attributes | None = (),
    *,
    strict_types: bool = False,
    **of_span: Any,
) -> bool:
    """Return whether span metrics count a span under these policies; see that it is counted as filtered if not."""
    settings = span_metrics_plan(
        filter_policies=policies, enable_strict_filter_types=strict_types, latency=False, size=False
    )
    tenant = implementation(plan(settings))
    one = span(**({"name": "op", "end_ns": NOW_NS} | of_span), attributes=attributes)
    tenant.push(request(batch(resource, one)), NOW_NS)
    tenant.flush(NOW_NS)
    counted = len(tenant.collect().series)
    assert tenant.discarded == ({} if counted else {("span_metrics", "span_metrics_filtered"): 1})
    return bool(counted)


def including(key: str, value: Any, match_type: str = "strict") -> list[dict[str, Any]]:
    """Return the policies that take only what has this value."""
    return [{"include": filter_block(match_type, {key: value})}]


ATTRIBUTES = {"location": "earth", "othervalue": "something else", "env": "dev"}
EARTH_SERVERS = {"include": filter_block("strict", {"kind": "SPAN_KIND_SERVER", "resource.location": "earth"})}
SOMETHING = {"exclude": filter_block("regex", {"resource.othervalue": "something.*"})}
ANY_AUTH = {
    "include_any": filter_block("strict", {"kind": "SPAN_KIND_INTERNAL", "resource.service.name": "auth-service"})
}
ANY_EARTH = {"include_any": filter_block("strict", {"resource.location": "earth"})}
NO_DEV = {"exclude": filter_block("strict", {"resource.env": "dev"})}
EMPTY = filter_block("strict", {})
POLICY_CASES: list[tuple[list[dict[str, Any]], int, dict[str, Any], bool]] = [
    ([], CLIENT, {}, True),
    ([EARTH_SERVERS], SERVER, ATTRIBUTES, True),  # 40
    ([EARTH_SERVERS], CLIENT, ATTRIBUTES, False),
    ([EARTH_SERVERS, SOMETHING], SERVER, ATTRIBUTES, False),  # 41
    ([{"include": filter_block("strict", {"kind": "SPAN_KIND_SERVER"})}, ANY_AUTH], SERVER, {}, True),  # 42
    ([EARTH_SERVERS, ANY_AUTH], INTERNAL, {"service.name": "auth-service"}, True),
    ([EARTH_SERVERS, ANY_AUTH], INTERNAL, {"service.name": "noisy"}, False),
    ([ANY_AUTH, ANY_EARTH], CLIENT, ATTRIBUTES, True),  # 43
    ([ANY_AUTH, ANY_EARTH], CLIENT, {}, False),  # 44
    ([ANY_EARTH, NO_DEV], CLIENT, ATTRIBUTES, False),  # 45
    ([ANY_EARTH, NO_DEV], CLIENT, ATTRIBUTES | {"env": "prod"}, True),
    ([NO_DEV], CLIENT, {}, True),
    ([EARTH_SERVERS, {"include": filter_block("strict", {"resource.env": "prod"})}], SERVER, ATTRIBUTES, False),
    ([EARTH_SERVERS | SOMETHING], SERVER, {"location": "earth"}, True),
    ([EARTH_SERVERS | SOMETHING], SERVER, ATTRIBUTES, False),
    ([{"include": EMPTY, "exclude": None}], CLIENT, {}, True),
    ([{"include_any": EMPTY}], CLIENT, {}, True),
    ([{"exclude": EMPTY}], CLIENT, {}, False),
]


@pytest.mark.parametrize(("policies", "kind", "resource", "accepted"), POLICY_CASES)
def test_policies_exclude_first_then_include_any_then_include(
    implementation: Any, policies: list[dict[str, Any]], kind: int, resource: dict[str, Any], accepted: bool
) -> None:
    assert accepts(implementation, policies, resource=resource, kind=kind) == accepted


@pytest.mark.parametrize(
    ("policies", "accepted"),
    [
        (including("span.foo", "foo-value"), True),
        (including("span.nope", "nothere"), False),
        ([{"exclude": filter_block("strict", {"status": "STATUS_CODE_OK"})}], False),
        (including("kind", "SPAN_KIND_.*", "regex"), True),
    ],
)
def test_policies_of_the_span_metrics_fixture(
    implementation: Any, policies: list[dict[str, Any]], accepted: bool
) -> None:  # 38
    found = accepts(implementation, policies, {"foo": "foo-value"}, {"service.name": "s"}, kind=CLIENT, status=OK)
    assert found == accepted


@pytest.mark.parametrize(
    ("kind", "accepted"),
    [(UNSPECIFIED, False), (INTERNAL, False), (SERVER, True), (CLIENT, True), (PRODUCER, True), (CONSUMER, True)],
)
def test_regex_of_kinds(implementation: Any, kind: int, accepted: bool) -> None:  # 46
    pattern = "SPAN_KIND_(SERVER|CONSUMER|CLIENT|PRODUCER)"
    assert accepts(implementation, including("kind", pattern, "regex"), kind=kind) == accepted


# filter value, attribute value, whether it matches, and whether it does with strict types (Q32)
VALUE_CASES: list[tuple[Any, Any, bool, bool]] = [
    (0, "zzz", True, False),  # 47
    (200, 200.0, False, True),
    (200.0, 200, False, True),
    (200, 200, True, True),
    (0, 200.0, True, False),
    (0, 0.0, True, True),
    (0.0, -0.0, True, True),
    ("", 5, True, False),
    ("", "", True, True),
    ("", None, True, False),
    ("", MISSING, True, False),
    (False, "x", True, False),
    (False, False, True, True),
    (True, 1, False, False),
    (True, True, True, True),
    (1, True, False, False),
    ("true", True, False, False),
    ("200", 200, False, False),
    (0.1, 0.1, True, True),
    (0, ["a"], True, False),
    (0.0, {}, True, False),
]


@pytest.mark.parametrize("strict_types", [False, True])
@pytest.mark.parametrize(("wanted", "value", "loose", "strict"), VALUE_CASES)
def test_values_read_as_the_wanted_type_or_have_it(
    implementation: Any, wanted: Any, value: Any, loose: bool, strict: bool, strict_types: bool
) -> None:
    policies = including("span.k", wanted)
    found = accepts(implementation, policies, [("k", value), ("k", wanted)], strict_types=strict_types)
    assert found == (strict if strict_types else loose)


@pytest.mark.parametrize("strict_types", [False, True])
@pytest.mark.parametrize(
    ("pattern", "value", "loose", "strict"),
    [
        ("^200$", 200, False, False),  # 47
        ("oo", "foobar", True, True),
        ("^$", 200, True, False),
        ("b$", "b\n", False, False),
        (r"^\d+$", "٣", False, False),
        (r"^\d+$", "3", True, True),
        (r"\w", "é", False, False),
        ("^ok", "ok\udcff", True, True),
        ("(?i)SHOP|PUB", "shop", True, True),
        ("a.b", "a\nb", False, False),
    ],
)
def test_regex_is_searched_in_texts(
    implementation: Any, pattern: str, value: Any, loose: bool, strict: bool, strict_types: bool
) -> None:
    policies = including("span.k", pattern, "regex")
    found = accepts(implementation, policies, {"k": value}, strict_types=strict_types)
    assert found == (strict if strict_types else loose)


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("name", "op", True),
        ("span:name", "o", False),
        ("kind", "SPAN_KIND_CLIENT", True),
        ("span:kind", "SPAN_KIND_SERVER", False),
        ("status", "STATUS_CODE_UNSET", True),
        ("span:status", "STATUS_CODE_UNSET", True),
        ("span.kind", "attribute", True),
        ("span.a.b", "1", True),
        ('span."foo bar"', "2", True),
        ('resource."q\\"\\\\"', "3", True),
        ("resource.a.b", "1", False),
        ("parent.span.a.b", "1", True),
        ("parent.resource.r", "4", True),
        ("span.r", "4", False),
    ],
)
def test_keys(implementation: Any, key: str, value: str, accepted: bool) -> None:
    attributes = {"kind": "attribute", "a.b": "1", "foo bar": "2"}
    resource = {'q"\\': "3", "r": "4"}
    assert accepts(implementation, including(key, value), attributes, resource, kind=CLIENT) == accepted


def test_absent_attribute_matches_nothing(implementation: Any) -> None:
    for policies in (including("span.k", ""), including("resource.k", 0), including("span.k", "", "regex")):
        assert not accepts(implementation, policies, {"other": 1}, resource=None)


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"include": None},
        {"include": filter_block("invalid", {})},
        {"include": filter_block("strict", {"": "x"})},
        {"exclude": filter_block("strict", {"duration": "x"})},
        {"include_any": filter_block("strict", {"event.name": "x"})},
        *({"include": filter_block("strict", {key: "x"})} for key in (".foo", "foo", "statusMessage", "rootName")),
        *({"include": filter_block("strict", {key: "x"})} for key in ("trace:id", "link.x", "instrumentation.x")),
        {"include": filter_block("strict", {"kind": "INVALID_KIND"})},
        {"include": filter_block("strict", {"status": "OK"})},
        {"include": filter_block("strict", {"name": 5})},
        {"include": filter_block("regex", {"span.x": ".*("})},
        {"include": filter_block("regex", {"span.x": 5})},
        {"include": filter_block("strict", {"span.x": ["a"]})},
        {"include": filter_block("strict", {"span.x": None})},
    ],
)
def test_bad_policies_are_refused(implementation: Any, policy: dict[str, Any]) -> None:  # 48
    for processors in (
        {"span_metrics": span_metrics_plan(filter_policies=[policy])},
        {"service_graphs": service_graphs_plan(filter_policies=[policy])},
    ):
        with pytest.raises(refusal(implementation)):
            implementation(plan(**processors))
