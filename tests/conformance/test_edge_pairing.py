"""What two halves of an edge say together (processors §2.3, §2.7, §2.8, cases 66, 69 and 71 to 78)."""

from typing import Any

import pytest

from tests.conformance.case import Case, Classic, Difference, Labels, row
from tests.conformance.driver import check
from tests.conformance.fixtures import (
    CLIENT_SECONDS,
    EXTERNAL,
    FAILED,
    MYTH_NS,
    PAIR,
    PAIR_NS,
    SERVER_SECONDS,
    TOTAL,
    graphs_plan,
    half,
    pair_client,
    pair_server,
)
from tests.traces import CLIENT, CONSUMER, ERROR, PRODUCER, SECOND_NS, SERVER, request

PEER = {"peer.service": "external-peer"}
MESSAGING = PAIR | {"connection_type": "messaging_system"}
RATIO: dict[str, Any] = {"span_multiplier_key": "ratio"}
HALF_SAMPLED = {"ratio": 0.5}
ZERO_PARENT = bytes(8)
NO_BUCKETS: dict[str, Any] = {"histogram_buckets": []}


def pair_case(
    *halves: Any,
    total: list[tuple[Labels, float]],
    edges: int = 1,
    expired: dict[str, int] | None = None,
    **settings: Any,
) -> Case:
    """Expect of halves in this order of arrival, after their time, these edges."""
    return Case(
        plan=graphs_plan(**settings),
        pushes=[request(one) for one in halves],
        now_ns=PAIR_NS,
        sweep=True,
        expected={TOTAL: total},
        nothing_else=not total,
        expired=expired or {},
        counters={"edges": edges, "dropped_spans": 0, "dropped_edges": 0},
    )


def peer_case(*halves: Any) -> Case:
    """Expect the edge of F-PAIR and not one series that has another label."""
    one_ns = Classic({"+Inf": 1}, sum=1e-9)
    return Case(
        plan=graphs_plan(**NO_BUCKETS),
        pushes=[request(*halves)],
        now_ns=PAIR_NS,
        sweep=True,
        expected={TOTAL: [(PAIR, 1)], CLIENT_SECONDS: [(PAIR, one_ns)], SERVER_SECONDS: [(PAIR, one_ns)]},
        nothing_else=True,
        counters={"edges": 1},
    )


def nameless(kind: int) -> Any:
    """Return a server half whose service has an empty name and which knows a peer."""
    return pair_server(PEER, service="", kind=kind)


EITHER_SIDE = Difference(
    "Q9",
    "in the contract the half that arrives last decides, so this order gives no type; here an edge is messaging if "
    "either half is, in whatever order they arrive",
)
GREATER = Difference(
    "Q9",
    "in the contract the half that arrives last decides, which gives 1 here; the edge counts with the greater weight "
    "of its halves, in whatever order they arrive",
)
PREFIXED = Difference(
    "Q3", "in the contract the absent dimension deletes the label client; here its label is __client and client stays"
)

PAIRS = [
    row("66a", "peer of a paired edge, client first", peer_case(pair_client(), pair_server(PEER))),
    row("66b", "peer of a paired edge, server first", peer_case(pair_server(PEER), pair_client())),
    row(
        "69a",
        "server without name, last",
        pair_case(pair_client(), nameless(SERVER), total=[(EXTERNAL, 1)]),
    ),
    row(
        "69b",
        "server without name, first",
        pair_case(nameless(SERVER), pair_client(), total=[(EXTERNAL, 1)]),
    ),
    row(
        "69c",
        "consumer without name, last",
        pair_case(pair_client(kind=PRODUCER), nameless(CONSUMER), total=[(EXTERNAL, 1)]),
    ),
    row(
        "69d",
        "consumer without name, first",
        pair_case(nameless(CONSUMER), pair_client(kind=PRODUCER), total=[(EXTERNAL, 1)]),
    ),
    row(
        "71a",
        "PRODUCER then SERVER",
        pair_case(pair_client(kind=PRODUCER), pair_server(), total=[(MESSAGING, 1)]),
        differs=EITHER_SIDE,
    ),
    row(
        "71b",
        "SERVER then PRODUCER",
        pair_case(pair_server(), pair_client(kind=PRODUCER), total=[(MESSAGING, 1)]),
    ),
    row(
        "71c",
        "CLIENT then CONSUMER",
        pair_case(pair_client(), pair_server(kind=CONSUMER), total=[(MESSAGING, 1)]),
    ),
    row(
        "72a",
        "two server children",
        pair_case(
            pair_client(),
            pair_server(),
            pair_server(service="svc-c", own=b"\x0b"),
            total=[(PAIR, 1)],
            edges=2,
            expired={"SPAN_KIND_SERVER": 1},
        ),
    ),
    row(
        "72b",
        "two server children, both counted",
        pair_case(
            pair_client(),
            pair_server(),
            pair_server(service="svc-c", own=b"\x0b"),
            total=[(PAIR, 1), (PAIR | {"server": "svc-c"}, 1)],
            edges=2,
            count_every_receiver=True,
        ),
        differs=Difference(
            "Q13", "behind a switch that is off by default, a client half completes an edge with every server half"
        ),
    ),
    row(
        "73",
        "absent dimension named client",
        pair_case(pair_client(), pair_server(), total=[(PAIR, 1)], dimensions=["client"]),
        differs=PREFIXED,
    ),
    row(
        "74a",
        "ratio on the client, server second",
        pair_case(pair_client(HALF_SAMPLED), pair_server(), total=[(PAIR, 2)], **RATIO),
        differs=GREATER,
    ),
    row(
        "74b",
        "ratio on the client, client second",
        pair_case(pair_server(), pair_client(HALF_SAMPLED), total=[(PAIR, 2)], **RATIO),
    ),
    row(
        "75a",
        "server whose parent is eight zero bytes",
        pair_case(pair_server(parent=ZERO_PARENT), total=[], expired={"SPAN_KIND_SERVER": 1}),
    ),
    row(
        "75b",
        "server whose parent is eight zero bytes, taken as none",
        pair_case(
            pair_server(parent=ZERO_PARENT),
            total=[({"client": "user", "server": "svc-b", "connection_type": "virtual_node"}, 1)],
            zero_parent_id_is_root=True,
        ),
        differs=Difference("Q15", "behind a switch that is off by default, an all-zero parent is no parent"),
    ),
]


@pytest.mark.parametrize("case", PAIRS)
def test_edge_of_halves(case: Case) -> None:
    check(case)


def lone_client_case(*, has_server_side: bool) -> Case:
    """Expect the virtual edge of a failed client, with or without an observation of the side that is not there."""
    edge = {"client": "svc-a", "server": "ext", "connection_type": "virtual_node"}
    client = half("svc-a", CLIENT, "A", "", {"peer.service": "ext"}, duration_ns=3 * SECOND_NS, status=ERROR)
    return Case(
        plan=graphs_plan(**NO_BUCKETS, enable_virtual_node_latency=has_server_side),
        pushes=[request(client)],
        now_ns=MYTH_NS,
        sweep=True,
        expected={
            TOTAL: [(edge, 1)],
            FAILED: [(edge, 1)],
            CLIENT_SECONDS: [(edge, Classic({"+Inf": 1}, sum=3))],
            SERVER_SECONDS: [(edge, Classic({"+Inf": 1}, sum=0))] if has_server_side else [],
        },
        nothing_else=True,
        counters={"edges": 1},
    )


def overtaken_case(gap_ns: int) -> Case:
    """Expect no messaging latency of a consumer that starts so long after its producer's end."""
    one_ns = Classic({"+Inf": 1}, sum=1e-9)
    consumer_end_ns = MYTH_NS + gap_ns + 1
    return Case(
        plan=graphs_plan(**NO_BUCKETS, enable_messaging_system_latency_histogram=True),
        pushes=[request(half("svc-a", PRODUCER, "A"), half("svc-b", CONSUMER, "B", "A", end_ns=consumer_end_ns))],
        now_ns=MYTH_NS,
        expected={
            TOTAL: [(MESSAGING, 1)],
            CLIENT_SECONDS: [(MESSAGING, one_ns)],
            SERVER_SECONDS: [(MESSAGING, one_ns)],
        },
        nothing_else=True,
    )


OTHERS = [
    row("76a", "failed virtual edge", lone_client_case(has_server_side=True)),
    row(
        "76b",
        "failed virtual edge, without the side that is not there",
        lone_client_case(has_server_side=False),
        differs=Difference(
            "Q14", "the contract observes 0 for the side that sent no span; a switch that is on by default turns it off"
        ),
    ),
    row(
        "77",
        "database edge while the buffer is full",
        Case(
            plan=graphs_plan(max_items=1),
            pushes=[
                request(
                    half("svc-a", CLIENT, "A", "", {"peer.service": "x"}),
                    half("svc-a", CLIENT, "B", "", {"peer.service": "y"}),
                    half("svc-a", CLIENT, "C", "", {"db.name": "y"}),
                )
            ],
            now_ns=MYTH_NS,
            sweep=True,
            expected={
                TOTAL: [
                    ({"client": "svc-a", "server": "x", "connection_type": "virtual_node"}, 1),
                    ({"client": "svc-a", "server": "y", "connection_type": "database"}, 1),
                ]
            },
            counters={"dropped_spans": 1, "edges": 2},
        ),
    ),
    row("78a", "consumer starts one nanosecond before its producer's end", overtaken_case(-1)),
    row("78b", "consumer starts at its producer's end", overtaken_case(0)),
]


@pytest.mark.parametrize("case", OTHERS)
def test_values_of_an_edge(case: Case) -> None:
    check(case)
