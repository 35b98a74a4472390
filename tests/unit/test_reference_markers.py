"""Filters of service graphs and their markers: cases computed by hand, for the model and for the engine.

Numbers beside the tests are those of the conformance cases of processors §6.3.
"""

from typing import Any

import pytest

from tests.traces import CLIENT, CONSUMER, INTERNAL, SECOND_NS, SERVER, filter_block, plan, request, service_graphs_plan
from tests.unit.edge_cases import (
    BOTH_ORDERS,
    MYTH_NS,
    PAIR,
    PAIR_CLIENT,
    PAIR_SERVER,
    RR,
    RS,
    SD,
    graph,
    half,
    key,
    myth,
    values,
)

FILTERED = ("service_graphs", "service_graphs_filtered")


def excluding(service: str, **settings: Any) -> dict[str, Any]:
    """Return the settings under which spans of a service take no part."""
    return {"filter_policies": [{"exclude": filter_block("strict", {"resource.service.name": service})}], **settings}


def including(service: str) -> dict[str, Any]:
    """Return the settings under which only spans of a service take part."""
    return {"filter_policies": [{"include": filter_block("strict", {"resource.service.name": service})}]}


@pytest.mark.parametrize(
    ("settings", "edges"),
    [
        (including("mythical-requester"), []),
        (including("mythical-server"), [SD]),
        (excluding("mythical-requester"), [SD]),
        (excluding("mythical-recorder"), [RS, SD]),
    ],
)
def test_filtered_side_takes_its_edge_along(
    implementation: Any, settings: dict[str, Any], edges: list[dict[str, str]]
) -> None:  # 52
    assert RR not in edges
    assert values(graph(implementation, settings, myth()), "total") == {key(edge): 1 for edge in edges}


@BOTH_ORDERS
@pytest.mark.parametrize("service", ["svc-a", "svc-b"])
def test_edge_with_a_filtered_side_is_dropped(implementation: Any, service: str, step: int) -> None:  # 58, 59
    tenant = graph(implementation, excluding(service), request(*[PAIR_CLIENT, PAIR_SERVER][::step]))
    assert tenant.collect().series == {}
    assert (tenant.dropped_edges, tenant.expired_edges) == (1, {})
    assert tenant.discarded == {FILTERED: 1}


def test_both_sides_filtered_drop_no_edge(implementation: Any) -> None:
    settings = {"filter_policies": [{"exclude": filter_block("regex", {"resource.service.name": "svc-"})}]}
    tenant = graph(implementation, settings, request(PAIR_CLIENT, PAIR_SERVER))
    assert (tenant.dropped_edges, tenant.edges, tenant.discarded) == (0, 0, {FILTERED: 2})


def test_filtered_root_server_leaves_no_marker(implementation: Any) -> None:  # 60
    root = half("svc-a", SERVER, "1")
    lone_client = half("svc-b", CLIENT, "", "", {"peer.service": "x"})
    tenant = graph(implementation, excluding("svc-a", max_items=0), request(root, lone_client))
    assert tenant.dropped_span_side_cache_overflow == tenant.dropped_edges == 0


def test_every_further_counterpart_of_a_marker_is_dropped(implementation: Any) -> None:
    again = [PAIR_SERVER, half("svc-b", CONSUMER, "b", "9")]
    tenant = graph(implementation, excluding("svc-a"), request(PAIR_CLIENT, *again))
    assert (tenant.dropped_edges, tenant.edges) == (2, 0)


def test_other_kinds_are_not_counted_as_filtered(implementation: Any) -> None:
    tenant = graph(implementation, excluding("svc-a"), request(half("svc-a", INTERNAL, "1"), half(None, CLIENT, "2")))
    assert tenant.discarded == {}


def test_marker_of_a_database_client_has_no_counterpart(implementation: Any) -> None:
    database = half("svc-a", CLIENT, "9", "", {"db.system": "pg"})
    tenant = graph(implementation, excluding("svc-b"), request(PAIR_SERVER, database))
    assert (tenant.dropped_edges, tenant.edges) == (1, 0)


class Markers:
    """Filtered clients of svc-a, and their servers, at times in seconds."""

    def __init__(self, implementation: Any, max_items: int) -> None:
        settings = service_graphs_plan(**excluding("svc-a", max_items=max_items))
        self.tenant = implementation(plan(service_graphs=settings))

    def filter(self, letter: str, at_s: float = 0) -> None:
        self._push(half("svc-a", CLIENT, letter), at_s)

    def is_dropped(self, letter: str, at_s: float = 0) -> bool:
        """Return whether a server is dropped as the counterpart of a filtered client."""
        before = self._dropped_edges(at_s)
        self._push(half("svc-b", SERVER, "s", letter), at_s)
        return bool(self._dropped_edges(at_s) > before)

    def _push(self, span: Any, at_s: float) -> None:
        self.tenant.push(request(span), MYTH_NS + round(at_s * SECOND_NS))

    def _dropped_edges(self, at_s: float) -> Any:
        self.tenant.flush(MYTH_NS + round(at_s * SECOND_NS))
        return self.tenant.dropped_edges


def test_marker_at_capacity_is_refreshed_and_a_new_one_overflows(implementation: Any) -> None:  # 80
    markers = Markers(implementation, max_items=2)
    markers.filter("1")
    markers.filter("2", 3)
    markers.filter("1", 5)
    markers.filter("3", 6)
    assert not markers.is_dropped("3", 7)
    assert markers.tenant.dropped_span_side_cache_overflow == 1
    assert markers.is_dropped("1", 14.9)
    assert not markers.is_dropped("2", 14.9)


@pytest.mark.parametrize(("late_s", "dropped"), [(-1e-9, True), (0, False)])
def test_marker_lives_for_the_wait(implementation: Any, late_s: float, dropped: bool) -> None:
    markers = Markers(implementation, max_items=2)
    markers.filter("1")
    assert markers.is_dropped("1", 10 + late_s) == dropped


def test_expired_markers_make_room(implementation: Any) -> None:
    markers = Markers(implementation, max_items=1)
    markers.filter("1")
    markers.filter("2", 10)
    assert markers.is_dropped("2", 11)
    assert markers.tenant.dropped_span_side_cache_overflow == 0


def test_filter_of_the_same_side_leaves_a_waiting_half(implementation: Any) -> None:
    named = {"filter_policies": [{"exclude": filter_block("strict", {"name": "noise"})}]}
    noise = half("svc-a", CLIENT, "9", name="noise")
    tenant = graph(implementation, named, request(PAIR_CLIENT, noise, PAIR_SERVER))
    assert values(tenant, "total") == {key(PAIR): 1}
    assert (tenant.dropped_edges, tenant.discarded) == (0, {FILTERED: 1})
