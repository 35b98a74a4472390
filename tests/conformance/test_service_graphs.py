"""Service graphs: the edges of whole traces and of lone halves (processors §2, cases 49 to 51, 53 to 57, 63 to 65)."""

from typing import Any

import pytest

from tests.conformance.case import Case, Classic, row
from tests.conformance.driver import check
from tests.conformance.fixtures import (
    CLIENT_SECONDS,
    CONNECTION_INFO,
    FAILED,
    MESSAGING_SECONDS,
    MYTH_NS,
    REQUESTER,
    RR,
    RS,
    SD,
    SERVER_SECONDS,
    TOTAL,
    graphs_plan,
    half,
    myth,
    virtual,
)
from tests.traces import CLIENT, CONSUMER, ERROR, PRODUCER, SERVER, request

BEASTS = {"dimensions": ["beast", "god"]}
MYTH_EDGES = {"edges": 7, "dropped_spans": 0, "dropped_edges": 0}
RS_BEASTS = RS | {"beast": "manticore", "god": "zeus"}
RS_SIDES = RS | {
    "client_beast": "manticore",
    "server_beast": "manticore",
    "client_god": "ares",
    "server_god": "zeus",
}
RABBIT_SIDES = {"client_messaging_system": "rabbitmq", "server_messaging_system": "rabbitmq"}
RATIO = {"span_multiplier_key": "ratio"}


def myth_case(settings: dict[str, Any], one: Any, **expected: Any) -> Case:
    """Expect something of F-MYTH; its unmatched halves go on waiting."""
    return Case(plan=graphs_plan(**settings), pushes=[one], now_ns=MYTH_NS, counters=MYTH_EDGES, **expected)


MYTH = [
    row(
        "49",
        "three edges with their latencies",
        myth_case(
            BEASTS | {"histogram_buckets": [0.04], "enable_messaging_system_latency_histogram": True},
            myth(),
            expected={
                TOTAL: [(RS_BEASTS, 1), (SD, 1), (RR, 1)],
                CLIENT_SECONDS: [
                    (RS_BEASTS, Classic({"0.04": 0, "+Inf": 1}, sum=0.045834496)),
                    (SD, Classic({"0.04": 1, "+Inf": 1}, sum=0.023781376)),
                    (RR, Classic({"0.04": 1, "+Inf": 1}, sum=0.000068864)),
                ],
                SERVER_SECONDS: [
                    (RS_BEASTS, Classic({"0.04": 1, "+Inf": 1}, sum=0.029986048)),
                    (SD, Classic({"0.04": 1, "+Inf": 1}, sum=0.023781376)),
                    (RR, Classic({"0.04": 1, "+Inf": 1}, sum=0.000699392)),
                ],
                MESSAGING_SECONDS: [(RR, Classic({"0.04": 1, "+Inf": 1}, sum=0.0098816))],
            },
            nothing_else=True,
        ),
    ),
    row(
        "50",
        "dimensions of either side",
        myth_case(
            BEASTS | {"enable_client_server_prefix": True},
            myth(),
            expected={TOTAL: [(RS_SIDES, 1), (SD, 1), (RR, 1)]},
        ),
    ),
    row(
        "51",
        "failed edges",
        myth_case(
            {},
            myth(status=ERROR),
            expected={TOTAL: [(RS, 1), (SD, 1), (RR, 1)], FAILED: [(RS, 1), (SD, 1)]},
        ),
    ),
    row(
        "63",
        "prefix and virtual_node label on paired edges",
        myth_case(
            {
                "dimensions": ["db.system", "messaging.system"],
                "enable_client_server_prefix": True,
                "enable_virtual_node_label": True,
            },
            myth(),
            expected={TOTAL: [(RS, 1), (SD | {"client_db_system": "postgresql"}, 1), (RR | RABBIT_SIDES, 1)]},
        ),
    ),
    row(
        "64a",
        "connection_info",
        myth_case(
            {"connection_info": True},
            myth(),
            expected={CONNECTION_INFO: [(RS, 1), (SD, 1), (RR, 1)], TOTAL: [(RS, 1), (SD, 1), (RR, 1)]},
        ),
    ),
    row(
        "64b",
        "connection_info is not multiplied",
        myth_case(
            RATIO | {"connection_info": True},
            myth(everywhere={"ratio": 0.5}),
            expected={CONNECTION_INFO: [(RS, 1), (SD, 1), (RR, 1)], TOTAL: [(RS, 2), (SD, 2), (RR, 2)]},
        ),
    ),
    row(
        "65",
        "nothing but connection_info",
        myth_case(
            {"request": False, "latency": False, "connection_info": True},
            myth(),
            expected={CONNECTION_INFO: [(RS, 1), (SD, 1), (RR, 1)]},
            nothing_else=True,
        ),
    ),
]


@pytest.mark.parametrize("case", MYTH)
def test_edges_of_a_trace(case: Case) -> None:
    check(case)


def virtual_case(*sides: dict[str, str], **settings: Any) -> Case:
    """Expect of F-VIRT its three edges, with these labels besides their own."""
    edges = [
        {"client": "user", "server": "mythical-server"},
        {"client": REQUESTER, "server": "external-payments-platform"},
        {"client": "external-producer", "server": "internal-consumer"},
    ]
    kind = {"connection_type": "virtual_node"}
    return Case(
        plan=graphs_plan(wait_s=1e-9, **settings),
        pushes=[virtual()],
        now_ns=MYTH_NS,
        sweep=True,
        expected={
            TOTAL: [(edge | kind | side, 1) for edge, side in zip(edges, sides, strict=True)],
            FAILED: [],
        },
    )


LONE = [
    row(
        "53",
        "spans that find the buffer full are counted as dropped",
        # C is a database edge and B completes A; D takes A's place, and E, P, F, G and Q find it taken.
        Case(
            plan=graphs_plan(max_items=1),
            pushes=[myth()],
            now_ns=MYTH_NS,
            expected={TOTAL: [(RS, 1), (SD, 1)]},
            counters={"dropped_spans": 5, "edges": 3},
        ),
    ),
    row("54", "virtual nodes", virtual_case({}, {}, {})),
    row(
        "55",
        "virtual nodes with their label",
        virtual_case(
            {"virtual_node": "client"},
            {"virtual_node": "server"},
            {"virtual_node": "client"},
            enable_virtual_node_label=True,
        ),
    ),
    row(
        "56",
        "all kinds of edges",
        Case(
            plan=graphs_plan(),
            pushes=[
                request(
                    half("a", SERVER, "A"),
                    half("a", CLIENT, "B", "A"),
                    half("b", SERVER, "C", "B"),
                    half("b", CLIENT, "D", "C", {"db.system": "mysql"}),
                    half("b", SERVER, "E", "Z"),
                )
            ],
            now_ns=MYTH_NS,
            sweep=True,
            expected={
                TOTAL: [
                    ({"client": "user", "server": "a", "connection_type": "virtual_node"}, 1),
                    ({"client": "a", "server": "b"}, 1),
                    ({"client": "b", "server": "mysql", "connection_type": "database"}, 1),
                ]
            },
            expired={"SPAN_KIND_SERVER": 1},
            counters={"edges": 4, "dropped_spans": 0},
        ),
    ),
    row(
        "57",
        "an unmatched span of each kind",
        Case(
            plan=graphs_plan(),
            pushes=[
                request(
                    half("a", CLIENT, "A"),
                    half("a", SERVER, "B", "X"),
                    half("a", PRODUCER, "C"),
                    half("a", CONSUMER, "D", "Y"),
                )
            ],
            now_ns=MYTH_NS,
            sweep=True,
            expected={},
            nothing_else=True,
            expired={f"SPAN_KIND_{kind}": 1 for kind in ("CLIENT", "SERVER", "PRODUCER", "CONSUMER")},
            counters={"edges": 4},
        ),
    ),
]


@pytest.mark.parametrize("case", LONE)
def test_lone_halves(case: Case) -> None:
    check(case)
