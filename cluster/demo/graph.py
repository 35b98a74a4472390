"""A service graph as a tree to print: every edge on one line, every service's own calls shown once.

Pure functions of the edges. The order is by name, never by rate, so that a live picture does not jump.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.demo.red import EdgeRow

_KIND_ORDER = {"": 0, "messaging_system": 1, "virtual_node": 2, "database": 3}


@dataclass(frozen=True, slots=True)
class Branch:
    """One line of the tree: a root, or an edge to ``node``.

    ``guides`` says for each level above whether its line goes on below this one.
    """

    node: str
    edge: EdgeRow | None
    guides: tuple[bool, ...]
    is_last: bool
    is_elsewhere: bool
    """The node has calls of its own, shown at another line."""


def spanning_forest(edges: Iterable[EdgeRow]) -> list[Branch]:
    """Arrange edges as trees: one line for each root, then one for each edge.

    A node's calls hang below the edge that reaches it in the fewest steps from the first root that
    does. Roots are the nodes that nobody calls, and for circles that no root reaches, their first by name.
    """
    calls: dict[str, list[EdgeRow]] = {}
    for edge in sorted(edges, key=_order):
        calls.setdefault(edge.client, []).append(edge)
    called = {edge.server for outgoing in calls.values() for edge in outgoing}
    # ``user`` is whom the processor names when nobody is known to have called (processors §2.4).
    roots = sorted((node for node in calls if node not in called), key=lambda node: (node != "user", node))
    parents: dict[str, EdgeRow] = {}
    reached: set[str] = set()
    for root in roots:
        _reach(root, calls, reached, parents)
    for node in sorted(calls):
        if node not in reached:
            roots.append(node)
            _reach(node, calls, reached, parents)
    branches: list[Branch] = []
    for root in roots:
        branches.append(Branch(root, None, (), is_last=True, is_elsewhere=False))
        _unfold(root, (), calls, parents, branches)
    return branches


def service_order(branches: Iterable[Branch]) -> dict[str, int]:
    """Return the place of each node's first own line in the tree: the order in which a request meets them."""
    order: dict[str, int] = {}
    for place, branch in enumerate(branches):
        if not branch.is_elsewhere:
            order.setdefault(branch.node, place)
    return order


def _reach(root: str, calls: dict[str, list[EdgeRow]], reached: set[str], parents: dict[str, EdgeRow]) -> None:
    reached.add(root)
    waiting = deque([root])
    while waiting:
        for edge in calls.get(waiting.popleft(), ()):
            if edge.server not in reached:
                reached.add(edge.server)
                parents[edge.server] = edge
                waiting.append(edge.server)


def _unfold(
    node: str,
    guides: tuple[bool, ...],
    calls: dict[str, list[EdgeRow]],
    parents: dict[str, EdgeRow],
    branches: list[Branch],
) -> None:
    outgoing = calls.get(node, [])
    for edge in outgoing:
        is_last = edge is outgoing[-1]
        is_own = parents.get(edge.server) is edge
        is_elsewhere = not is_own and edge.server in calls
        branches.append(Branch(edge.server, edge, guides, is_last, is_elsewhere))
        if is_own:
            _unfold(edge.server, (*guides, not is_last), calls, parents, branches)


def _order(edge: EdgeRow) -> tuple[str, int, str]:
    return edge.client, _KIND_ORDER.get(edge.connection_type, len(_KIND_ORDER)), edge.server
