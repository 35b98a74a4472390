"""Edges one side of which a filter rejects (processors §2.5, cases 52, 58 to 60 and 80)."""

from typing import Any

import pytest

from tests.conformance.case import Case, Labels, conformance, row
from tests.conformance.driver import Tenant, check
from tests.conformance.fixtures import (
    MYTH_NS,
    MYTH_SERVER,
    PAIR_NS,
    REQUESTER,
    SD,
    TOTAL,
    graphs_plan,
    half,
    myth,
    pair_client,
    pair_half,
    pair_server,
)
from tests.traces import CLIENT, SECOND_NS, SERVER, filter_block, request

FILTERED = ("service_graphs", "service_graphs_filtered")


def of_service(block: str, service: str) -> dict[str, Any]:
    """Return settings that include or exclude the spans of a service."""
    return {"filter_policies": [{block: filter_block("strict", {"resource.service.name": service})}]}


def myth_case(
    settings: dict[str, Any], *, total: list[tuple[Labels, float]], filtered: int, edges: int, dropped: int
) -> Case:
    """Expect of F-MYTH these edges, before any half has waited its time."""
    return Case(
        plan=graphs_plan(**settings),
        pushes=[myth()],
        now_ns=MYTH_NS,
        expected={TOTAL: total},
        nothing_else=not total,
        discarded={FILTERED: filtered},
        counters={"edges": edges, "dropped_edges": dropped, "dropped_spans": 0},
    )


MYTH = [
    row(
        "52a",
        "the requester alone",
        # A and P are dropped when their servers are rejected; F and G go on waiting.
        myth_case(of_service("include", REQUESTER), total=[], filtered=5, edges=4, dropped=2),
    ),
    row(
        "52b",
        "the server alone",
        # B meets the marker of A; the database edge needs no other side, D and E go on waiting.
        myth_case(of_service("include", MYTH_SERVER), total=[(SD, 1)], filtered=5, edges=3, dropped=1),
    ),
    row(
        "52c",
        "all but the requester",
        # B and Q meet the markers of A and P.
        myth_case(of_service("exclude", REQUESTER), total=[(SD, 1)], filtered=4, edges=3, dropped=2),
    ),
]


def pair_case(excluded: str, *halves: Any, max_items: int = 10, **counters: int) -> Case:
    """Expect of halves in this order of arrival, one of which is rejected, no series."""
    return Case(
        plan=graphs_plan(**of_service("exclude", excluded), max_items=max_items),
        pushes=[request(one) for one in halves],
        now_ns=PAIR_NS,
        expected={},
        nothing_else=True,
        discarded={FILTERED: 1},
        counters={"dropped_spans": 0} | counters,
    )


ROOT = pair_half("svc-a", SERVER, b"\x0a")
CHILD = pair_server(service="svc-a")
NAMELESS = pair_half("svc-b", CLIENT, b"")  # a client without an id has the key that a root server span has

PAIRS = [
    row(
        "58",
        "client of a server that was rejected",
        pair_case("svc-b", pair_server(), pair_client(), edges=0, dropped_edges=1),
    ),
    row("59a", "rejected client, first", pair_case("svc-a", pair_client(), pair_server(), edges=0, dropped_edges=1)),
    row("59b", "rejected client, last", pair_case("svc-a", pair_server(), pair_client(), edges=1, dropped_edges=1)),
    row(
        "60a",
        "rejected root is not remembered: it needs no room",
        pair_case("svc-a", ROOT, max_items=0, dropped_span_side_cache_overflow=0),
    ),
    row(
        "60b",
        "rejected server with a parent needs room",
        pair_case("svc-a", CHILD, max_items=0, dropped_span_side_cache_overflow=1),
    ),
    row(
        "60c",
        "rejected root is not remembered: no client meets it",
        pair_case("svc-a", ROOT, NAMELESS, edges=1, dropped_edges=0),
    ),
]


@pytest.mark.parametrize("case", MYTH)
def test_edges_of_a_trace(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", PAIRS)
def test_rejected_half(case: Case) -> None:
    check(case)


@conformance("80")
def test_80_markers_are_refreshed_when_there_is_no_room_for_others() -> None:
    """Markers are seen by what happens to a server half whose client half was rejected."""
    tenant = Tenant(graphs_plan(**of_service("exclude", "rejected"), max_items=2, wait_s=10.0))

    def reject(at_s: int, *keys: str) -> None:
        for key in keys:
            at_ns = MYTH_NS + at_s * SECOND_NS
            tenant.push(request(half("rejected", CLIENT, key, end_ns=at_ns)), at_ns)

    def is_remembered(at_s: int, key: str) -> bool:
        at_ns = MYTH_NS + at_s * SECOND_NS
        tenant.flush(at_ns)
        before = tenant.counters["dropped_edges"]
        tenant.push(request(half("accepted", SERVER, f"of {key}", key, end_ns=at_ns)), at_ns)
        tenant.flush(at_ns)
        return tenant.counters["dropped_edges"] > before

    reject(0, "1", "2")
    reject(6, "1", "3")
    tenant.flush(MYTH_NS + 6 * SECOND_NS)
    assert tenant.counters["dropped_span_side_cache_overflow"] == 1
    assert not is_remembered(7, "3")
    assert is_remembered(11, "1")
    assert not is_remembered(11, "2")
    assert tenant.counters["edges"] == 2
    assert tenant.counters["dropped_spans"] == 0
