"""Span names and the patterns that replace them (processors §4.9, appendix B, cases 115 to 126).

Names come one by one. What becomes of one is the label set in which its call was counted.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.conformance.case import conformance, row
from tests.conformance.fixtures import CALLS
from tests.conformance.registry_driver import (
    BARE_SPANS,
    INTERVAL_MS,
    START_MS,
    Registered,
    bare_metrics,
    observation,
)
from tests.traces import plan


class Named(Registered):
    """A tenant whose span metrics have the label ``span_name`` only."""

    def __init__(self, mode: str = "enabled") -> None:
        super().__init__(self.plan(mode))
        self._known: dict[str, float] = {}

    @staticmethod
    def plan(mode: str) -> dict[str, Any]:
        """Return the settings with this mode of span-name sanitization."""
        spans = bare_metrics(count=True, intrinsic_dimensions=BARE_SPANS | {"span_name": True})
        return plan(spans, span_name_sanitization=mode)

    def outputs(self, names: Sequence[str]) -> Iterator[str]:
        """Count one call for each name and yield the name under which it was counted."""
        for name in names:
            now_ms = self._now_ms + INTERVAL_MS
            self.count(observation(name=name, at_ms=now_ms), at_ms=now_ms)
            calls = {
                dict(key).get("span_name", ""): samples[-1][1] or 0.0
                for key, samples in self.samples_at(now_ms + 1).items()
                if ("__name__", CALLS) in key
            }
            (output,) = (known for known, count in calls.items() if count == self._known.get(known, 0.0) + 1)
            self._known = calls
            yield output


ORIGINAL = None
"""The name as it came."""

SEQUENCES = [
    row(
        "115",
        "a number at the end",
        ["GET /api/users/123", "GET /api/users/456", "GET /api/users/789"],
        [ORIGINAL, "GET /api/users/<_>", "GET /api/users/<_>"],
    ),
    row(
        "116",
        "two numbers",
        ["POST /api/orders/100/items/1", "POST /api/orders/200/items/2", "POST /api/orders/300/items/3"],
        [ORIGINAL, "POST /api/orders/<_>/items/<_>", "POST /api/orders/<_>/items/<_>"],
    ),
    row(
        "117",
        "a number behind an underscore",
        ["SELECT * FROM users_100", "SELECT * FROM users_200", "SELECT * FROM users_300"],
        [ORIGINAL, "SELECT * FROM users_<_>", "SELECT * FROM users_<_>"],
    ),
    row(
        "118",
        "a method with dots",
        [f"grpc.client/service.Method/{number}" for number in (123, 456, 789)],
        [ORIGINAL, "grpc.client/service.Method/<_>", "grpc.client/service.Method/<_>"],
    ),
    row(
        "119",
        "a word behind the number",
        ["GET /users/123/data", "GET /users/456/settings", "GET /users/789/data", "GET /users/7/settings"],
        [ORIGINAL, ORIGINAL, "GET /users/<_>/data", "GET /users/<_>/settings"],
    ),
    row(
        "120",
        "words after a number",
        ["GET /users/123", "GET /users/settings", "GET /users/me"],
        [ORIGINAL, "GET /users/<_>", "GET /users/<_>"],
    ),
    row(
        "121",
        "a number after a word captures the word",
        ["GET /users/settings", "GET /users/123", "GET /users/settings"],
        [ORIGINAL, ORIGINAL, "GET /users/<_>"],
    ),
    row(
        "122",
        "words only",
        ["GET /api/users", "GET /api/posts", "GET /api/users"],
        [ORIGINAL, ORIGINAL, ORIGINAL],
    ),
    row("123a", "too few tokens", ["op1", "GET", "a", ""], [ORIGINAL] * 4),
    row(
        "124",
        "digits within a word",
        ["query1 run", "query2 run", "query33 run", "query44 run"],
        [ORIGINAL, ORIGINAL, ORIGINAL, "<_> run"],
    ),
    row(
        "125",
        "a number at the beginning",
        ["123 foo bar", "456 foo bar", "789 baz bar"],
        [ORIGINAL, "<_> foo bar", ORIGINAL],
    ),
]


@pytest.mark.parametrize(("names", "outputs"), SEQUENCES)
def test_names_become_patterns(names: list[str], outputs: list[str | None]) -> None:
    tenant = Named()
    expected = [name if output is ORIGINAL else output for name, output in zip(names, outputs, strict=True)]
    assert list(tenant.outputs(names)) == expected
    changed = sum(output is not ORIGINAL for output in outputs)
    assert tenant.stats("spans_sanitized") == (changed,)


@conformance("123b")
def test_123b_too_short_names_are_counted() -> None:
    tenant = Named()
    list(tenant.outputs(["op1", "GET", "a", ""]))
    assert tenant.stats("drain_lines_skipped_too_few_tokens", "drain_patterns_detected") == (4, 0)


@conformance("126")
def test_126_a_dry_run_counts_what_it_would_change() -> None:
    tenant = Named()
    trained = list(tenant.outputs(["GET /api/users/123", "GET /api/users/456"]))
    assert trained == ["GET /api/users/123", "GET /api/users/<_>"]
    tenant.use(tenant.plan("dry_run"), START_MS + 10 * INTERVAL_MS)
    names = ["GET /api/users/789", "GET /api/users/456"]
    assert list(tenant.outputs(names)) == names
    assert tenant.stats("spans_sanitized") == (3,)
