"""The service graph as a tree: every edge once, every node's calls once, and no jumping."""

import random

from hypothesis import given
from hypothesis import strategies as st

from cluster.demo.graph import Branch, service_order, spanning_forest
from cluster.demo.red import EdgeRow


def edge(client: str, server: str, connection_type: str = "", rate: float = 1.0) -> EdgeRow:
    return EdgeRow(client, server, connection_type, rate, 0.0, None)


def outline(branches: list[Branch]) -> list[str]:
    return [
        "  " * (len(branch.guides) + (branch.edge is not None)) + branch.node + ("^" if branch.is_elsewhere else "")
        for branch in branches
    ]


SHOP = [
    edge("user", "web", "virtual_node"),
    edge("web", "api"),
    edge("api", "cart"),
    edge("api", "checkout"),
    edge("checkout", "cart"),
    edge("cart", "redis", "database"),
    edge("checkout", "worker", "messaging_system"),
    edge("partner", "checkout", "virtual_node"),
]


def test_a_node_is_unfolded_where_the_first_root_reaches_it_soonest() -> None:
    assert outline(spanning_forest(SHOP)) == [
        "user",
        "  web",
        "    api",
        "      cart",
        "        redis",
        "      checkout",
        "        cart^",
        "        worker",
        "partner",
        "  checkout^",
    ]


def test_guides_go_on_only_beside_a_later_sibling() -> None:
    by_node = {branch.node: branch for branch in spanning_forest([edge("a", "b"), edge("b", "x"), edge("a", "c")])}
    assert (by_node["b"].guides, by_node["b"].is_last) == ((), False)
    assert (by_node["x"].guides, by_node["x"].is_last) == ((True,), True)
    assert (by_node["c"].guides, by_node["c"].is_last) == ((), True)


def test_services_are_listed_before_queues_before_externals_before_databases() -> None:
    kinds = ["database", "virtual_node", "messaging_system", ""]
    edges = [edge("a", f"{index}", kind) for index, kind in enumerate(kinds)]
    assert outline(spanning_forest(edges)) == ["a", "  3", "  2", "  1", "  0"]


def test_circles_and_self_calls_are_drawn_and_end() -> None:
    branches = spanning_forest([edge("a", "b"), edge("b", "a"), edge("b", "b")])
    assert outline(branches) == ["a", "  b", "    a^", "    b^"]


def test_no_edges_give_no_lines() -> None:
    assert spanning_forest([]) == []


def test_services_are_ordered_as_a_request_meets_them() -> None:
    order = service_order(spanning_forest(SHOP))
    assert sorted(order, key=lambda node: order[node]) == [
        *("user", "web", "api", "cart", "redis", "checkout", "worker", "partner"),
    ]


nodes = st.sampled_from("abcdefgh")
graphs = st.sets(st.tuples(nodes, nodes, st.sampled_from(["", "database"])), max_size=40)


@given(graphs, st.integers(0, 99))
def test_every_edge_is_drawn_once_whatever_the_order_and_the_rates(pairs: set[tuple[str, str, str]], seed: int) -> None:
    rng = random.Random(seed)
    edges = [edge(*pair, rate=rng.random()) for pair in sorted(pairs)]
    branches = spanning_forest(edges)
    drawn = [branch.edge for branch in branches if branch.edge]
    assert sorted(map(repr, drawn)) == sorted(map(repr, edges))
    unfolded = [branch.node for branch in branches if not branch.is_elsewhere]
    callers = {each.client for each in edges}
    assert all(unfolded.count(caller) == 1 for caller in callers)
    shuffled = rng.sample(edges, len(edges))
    assert outline(spanning_forest(shuffled)) == outline(branches)
