"""Sanitized span names: cases computed by hand, for the model and for the engine.

Numbers beside the tests are those of the conformance cases of processors §6.6.
"""

from typing import Any

import pytest

from tests.reference_drain import MAX_TOKENS, looks_like_data, tokens
from tests.traces import SECOND_NS, batch, plan, request, service_graphs_plan, span, span_metrics_plan
from tests.unit.edge_cases import MYTH_NS, PAIR_CLIENT, PAIR_SERVER

NOW_NS = 1_700_000_000 * SECOND_NS
NO_INTRINSICS = dict.fromkeys(["service", "span_kind", "status_code"], False)


def named(implementation: Any, names: list[str], mode: str = "enabled", **settings: Any) -> tuple[list[str], Any]:
    """Return under which name each span is counted, one by one, and the tenant."""
    of_spans = {"intrinsic_dimensions": NO_INTRINSICS, "latency": False, "size": False} | settings
    tenant = implementation(plan(span_metrics_plan(**of_spans), span_name_sanitization=mode))
    shown = []
    before: dict[str, float] = {}
    for name in names:
        tenant.push(request(batch({}, span(name, end_ns=NOW_NS))), NOW_NS)
        tenant.flush(NOW_NS)
        calls = {dict(key).get("span_name", ""): value for key, value in tenant.collect().series.items()}
        (changed,) = (name for name, value in calls.items() if value != before.get(name))
        shown.append(changed)
        before = calls
    return shown, tenant


SAME = None
SEQUENCES: list[list[tuple[str, str | None]]] = [
    [
        ("GET /api/users/123", SAME),
        ("GET /api/users/456", "GET /api/users/<_>"),
        ("GET /api/users/789", "GET /api/users/<_>"),
    ],  # 115
    [
        ("POST /api/orders/100/items/1", SAME),
        ("POST /api/orders/200/items/2", "POST /api/orders/<_>/items/<_>"),
        ("POST /api/orders/300/items/3", "POST /api/orders/<_>/items/<_>"),
    ],  # 116
    [
        ("SELECT * FROM users_100", SAME),
        ("SELECT * FROM users_200", "SELECT * FROM users_<_>"),
        ("SELECT * FROM users_300", "SELECT * FROM users_<_>"),
    ],  # 117
    [
        ("grpc.client/service.Method/123", SAME),
        ("grpc.client/service.Method/456", "grpc.client/service.Method/<_>"),
        ("grpc.client/service.Method/789", "grpc.client/service.Method/<_>"),
    ],  # 118
    [
        ("GET /users/123/data", SAME),
        ("GET /users/456/settings", SAME),
        ("GET /users/789/data", "GET /users/<_>/data"),
        ("GET /users/7/settings", "GET /users/<_>/settings"),
    ],  # 119
    [
        ("GET /users/123", SAME),
        ("GET /users/settings", "GET /users/<_>"),
        ("GET /users/me", "GET /users/<_>"),
    ],  # 120
    [
        ("GET /users/settings", SAME),
        ("GET /users/123", SAME),
        ("GET /users/settings", "GET /users/<_>"),
    ],  # 121
    [("GET /api/users", SAME), ("GET /api/posts", SAME), ("GET /api/users", SAME)],  # 122
    [("op1", SAME), ("GET", SAME), ("a", SAME), ("", SAME)],  # 123
    [("query1 run", SAME), ("query2 run", SAME), ("query33 run", SAME), ("query44 run", "<_> run")],  # 124
    [("123 foo bar", SAME), ("456 foo bar", "<_> foo bar"), ("789 baz bar", SAME)],  # 125
    [("GET /users/123", SAME), ("GET /users/123", SAME), ("GET /users/4", "GET /users/<_>")],
    [("a %41", SAME), ("a %42", "a <_>")],
]


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda sequence: sequence[0][0])
def test_names_become_patterns(implementation: Any, sequence: list[tuple[str, str | None]]) -> None:
    shown, tenant = named(implementation, [name for name, _ in sequence])
    assert shown == [name if expected is None else expected for name, expected in sequence]
    changed = sum(expected is not None for _, expected in sequence)
    assert tenant.registry.stats()["spans_sanitized"] == changed


def test_dry_run_counts_and_changes_nothing(implementation: Any) -> None:  # 126
    names = [f"GET /api/users/{number}" for number in (123, 456, 789)]
    shown, tenant = named(implementation, names, "dry_run")
    assert shown == names
    stats = tenant.registry.stats()
    assert (stats["spans_sanitized"], stats["drain_patterns_detected"]) == (2, 1)


def test_name_that_a_wildcard_hides_keeps_one_pattern(implementation: Any) -> None:
    shown, tenant = named(implementation, [" GET", "%41a", " GET", "%42b", " GET"])
    assert shown == [" GET", "%41a", " GET", "%42b", " GET"]
    assert tenant.registry.stats()["drain_patterns_detected"] == 3


def test_pattern_is_cut_like_any_value(implementation: Any) -> None:
    settings = span_metrics_plan(intrinsic_dimensions=NO_INTRINSICS, latency=False, size=False)
    tenant = implementation(plan(settings, span_name_sanitization="enabled", max_label_value_length=8))
    for name in ("run/a/1", "run/a/2"):
        tenant.push(request(batch({}, span(name, end_ns=NOW_NS))), NOW_NS)
        tenant.flush(NOW_NS)
    assert {dict(key)["span_name"] for key in tenant.collect().series} == {"run/a/1", "run/a/<_"}


def test_nothing_is_learned_when_off(implementation: Any) -> None:
    shown, tenant = named(implementation, ["a 1", "a 2"], "")
    assert shown == ["a 1", "a 2"]
    assert tenant.registry.stats()["drain_patterns_detected"] == 0


def test_short_and_long_names_are_skipped(implementation: Any) -> None:
    longest = "a-" * ((MAX_TOKENS - 1) // 2) + "z"
    names = ["op", "", "g" + "-" * (MAX_TOKENS - 2), "g" + "-" * (MAX_TOKENS - 1), longest]
    assert len(tokens(names[2])) == MAX_TOKENS - 1
    shown, tenant = named(implementation, names)
    assert shown == names
    stats = tenant.registry.stats()
    assert stats["drain_lines_skipped_too_few_tokens"] == 2
    assert stats["drain_lines_skipped_too_many_tokens"] == 1


def test_label_sets_without_span_name_are_fed_an_empty_one(implementation: Any) -> None:
    tenant = implementation(plan(None, service_graphs_plan(), span_name_sanitization="enabled"))
    tenant.push(request(PAIR_CLIENT, PAIR_SERVER), MYTH_NS)
    tenant.flush(MYTH_NS)
    assert tenant.registry.stats()["drain_lines_skipped_too_few_tokens"] == 1
    assert tenant.collect().series != {}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GET /users/123", ["GET", " ", "/", "users", "/", "123"]),
        ("application_1234567890", ["application", "_", "1234567890"]),
        ("query-abc-def-ghi", ["query", "-", "abc-def-", "ghi"]),
        ("🚀 deploy service-abc", ["🚀", " ", "deploy", " ", "service", "-", "abc"]),
        ("add-item", ["add-", "item"]),
        ("5f3759df-0000-4000-8000-00000000beef", ["5f3759df-0000-4000-8000-00000000beef"]),
        ("a%2Fb%2", ["a", "%2F", "b", "%2"]),
        ("%zz", ["%", "zz"]),
        ("100%", ["100", "%"]),
        ("a \t\nb", ["a", " \t\n", "b"]),
        ("deadbeefs", ["deadbeefs"]),
        ("1½é", ["1½é"]),
        ("e\u0301", ["e", "\u0301"]),
        ("", []),
    ],
)
def test_tokens_of_a_name(name: str, expected: list[str]) -> None:
    assert tokens(name) == expected
    assert "".join(expected) == name


@pytest.mark.parametrize(
    ("token", "is_data"),
    [
        *((token, True) for token in ("1", "a1", "e2e", "v10", "id55", "user12345", "1-2", "½", "%41")),
        *((token, False) for token in ("v2", "id5", "ab", "-", "$1", "abcdefgh12")),
    ],
)
def test_what_looks_like_data(token: str, is_data: bool) -> None:
    assert looks_like_data(token) == is_data
