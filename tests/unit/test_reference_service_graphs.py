"""Service graphs: cases computed by hand, for the model and for the engine.

Numbers beside the tests are those of the conformance cases of processors §6.3; where a decision departs from
the reference (Q3, Q9, Q16) the case is the decision's.
"""

from typing import Any

import pytest

from tests.traces import (
    CLIENT,
    CONSUMER,
    ERROR,
    INTERNAL,
    PRODUCER,
    SECOND_NS,
    SERVER,
    plan,
    request,
    service_graphs_plan,
)
from tests.unit.edge_cases import (
    BOTH_ORDERS,
    MYTH_NS,
    MYTH_TRACE,
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


def test_mythical_trace_gives_three_edges_with_latencies(implementation: Any) -> None:  # 49
    settings = {
        "histogram_buckets": [0.04],
        "dimensions": ["beast", "god"],
        "enable_messaging_system_latency_histogram": True,
    }
    tenant = graph(implementation, settings, myth())
    rs = RS | {"beast": "manticore", "god": "zeus"}
    total, failed, client, client_sum, server, server_sum, messaging, messaging_count, messaging_sum = values(
        tenant,
        "total",
        "failed_total",
        "client_seconds_bucket",
        "client_seconds_sum",
        "server_seconds_bucket",
        "server_seconds_sum",
        "messaging_system_seconds_bucket",
        "messaging_system_seconds_count",
        "messaging_system_seconds_sum",
    )
    assert total == {key(rs): 1, key(SD): 1, key(RR): 1}
    assert failed == {}
    assert client[key(rs, le="0.04")] == 0
    assert client[key(rs, le="+Inf")] == 1
    assert client_sum == {key(rs): 0.045834496, key(SD): 0.023781376, key(RR): 0.000068864}
    assert server[key(rs, le="0.04")] == 1
    assert server_sum == {key(rs): 0.029986048, key(SD): 0.023781376, key(RR): 0.000699392}
    assert client[key(SD, le="0.04")] == server[key(SD, le="0.04")] == 1
    assert messaging == {key(RR, le="0.04"): 1, key(RR, le="+Inf"): 1}
    assert (messaging_count, messaging_sum) == ({key(RR): 1}, {key(RR): 0.0098816})
    assert tenant.edges == 7
    assert tenant.expired_edges == {"SPAN_KIND_CLIENT": 4}


def test_prefixed_dimensions_keep_both_sides(implementation: Any) -> None:  # 50
    settings = {"dimensions": ["beast", "god"], "enable_client_server_prefix": True}
    total = values(graph(implementation, settings, myth()), "total")
    sides = {
        "client_beast": "manticore",
        "server_beast": "manticore",
        "client_god": "ares",
        "server_god": "zeus",
    }
    assert total == {key(RS | sides): 1, key(SD): 1, key(RR): 1}


def test_failure_on_either_side_fails_the_edge(implementation: Any) -> None:  # 51
    total, failed = values(graph(implementation, {}, myth(status=ERROR)), "total", "failed_total")
    assert total == {key(RS): 1, key(SD): 1, key(RR): 1}
    assert failed == {key(RS): 1, key(SD): 1}


def test_full_edge_buffer_drops_spans(implementation: Any) -> None:  # 53
    # C is a database edge and B completes A; D is buffered in A's place, and E, P, F, G, Q find it full.
    tenant = graph(implementation, {"max_items": 1}, myth())
    assert tenant.dropped_spans == 5
    assert values(tenant, "total") == {key(RS): 1, key(SD): 1}


VIRTUAL = request(
    half("mythical-server", SERVER, "A", duration_ns=45834496),
    half(
        "mythical-requester",
        CLIENT,
        "B",
        "A",
        {"peer.service": "external-payments-platform"},
        duration_ns=705792,
    ),
    half("internal-consumer", CONSUMER, "C", "", {"peer.service": "external-producer"}, trace_id=b"\x01" * 16),
)


@pytest.mark.parametrize("labelled", [False, True])
def test_lone_halves_become_virtual_nodes(implementation: Any, labelled: bool) -> None:  # 54, 55
    settings = {"wait_s": 1e-9, "enable_virtual_node_label": labelled}
    tenant = graph(implementation, settings, VIRTUAL)
    expected = {
        ("user", "mythical-server", "client"): 1,
        ("mythical-requester", "external-payments-platform", "server"): 1,
        ("external-producer", "internal-consumer", "client"): 1,
    }
    total, failed = values(tenant, "total", "failed_total")
    assert total == {
        key(
            {"client": client, "server": server, "connection_type": "virtual_node"}
            | ({"virtual_node": side} if labelled else {})
        ): count
        for (client, server, side), count in expected.items()
    }
    assert failed == {}


def test_edges_and_expired_edges_are_counted(implementation: Any) -> None:  # 56
    tenant = graph(
        implementation,
        {},
        request(
            half("a", SERVER, "A"),
            half("a", CLIENT, "B", "A"),
            half("b", SERVER, "C", "B"),
            half("b", CLIENT, "D", "C", {"db.system": "mysql"}),
            half("b", SERVER, "E", "Z"),
        ),
    )
    assert tenant.edges == 4
    assert tenant.expired_edges == {"SPAN_KIND_SERVER": 1}
    assert tenant.dropped_spans == 0


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (CLIENT, "SPAN_KIND_CLIENT"),
        (SERVER, "SPAN_KIND_SERVER"),
        (PRODUCER, "SPAN_KIND_PRODUCER"),
        (CONSUMER, "SPAN_KIND_CONSUMER"),
    ],
)
def test_unpaired_half_expires_under_its_kind(implementation: Any, kind: int, text: str) -> None:  # 57
    tenant = graph(implementation, {}, request(half("a", kind, "A", "B")))
    assert tenant.expired_edges == {text: 1}
    assert tenant.collect().series == {}


ADDRESS = {"network.peer.address": "mythical-database"}
DATABASE_CASES: list[tuple[dict[str, Any], str]] = [
    ({"db.system": "postgresql", "server.address": "mythical-database"}, "mythical-database"),
    ({"db.name": "postgres", "peer.service": "mythical-database"}, "mythical-database"),
    ({"db.name": "postgres", **ADDRESS, "network.peer.port": 5432}, "mythical-database:5432"),
    ({"db.name": "postgres", **ADDRESS}, "mythical-database"),
    ({"db.namespace": "mydb", "db.system": "postgresql"}, "mydb"),
    ({"db.name": "postgres", "db.namespace": "priority-db"}, "priority-db"),
    ({"db.system.name": "postgresql"}, "postgresql"),
    ({"db.system": "mssql", "db.system.name": "microsoft.sql_server"}, "mssql"),
]


@pytest.mark.parametrize(("attributes", "server"), DATABASE_CASES)
def test_database_is_named_by_its_attributes(
    implementation: Any, attributes: dict[str, Any], server: str
) -> None:  # 61
    tenant = graph(implementation, {"histogram_buckets": [0.04]}, myth(database=attributes))
    edge = SD | {"server": server}
    total, client, server_side = values(tenant, "total", "client_seconds_bucket", "server_seconds_bucket")
    assert total == {key(RS): 1, key(edge): 1, key(RR): 1}
    assert client[key(edge, le="0.04")] == server_side[key(edge, le="0.04")] == 1


def test_database_name_attributes_are_configurable(implementation: Any) -> None:  # 62
    total = values(graph(implementation, {"database_name_attributes": ["db.system"]}, myth()), "total")
    assert total[key(SD | {"server": "postgresql"})] == 1


def test_prefix_and_virtual_node_label_on_paired_edges(implementation: Any) -> None:  # 63
    settings = {
        "dimensions": ["db.system", "messaging.system"],
        "enable_client_server_prefix": True,
        "enable_virtual_node_label": True,
    }
    total = values(graph(implementation, settings, myth()), "total")
    both = {"client_messaging_system": "rabbitmq", "server_messaging_system": "rabbitmq"}
    assert total == {key(RS): 1, key(SD, client_db_system="postgresql"): 1, key(RR | both): 1}


EXTERNAL = {"client": "svc-a", "server": "external-peer", "connection_type": "virtual_node"}
PEER = {"peer.service": "external-peer"}


@BOTH_ORDERS
def test_peer_of_a_paired_edge_is_not_used(implementation: Any, step: int) -> None:  # 66
    halves = [PAIR_CLIENT, half("svc-b", SERVER, "a", "9", PEER)]
    assert values(graph(implementation, {}, request(*halves[::step])), "total") == {key(PAIR): 1}


def test_database_with_empty_address_expires_towards_the_peer(implementation: Any) -> None:  # 67
    server = half("svc-b", SERVER, "a", "9", PEER)
    client = half("svc-a", CLIENT, "9", "", {"db.namespace": "database", "server.address": ""})
    tenant = graph(implementation, {}, request(server, client))
    assert values(tenant, "total") == {key(EXTERNAL): 1}
    assert tenant.expired_edges == {}


@pytest.mark.parametrize("attribute", ["db.system", "db.system.name"])
def test_without_database_attributes_the_peer_is_a_virtual_node(implementation: Any, attribute: str) -> None:  # 68
    client = half("svc-a", CLIENT, "9", "", {attribute: "postgresql"})
    tenant = graph(implementation, {"database_name_attributes": []}, request(client))
    assert values(tenant, "total") == {key(EXTERNAL | {"server": "postgresql"}): 1}


@BOTH_ORDERS
@pytest.mark.parametrize("kinds", [(CLIENT, SERVER), (PRODUCER, CONSUMER)])
def test_server_without_name_is_replaced_by_its_peer(
    implementation: Any, kinds: tuple[int, int], step: int
) -> None:  # 69
    halves = [half("svc-a", kinds[0], "9"), half("", kinds[1], "a", "9", PEER)]
    tenant = graph(implementation, {}, request(*halves[::step]))
    assert values(tenant, "total") == {key(EXTERNAL): 1}


@pytest.mark.parametrize(
    ("step", "edges", "expired"), [(1, 2, {"SPAN_KIND_SERVER": 1}), (-1, 1, {})], ids=["client", "server"]
)
def test_instrumented_database_keeps_its_attribute_name(
    implementation: Any, step: int, edges: int, expired: dict[str, int]
) -> None:  # 70
    client = half("svc-a", CLIENT, "9", "", {"db.system": "pg", "server.address": "dbhost"})
    tenant = graph(implementation, {}, request(*[client, PAIR_SERVER][::step]))
    edge = {"client": "svc-a", "server": "dbhost", "connection_type": "database"}
    assert values(tenant, "total") == {key(edge): 1}
    assert (tenant.edges, tenant.expired_edges) == (edges, expired)


@BOTH_ORDERS
def test_database_without_a_name_keeps_the_server_that_answered(implementation: Any, step: int) -> None:
    client = half("svc-a", CLIENT, "9", "", {"db.system": ""})
    tenant = graph(implementation, {}, request(*[client, PAIR_SERVER][::step]))
    assert values(tenant, "total") == {key(PAIR, connection_type="database"): 1}


@BOTH_ORDERS
@pytest.mark.parametrize(
    ("kinds", "connection_type"),
    [
        ((CLIENT, SERVER), {}),
        ((PRODUCER, SERVER), {"connection_type": "messaging_system"}),
        ((CLIENT, CONSUMER), {"connection_type": "messaging_system"}),
        ((PRODUCER, CONSUMER), {"connection_type": "messaging_system"}),
    ],
)
def test_either_half_makes_an_edge_messaging(
    implementation: Any, kinds: tuple[int, int], connection_type: dict[str, str], step: int
) -> None:  # 71 with Q9
    halves = [half("svc-a", kinds[0], "9"), half("svc-b", kinds[1], "a", "9")]
    tenant = graph(implementation, {}, request(*halves[::step]))
    assert values(tenant, "total") == {key(PAIR | connection_type): 1}


def test_database_wins_over_messaging(implementation: Any) -> None:
    producer = half("svc-a", PRODUCER, "9", "", {"db.system": "redis"})
    total = values(graph(implementation, {}, request(producer)), "total")
    assert total == {key({"client": "svc-a", "server": "redis", "connection_type": "database"}): 1}


def test_second_server_child_opens_another_edge(implementation: Any) -> None:  # 72
    tenant = graph(implementation, {}, request(PAIR_CLIENT, PAIR_SERVER, half("svc-c", SERVER, "b", "9")))
    assert values(tenant, "total") == {key(PAIR): 1}
    assert (tenant.edges, tenant.expired_edges) == (2, {"SPAN_KIND_SERVER": 1})


RESERVED = ["client", "server", "connection.type", "virtual_node"]


def test_dimension_named_like_a_label_of_edges_is_prefixed(implementation: Any) -> None:  # 73 with Q3
    absent = graph(implementation, {"dimensions": RESERVED}, request(PAIR_CLIENT, PAIR_SERVER))
    assert values(absent, "total") == {key(PAIR): 1}
    client = half("svc-a", CLIENT, "9", "", {name: name[0] for name in RESERVED})
    present = graph(implementation, {"dimensions": RESERVED}, request(client, PAIR_SERVER))
    prefixed = {"__client": "c", "__server": "s", "__connection_type": "c", "__virtual_node": "v"}
    assert values(present, "total") == {key(PAIR | prefixed): 1}


def test_attribute_named_virtual_node_fills_the_label(implementation: Any) -> None:
    halves = [half("svc-a", CLIENT, "9", "", {"virtual_node": "x"}), PAIR_SERVER]
    labelled = {"enable_virtual_node_label": True}
    one = graph(implementation, labelled, request(*halves))
    assert values(one, "total") == {key(PAIR, virtual_node="x"): 1}
    prefixed = graph(implementation, {**labelled, "enable_client_server_prefix": True}, request(*halves))
    assert values(prefixed, "total") == {key(PAIR): 1}


def test_every_label_value_of_an_edge_is_cut_to_the_limit(implementation: Any) -> None:
    settings = service_graphs_plan(enable_virtual_node_label=True)
    tenant = implementation(plan(service_graphs=settings, max_label_value_length=4))
    tenant.push(request(half("größe", SERVER, "A")), MYTH_NS)
    tenant.flush(MYTH_NS, close_edges=True)
    cut = {"client": "user", "server": "grö", "connection_type": "virt", "virtual_node": "clie"}
    assert values(tenant, "total") == {key(cut): 1}


@pytest.mark.parametrize(("step", "tier"), [(1, "back"), (-1, "front")])
def test_later_half_overwrites_a_dimension(implementation: Any, step: int, tier: str) -> None:
    halves = [
        half("svc-a", CLIENT, "9", "", {"tier": "front", "only.client": "x"}),
        half("svc-b", SERVER, "a", "9", {"tier": "back"}),
    ]
    tenant = graph(implementation, {"dimensions": ["tier", "only.client"]}, request(*halves[::step]))
    assert values(tenant, "total") == {key(PAIR, tier=tier, only_client="x"): 1}


def test_zero_parent_is_not_a_root(implementation: Any) -> None:  # 75
    tenant = graph(implementation, {}, request(half("svc-b", SERVER, "a", bytes(8))))
    assert tenant.expired_edges == {"SPAN_KIND_SERVER": 1}
    assert tenant.collect().series == {}


def test_virtual_edge_honours_failure_and_observes_the_missing_side_as_zero(
    implementation: Any,
) -> None:  # 76
    client = half("svc-a", CLIENT, "9", "", {"peer.service": "ext"}, duration_ns=SECOND_NS, status=ERROR)
    tenant = graph(implementation, {}, request(client))
    edge = key({"client": "svc-a", "server": "ext", "connection_type": "virtual_node"})
    metrics = ("total", "failed_total", "client_seconds_sum", "server_seconds_sum", "server_seconds_count")
    assert values(tenant, *metrics) == [{edge: 1}, {edge: 1}, {edge: 1.0}, {edge: 0}, {edge: 1}]


def test_edge_completed_at_once_bypasses_the_full_buffer(implementation: Any) -> None:  # 77
    spans = [
        half("svc-a", CLIENT, "A", "", {"peer.service": "x"}),
        half("svc-a", CLIENT, "B", "", {"peer.service": "y"}),
        half("svc-a", CLIENT, "C", "", {"db.name": "y"}),
    ]
    tenant = graph(implementation, {"max_items": 1}, request(*spans))
    virtual = {"client": "svc-a", "server": "x", "connection_type": "virtual_node"}
    database = {"client": "svc-a", "server": "y", "connection_type": "database"}
    assert values(tenant, "total") == {key(virtual): 1, key(database): 1}
    assert (tenant.dropped_spans, tenant.edges) == (1, 2)


@pytest.mark.parametrize(("gap_ns", "observed"), [(-1, 0), (0, 0), (1, 1)])
def test_messaging_latency_is_observed_only_if_positive(implementation: Any, gap_ns: int, observed: int) -> None:  # 78
    consumer = half("svc-b", CONSUMER, "a", "9", duration_ns=5, end_ns=MYTH_NS + gap_ns + 5)
    tenant = graph(
        implementation,
        {"enable_messaging_system_latency_histogram": True},
        request(half("svc-a", PRODUCER, "9"), consumer),
    )
    total, messaging = values(tenant, "total", "messaging_system_seconds_count")
    assert list(total.values()) == [1]
    assert list(messaging.values()) == [1] * observed


@pytest.mark.parametrize(("late_ns", "expired"), [(-1, {}), (0, {"SPAN_KIND_CLIENT": 1})])
def test_edge_expires_exactly_when_its_wait_is_over(implementation: Any, late_ns: int, expired: dict[str, int]) -> None:
    tenant = implementation(plan(service_graphs=service_graphs_plan(wait_s=1.001)))
    tenant.push(request(PAIR_CLIENT), MYTH_NS)
    tenant.flush(MYTH_NS + 1_001_000_000 + late_ns)
    assert tenant.expired_edges == expired


def test_closing_edges_expires_them_early(implementation: Any) -> None:
    tenant = implementation(plan(service_graphs=service_graphs_plan()))
    tenant.push(VIRTUAL, MYTH_NS)
    tenant.push(request(PAIR_CLIENT), MYTH_NS)
    tenant.flush(MYTH_NS, close_edges=True)
    assert tenant.expired_edges == {"SPAN_KIND_CLIENT": 1}
    assert len(values(tenant, "total")) == 3


def test_halves_of_later_requests_pair(implementation: Any) -> None:
    tenant = implementation(plan(service_graphs=service_graphs_plan()))
    tenant.push(request(PAIR_SERVER), MYTH_NS)
    tenant.flush(MYTH_NS)
    tenant.push(request(PAIR_CLIENT), MYTH_NS + SECOND_NS)
    tenant.flush(MYTH_NS + SECOND_NS)
    assert values(tenant, "total") == {key(PAIR): 1}
    assert (tenant.edges, tenant.expired_edges) == (1, {})


@pytest.mark.parametrize("service", [None, ""])
def test_resource_without_service_takes_no_part_and_an_empty_one_does(implementation: Any, service: str | None) -> None:
    tenant = graph(implementation, {}, request(half(service, SERVER, "A")))
    user = {"client": "user", "connection_type": "virtual_node"}
    assert values(tenant, "total") == ({} if service is None else {key(user): 1})


def test_other_kinds_take_no_part(implementation: Any) -> None:
    tenant = graph(implementation, {}, request(half("a", INTERNAL, "A"), half("a", 42, "B")))
    assert (tenant.edges, tenant.collect().series) == (0, {})


def test_exemplar_of_an_edge_is_its_trace(implementation: Any) -> None:
    settings = {"histogram_buckets": [], "enable_messaging_system_latency_histogram": True}
    tenant = graph(implementation, settings, request(PAIR_CLIENT, PAIR_SERVER, half("svc-c", SERVER, "C")))
    exemplars = tenant.collect().exemplars
    assert len(exemplars) == 4
    sent = {exemplar for of_series in exemplars.values() for exemplar in of_series}
    assert sent == {(MYTH_TRACE.hex(), 1e-9), (MYTH_TRACE.hex(), 0.0)}


def test_edge_with_a_label_that_is_not_utf8_is_lost(implementation: Any) -> None:
    settings = {"dimensions": ["tier"]}
    broken = half("svc-a", CLIENT, "9", "", {"tier": "\udcff"})
    lost = graph(implementation, settings, request(broken, PAIR_SERVER))
    assert lost.collect().series == {}
    assert (lost.invalid_edges, lost.expired_edges) == (1, {})
    mended = graph(implementation, settings, request(broken, half("svc-b", SERVER, "a", "9", {"tier": "back"})))
    assert values(mended, "total") == {key(PAIR, tier="back"): 1}
