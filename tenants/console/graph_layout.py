"""Where the nodes of a service graph stand in its picture: callers above whom they call, few crossings.

In layers, as Sugiyama, Tagawa and Toda do it: edges that close a circle are left out of account, every node stands one
layer below its farthest caller, an edge over several layers has a place in each, and each layer is ordered by the
mean place of its neighbours.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_SWEEPS: Final = 8

NODE_WIDTH: Final = 150.0
NODE_GAP: Final = 46.0
_BEND_WIDTH: Final = 84.0
"""Room for what an edge says, where it passes a layer."""

_Bend = tuple[str, str, int]
"""Where an edge passes a layer: client, server, layer."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything stands.

    Attributes:
        x: of the middle of each node, the leftmost edge of all at 0.
        layer: of each node, from the top.
        bends: where an edge passes layers: x and layer of each, from the client on.
        width: of all.
        layers: how many there are.
    """

    x: Mapping[str, float]
    layer: Mapping[str, int]
    bends: Mapping[tuple[str, str], Sequence[tuple[float, int]]]
    width: float
    layers: int


def lay_out(nodes: Sequence[str], edges: Iterable[tuple[str, str]]) -> Layout:
    """Return where everything stands. The same graph has the same layout."""
    forward = _without_circles(nodes, sorted(set(edges)))
    layer = _layers(nodes, forward)
    rows: defaultdict[int, list[str | _Bend]] = defaultdict(list)
    for name in nodes:
        rows[layer[name]].append(name)
    neighbours: defaultdict[str | _Bend, list[str | _Bend]] = defaultdict(list)
    chains: dict[tuple[str, str], list[_Bend]] = {}
    for client, server in forward:
        chain = [(client, server, at) for at in range(layer[client] + 1, layer[server])]
        chains[client, server] = chain
        for bend in chain:
            rows[bend[2]].append(bend)
        steps: list[str | _Bend] = [client, *chain, server]
        for upper, lower in itertools.pairwise(steps):
            neighbours[upper].append(lower)
            neighbours[lower].append(upper)
    x = _settle(rows, neighbours)
    left = min((x[one] - _width(one) / 2 for one in x), default=0.0)
    right = max((x[one] + _width(one) / 2 for one in x), default=0.0)
    return Layout(
        {name: x[name] - left for name in nodes},
        layer,
        {edge: [(x[bend] - left, bend[2]) for bend in chain] for edge, chain in chains.items()},
        right - left,
        len(rows),
    )


def _settle(
    rows: Mapping[int, list[str | _Bend]], neighbours: Mapping[str | _Bend, Sequence[str | _Bend]]
) -> dict[str | _Bend, float]:
    """Order each layer, and move what is in it towards its neighbours as far as there is room."""
    x: dict[str | _Bend, float] = {}
    for row in rows.values():
        _spread(row, dict.fromkeys(row, 0.0), x)
    for sweep in range(_SWEEPS):
        for layer in sorted(rows, reverse=bool(sweep % 2)):
            row = rows[layer]
            wanted = {one: _mean(one, neighbours, x) for one in row}
            row.sort(key=wanted.__getitem__)
            _spread(row, wanted, x)
    return x


def _mean(
    one: str | _Bend, neighbours: Mapping[str | _Bend, Sequence[str | _Bend]], x: Mapping[str | _Bend, float]
) -> float:
    own = neighbours.get(one, ())
    return sum(x[other] for other in own) / len(own) if own else x[one]


def _spread(row: Sequence[str | _Bend], wanted: Mapping[str | _Bend, float], x: dict[str | _Bend, float]) -> None:
    """Give each its place, or the nearest that leaves room for its neighbours: the mean of pushing right and left."""
    right: list[float] = []
    for index, one in enumerate(row):
        least = right[-1] + _apart(row[index - 1], one) if right else wanted[one]
        right.append(max(wanted[one], least))
    left: list[float] = []
    for index in range(len(row) - 1, -1, -1):
        one = row[index]
        most = left[-1] - _apart(one, row[index + 1]) if left else wanted[one]
        left.append(min(wanted[one], most))
    for one, a, b in zip(row, right, reversed(left), strict=True):
        x[one] = (a + b) / 2


def _apart(one: str | _Bend, other: str | _Bend) -> float:
    return (_width(one) + _width(other)) / 2 + NODE_GAP


def _width(one: str | _Bend) -> float:
    return NODE_WIDTH if isinstance(one, str) else _BEND_WIDTH


def _without_circles(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out the edges that lead back on a walk from the callers; one to itself is one of them."""
    servers: defaultdict[str, list[str]] = defaultdict(list)
    called = set()
    for client, target in edges:
        if client != target:
            servers[client].append(target)
            called.add(target)
    kept: list[tuple[str, str]] = []
    is_open: dict[str, bool] = {}
    # First from those that nobody calls.
    for start in sorted(nodes, key=lambda name: name in called):
        if start in is_open:
            continue
        is_open[start] = True
        walk = [(start, iter(servers[start]))]
        while walk:
            name, left = walk[-1]
            server: str | None = next(left, None)
            if server is None:
                is_open[name] = False
                walk.pop()
            elif server not in is_open:
                kept.append((name, server))
                is_open[server] = True
                walk.append((server, iter(servers[server])))
            elif not is_open[server]:
                kept.append((name, server))
    return kept


def _layers(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    callers: defaultdict[str, int] = defaultdict(int)
    servers: defaultdict[str, list[str]] = defaultdict(list)
    for client, server in edges:
        callers[server] += 1
        servers[client].append(server)
    layers = dict.fromkeys(nodes, 0)
    ready = [name for name in nodes if not callers[name]]
    while ready:
        name = ready.pop()
        for server in servers[name]:
            layers[server] = max(layers[server], layers[name] + 1)
            callers[server] -= 1
            if not callers[server]:
                ready.append(server)
    return layers
