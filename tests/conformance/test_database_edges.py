"""Edges to databases, which send no spans of their own (processors §2.6, cases 61, 62, 67, 68 and 70)."""

from typing import Any

import pytest

from tests.conformance.case import Case, Classic, Difference, Labels, row
from tests.conformance.driver import check
from tests.conformance.fixtures import (
    CLIENT_SECONDS,
    EXTERNAL,
    MYTH_NS,
    PAIR_NS,
    POSTGRES,
    RR,
    RS,
    SD,
    SERVER_SECONDS,
    TOTAL,
    graphs_plan,
    myth,
    pair_client,
    pair_server,
)
from tests.traces import request


def myth_case(attributes: dict[str, Any], server: str, **settings: Any) -> Case:
    """Expect of F-MYTH, with these attributes on its database client, the name of the database."""
    edge = SD | {"server": server}
    return Case(
        plan=graphs_plan(histogram_buckets=[0.04], **settings),
        pushes=[myth(attributes)],
        now_ns=MYTH_NS,
        expected={
            TOTAL: [(RS, 1), (edge, 1), (RR, 1)],
            CLIENT_SECONDS: [
                (RS, Classic({"0.04": 0, "+Inf": 1}, sum=0.045834496)),
                (edge, Classic({"0.04": 1, "+Inf": 1}, sum=0.023781376)),
                (RR, Classic({"0.04": 1, "+Inf": 1}, sum=0.000068864)),
            ],
            SERVER_SECONDS: [
                (RS, Classic({"0.04": 1, "+Inf": 1}, sum=0.029986048)),
                (edge, Classic({"0.04": 1, "+Inf": 1}, sum=0.023781376)),
                (RR, Classic({"0.04": 1, "+Inf": 1}, sum=0.000699392)),
            ],
        },
        nothing_else=True,
        counters={"edges": 7},
    )


ADDRESS = {"network.peer.address": "mythical-database"}
NAMES = [
    row(
        "61a",
        "server.address",
        myth_case({"db.system": "postgresql", "server.address": "mythical-database"}, "mythical-database"),
    ),
    row(
        "61b",
        "peer.service",
        myth_case({"db.name": "postgres", "peer.service": "mythical-database"}, "mythical-database"),
    ),
    row(
        "61c",
        "network.peer.address and port",
        myth_case({"db.name": "postgres", **ADDRESS, "network.peer.port": 5432}, "mythical-database:5432"),
    ),
    row("61d", "network.peer.address", myth_case({"db.name": "postgres", **ADDRESS}, "mythical-database")),
    row("61e", "db.namespace", myth_case({"db.namespace": "mydb", "db.system": "postgresql"}, "mydb")),
    row(
        "61f",
        "db.namespace before db.name",
        myth_case({"db.name": "postgres", "db.namespace": "priority-db"}, "priority-db"),
    ),
    row("61g", "db.system.name", myth_case({"db.system.name": "postgresql"}, "postgresql")),
    row(
        "61h",
        "db.system before db.system.name",
        myth_case({"db.system": "mssql", "db.system.name": "microsoft.sql_server"}, "mssql"),
    ),
    row(
        "62",
        "other attributes by configuration",
        myth_case(POSTGRES, "postgresql", database_name_attributes=["db.system"]),
    ),
]


@pytest.mark.parametrize("case", NAMES)
def test_database_is_named_by_attributes(case: Case) -> None:
    check(case)


def pair_case(
    *halves: Any, total: Labels, edges: int = 1, expired: dict[str, int] | None = None, **settings: Any
) -> Case:
    """Expect of halves in this order of arrival, after their time, one edge."""
    return Case(
        plan=graphs_plan(**settings),
        pushes=[request(one) for one in halves],
        now_ns=PAIR_NS,
        sweep=True,
        expected={TOTAL: [(total, 1)]},
        expired=expired or {},
        counters={"edges": edges, "dropped_spans": 0, "dropped_edges": 0},
    )


PEER = {"peer.service": "external-peer"}
EMPTY_ADDRESS = {"db.namespace": "database", "server.address": ""}
DBHOST = {"db.system": "pg", "server.address": "dbhost"}
TO_DBHOST = {"client": "svc-a", "server": "dbhost", "connection_type": "database"}
TO_SERVICE = TO_DBHOST | {"server": "svc-b"}
NO_DATABASES: dict[str, Any] = {"database_name_attributes": []}
PAIRED: dict[str, Any] = {"pair_database_spans": True}
INSTRUMENTED = Difference(
    "Q12",
    "behind a switch that is off by default, the client of a database waits for the database's own span, and the edge "
    "leads to that service in whatever order they arrive",
)

HALVES = [
    row(
        "67",
        "empty address, and the peer that the server half knows",
        pair_case(pair_server(PEER), pair_client(EMPTY_ADDRESS), total=EXTERNAL),
    ),
    row(
        "68a",
        "db.system without database attributes",
        pair_case(pair_client({"db.system": "postgresql"}), total=EXTERNAL | {"server": "postgresql"}, **NO_DATABASES),
    ),
    row(
        "68b",
        "db.system.name without database attributes",
        pair_case(
            pair_client({"db.system.name": "postgresql"}), total=EXTERNAL | {"server": "postgresql"}, **NO_DATABASES
        ),
    ),
    row(
        "70a",
        "database with spans of its own, client first",
        pair_case(pair_client(DBHOST), pair_server(), total=TO_DBHOST, edges=2, expired={"SPAN_KIND_SERVER": 1}),
    ),
    row(
        "70b",
        "database with spans of its own, server first",
        pair_case(pair_server(), pair_client(DBHOST), total=TO_DBHOST),
    ),
    row(
        "70c",
        "database with spans of its own, paired, client first",
        pair_case(pair_client(DBHOST), pair_server(), total=TO_SERVICE, **PAIRED),
        differs=INSTRUMENTED,
    ),
    row(
        "70d",
        "database with spans of its own, paired, server first",
        pair_case(pair_server(), pair_client(DBHOST), total=TO_SERVICE, **PAIRED),
        differs=INSTRUMENTED,
    ),
]


@pytest.mark.parametrize("case", HALVES)
def test_edge_to_a_database(case: Case) -> None:
    check(case)
