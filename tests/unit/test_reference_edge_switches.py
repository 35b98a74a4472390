"""Switches of service graphs that depart from the reference: cases computed by hand, for the model and for the engine.

They are the decisions Q2, Q3 and Q12 to Q17 of processors §7.
"""

from typing import Any

import pytest

from tests.traces import CLIENT, CONSUMER, ERROR, PRODUCER, SECOND_NS, SERVER, plan, request, service_graphs_plan
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

DATABASE_CLIENT = half("svc-a", CLIENT, "9", "", {"db.system": "pg", "server.address": "dbhost"}, duration_ns=7)
TO_SERVICE = PAIR | {"connection_type": "database"}
TO_HOST = {"client": "svc-a", "server": "dbhost", "connection_type": "database"}
PAIRED = {"pair_database_spans": True}
SUMS = ("client_seconds_sum", "server_seconds_sum")


@pytest.mark.parametrize(("enabled", "count"), [({"connection_info": True}, 3), ({}, 0)])
def test_connection_info_is_one_for_every_edge(implementation: Any, enabled: dict[str, Any], count: int) -> None:  # 65
    tenant = graph(implementation, {"request": False, "latency": False, **enabled}, myth())
    name = ("__name__", "traces_service_graph_connection_info")
    assert tenant.collect().series == {key(edge) | {name}: 1 for edge in (RS, SD, RR)[:count]}


def test_connection_info_of_virtual_edges(implementation: Any) -> None:
    settings = {"request": False, "latency": False, "connection_info": True}
    tenant = graph(implementation, settings, request(half("svc-b", SERVER, "a")))
    assert list(tenant.collect().series.values()) == [1]


@BOTH_ORDERS
def test_instrumented_database_is_one_edge_to_its_service(implementation: Any, step: int) -> None:  # 70 with Q12
    tenant = graph(implementation, PAIRED, request(*[DATABASE_CLIENT, PAIR_SERVER][::step]))
    total, client, server = values(tenant, "total", *SUMS)
    assert total == {key(TO_SERVICE): 1}
    assert (client, server) == ({key(TO_SERVICE): 7e-9}, {key(TO_SERVICE): 1e-9})
    assert (tenant.edges, tenant.expired_edges) == (1, {})


def test_database_without_spans_is_an_edge_when_it_expires(implementation: Any) -> None:
    settings = service_graphs_plan(**PAIRED, enable_virtual_node_label=True)
    tenant = implementation(plan(service_graphs=settings))
    tenant.push(request(DATABASE_CLIENT), MYTH_NS)
    tenant.flush(MYTH_NS + 10 * SECOND_NS - 1)
    assert tenant.collect().series == {}
    tenant.flush(MYTH_NS + 10 * SECOND_NS)
    total, client, server = values(tenant, "total", *SUMS)
    assert total == {key(TO_HOST): 1}
    assert client == server == {key(TO_HOST): 7e-9}
    assert tenant.edges == 1


def test_database_that_waits_finds_the_buffer_full(implementation: Any) -> None:
    tenant = graph(implementation, {**PAIRED, "max_items": 0}, request(DATABASE_CLIENT))
    assert (tenant.dropped_spans, tenant.edges, tenant.collect().series) == (1, 0, {})


def test_database_without_name_expires_towards_its_peer(implementation: Any) -> None:
    attributes = {"db.namespace": "n", "server.address": "", "db.name": "peer"}
    tenant = graph(implementation, PAIRED, request(half("svc-a", CLIENT, "9", "", attributes, duration_ns=7)))
    virtual = {"client": "svc-a", "server": "peer", "connection_type": "virtual_node"}
    assert values(tenant, "total", *SUMS) == [{key(virtual): 1}, {key(virtual): 7e-9}, {key(virtual): 7e-9}]


def test_database_keeps_its_name_when_a_later_client_span_has_none(implementation: Any) -> None:
    nameless = half("svc-a", CLIENT, "9", "", {"db.system": ""}, duration_ns=5)
    tenant = graph(implementation, PAIRED, request(DATABASE_CLIENT, nameless))
    assert values(tenant, "total", *SUMS) == [{key(TO_HOST): 1}, {key(TO_HOST): 5e-9}, {key(TO_HOST): 5e-9}]
    assert tenant.expired_edges == {}


EVERY = {"count_every_receiver": True}
PRODUCED = half("svc-a", PRODUCER, "9", duration_ns=5)
TO_B = PAIR | {"connection_type": "messaging_system"}
TO_C = TO_B | {"server": "svc-c"}


def test_every_receiver_of_a_message_is_an_edge(implementation: Any) -> None:  # 72 with Q13
    receivers = [
        half("svc-b", CONSUMER, "b", "9"),
        half("svc-c", CONSUMER, "c", "9"),
        half("svc-c", CONSUMER, "d", "9"),
    ]
    tenant = graph(implementation, EVERY, request(PRODUCED, *receivers))
    total, client = values(tenant, "total", "client_seconds_sum")
    assert total == {key(TO_B): 1, key(TO_C): 2}
    assert client == {key(TO_B): 5e-9, key(TO_C): 10e-9}
    assert (tenant.edges, tenant.expired_edges) == (3, {})


def test_receiver_before_the_producer_opens_the_edge_for_others(implementation: Any) -> None:
    receivers = half("svc-b", CONSUMER, "b", "9"), half("svc-c", CONSUMER, "c", "9")
    tenant = graph(implementation, EVERY, request(receivers[0], PRODUCED, receivers[1]))
    assert values(tenant, "total") == {key(TO_B): 1, key(TO_C): 1}
    assert (tenant.edges, tenant.expired_edges) == (2, {})


def test_receiver_without_a_name_waits_beside_the_client_half_that_others_answer(implementation: Any) -> None:
    early = half("svc-b", CONSUMER, "b", "9"), half("", CONSUMER, "c", "9")
    tenant = graph(implementation, EVERY, request(*early, PRODUCED, half("svc-c", CONSUMER, "d", "9")))
    # The last one names the edge of the nameless one, too.
    assert values(tenant, "total") == {key(TO_B): 1, key(TO_C): 2}
    assert (tenant.edges, tenant.expired_edges) == (3, {})


def test_receivers_do_not_inherit_from_each_other(implementation: Any) -> None:
    settings = {**EVERY, "dimensions": ["tier"]}
    receivers = [half("svc-b", CONSUMER, "b", "9", {"tier": "x"}, status=ERROR), half("svc-c", CONSUMER, "c", "9")]
    tenant = graph(implementation, settings, request(PRODUCED, *receivers))
    total, failed = values(tenant, "total", "failed_total")
    assert total == {key(TO_B, tier="x"): 1, key(TO_C): 1}
    assert failed == {key(TO_B, tier="x"): 1}


def test_receivers_before_their_producer_wait_one_by_one(implementation: Any) -> None:
    receivers = [
        half("svc-b", CONSUMER, "b", "9"),
        half("svc-c", CONSUMER, "c", "9"),
        half("svc-d", CONSUMER, "d", "8"),
    ]
    tenant = graph(implementation, EVERY, request(*receivers, PRODUCED))
    assert values(tenant, "total") == {key(TO_B): 1, key(TO_C): 1}
    assert (tenant.edges, tenant.expired_edges) == (3, {"SPAN_KIND_CONSUMER": 1})


def test_latest_of_two_producers_stays_for_further_receivers(implementation: Any) -> None:
    producers = [half("svc-a", PRODUCER, "9", duration_ns=1, status=ERROR), PRODUCED]
    receivers = [half("svc-b", CONSUMER, "b", "9"), half("svc-c", CONSUMER, "c", "9")]
    tenant = graph(implementation, EVERY, request(*producers, *receivers))
    assert values(tenant, "total", "failed_total") == [{key(TO_B): 1, key(TO_C): 1}, {key(TO_B): 1}]


@pytest.mark.parametrize(("late_ns", "expired"), [(-1, {}), (0, {"SPAN_KIND_CONSUMER": 1})])
def test_receivers_are_awaited_as_long_as_any_half(implementation: Any, late_ns: int, expired: dict[str, int]) -> None:
    tenant = implementation(plan(service_graphs=service_graphs_plan(**EVERY)))
    tenant.push(request(PRODUCED, half("svc-b", CONSUMER, "b", "9")), MYTH_NS)
    late_ns += MYTH_NS + 10 * SECOND_NS
    tenant.flush(late_ns)
    tenant.push(request(half("svc-c", CONSUMER, "c", "9")), late_ns)
    tenant.flush(late_ns, close_edges=True)
    assert tenant.expired_edges == expired
    assert tenant.edges == 2


@pytest.mark.parametrize(("observed", "metrics"), [(True, {"client", "server"}), (False, {"server"})])
def test_latency_of_a_virtual_client(implementation: Any, observed: bool, metrics: set[str]) -> None:  # 76 with Q14
    settings = {"enable_virtual_node_latency": observed}
    root = half("svc-b", SERVER, "a", duration_ns=3)
    assert _observed(graph(implementation, settings, request(root))) == metrics


@pytest.mark.parametrize(("observed", "metrics"), [(True, {"client", "server"}), (False, {"client"})])
def test_latency_of_a_virtual_server(implementation: Any, observed: bool, metrics: set[str]) -> None:
    settings = {"enable_virtual_node_latency": observed}
    lone = half("svc-a", CLIENT, "9", "", {"peer.service": "x"})
    assert _observed(graph(implementation, settings, request(lone))) == metrics


def test_paired_edges_keep_both_latencies(implementation: Any) -> None:
    tenant = graph(implementation, {"enable_virtual_node_latency": False}, request(PAIR_CLIENT, PAIR_SERVER))
    assert _observed(tenant) == {"client", "server"}


def _observed(tenant: Any) -> set[str]:
    client, server = values(tenant, "client_seconds_count", "server_seconds_count")
    return {side for side, series in (("client", client), ("server", server)) if series}


def test_zero_parent_is_a_root_if_wanted(implementation: Any) -> None:  # 75 with Q15
    servers = [half("svc-b", SERVER, "a", bytes(8)), half("svc-c", SERVER, "b", b"", trace_id=b"\x01" * 16)]
    tenant = graph(implementation, {"zero_parent_id_is_root": True}, request(*servers))
    assert {dict(series)["server"] for series in values(tenant, "total")} == {"svc-b", "svc-c"}
    assert tenant.expired_edges == {}


def test_due_edges_make_room_before_a_span_is_refused(implementation: Any) -> None:  # Q17
    tenant = implementation(plan(service_graphs=service_graphs_plan(max_items=1)))
    tenant.push(request(half("svc-a", CLIENT, "1")), MYTH_NS)
    tenant.push(request(half("svc-a", CLIENT, "2")), MYTH_NS + 10 * SECOND_NS - 1)
    tenant.push(request(half("svc-a", CLIENT, "3")), MYTH_NS + 10 * SECOND_NS)
    tenant.flush(MYTH_NS + 10 * SECOND_NS)
    assert (tenant.dropped_spans, tenant.edges, tenant.expired_edges) == (1, 2, {"SPAN_KIND_CLIENT": 1})


@pytest.mark.parametrize(("kept", "labels"), [(False, {}), (True, {"a_b": "first"})])
def test_colliding_dimensions_of_edges(implementation: Any, kept: bool, labels: dict[str, str]) -> None:  # Q2
    settings = {"dimensions": ["a.b", "a_b"], "keep_colliding_dimensions": kept}
    client = half("svc-a", CLIENT, "9", "", {"a.b": "first"})
    assert values(graph(implementation, settings, request(client, PAIR_SERVER)), "total") == {key(PAIR | labels): 1}
