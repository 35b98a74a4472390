"""Where the text of each arrow of a service graph stands: beside nothing else, as far as there is room.

Every text has places on its own arrow. One after the other takes the place where it covers least; then each looks
again, now that the others stand somewhere. A place is compared with what lies near it alone, so that the work grows as
the picture does, and not as its square.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

_Cell = tuple[int, int]

_CELL: Final = 64
"""Side of the squares that say what lies near: about as large as a text, which then touches few of them."""
_LOOKS: Final = 3
_OF_NODE: Final = 3.0
"""How bad it is to cover a square pixel of a node, or of the head of an arrow."""
_OF_TEXT: Final = 3.0
"""The same of another text."""
_OF_LINE: Final = 80.0
"""The same of one point of another arrow."""
_OF_ORDER: Final = 2.0
"""How much worse each further place of a text is than the one before."""


@dataclass(frozen=True, slots=True)
class Label:
    """The text of an arrow.

    Attributes:
        places: where its middle may be, the best first.
        width: of the text.
        height: of the text.
    """

    places: Sequence[Point]
    width: float
    height: float

    def box(self, place: Point) -> Box:
        """Return what it covers with its middle there."""
        x, y = place
        return x - self.width / 2, y - self.height / 2, x + self.width / 2, y + self.height / 2


def place_labels(labels: Sequence[Label], nodes: Sequence[Box], arrows: Sequence[Sequence[Point]]) -> list[Point]:
    """Return where the middle of each text is. The same graph has the same places.

    Args:
        labels: one for each arrow.
        nodes: what shall not be covered: nodes, and heads of arrows.
        arrows: points on each arrow, close enough that a text over it covers one.
    """
    boxes = [[label.box(place) for place in label.places] for label in labels]
    cells = [[_cells(box) for box in own] for own in boxes]
    free = _free_costs(boxes, cells, nodes, arrows)
    taken: dict[int, int] = {}
    texts: defaultdict[_Cell, set[int]] = defaultdict(set)
    for _ in range(_LOOKS):
        before = dict(taken)
        for number, own in enumerate(boxes):
            if number in taken:
                for cell in cells[number][taken[number]]:
                    texts[cell].discard(number)
            costs = []
            for box, near, cost in zip(own, cells[number], free[number], strict=True):
                others = _in_any(texts, near)
                costs.append(cost + _OF_TEXT * sum(overlap(box, boxes[other][taken[other]]) for other in others))
            taken[number] = costs.index(min(costs))
            for cell in cells[number][taken[number]]:
                texts[cell].add(number)
        if taken == before:
            break
    return [label.places[taken[number]] for number, label in enumerate(labels)]


def _free_costs(
    boxes: Sequence[Sequence[Box]],
    cells: Sequence[Sequence[Sequence[_Cell]]],
    nodes: Sequence[Box],
    arrows: Sequence[Sequence[Point]],
) -> list[list[float]]:
    """Return how bad each box of each text is, whatever the other texts do."""
    covering: defaultdict[_Cell, set[int]] = defaultdict(set)
    for number, node in enumerate(nodes):
        for cell in _cells(node):
            covering[cell].add(number)
    points: defaultdict[_Cell, list[tuple[int, Point]]] = defaultdict(list)
    for number, arrow in enumerate(arrows):
        for point in arrow:
            points[_cell(*point)].append((number, point))
    costs: list[list[float]] = []
    for number, own in enumerate(boxes):
        costs.append([])
        for order, (box, near) in enumerate(zip(own, cells[number], strict=True)):
            covered = sum(overlap(box, nodes[node]) for node in _in_any(covering, near))
            lines = sum(covers(box, point) for cell in near for arrow, point in points.get(cell, ()) if arrow != number)
            costs[-1].append(_OF_NODE * covered + _OF_LINE * lines + _OF_ORDER * order)
    return costs


def _cell(x: float, y: float) -> _Cell:
    return math.floor(x / _CELL), math.floor(y / _CELL)


def _cells(box: Box) -> list[_Cell]:
    """Return all that a box touches."""
    left, top = _cell(box[0], box[1])
    right, bottom = _cell(box[2], box[3])
    return list(itertools.product(range(left, right + 1), range(top, bottom + 1)))


def _in_any(found: Mapping[_Cell, set[int]], cells: Iterable[_Cell]) -> set[int]:
    """Return what is in any of the cells, once."""
    return set[int]().union(*(found[cell] for cell in cells if cell in found))


def covers(box: Box, point: Point) -> bool:
    """Whether a point lies inside a box."""
    return box[0] < point[0] < box[2] and box[1] < point[1] < box[3]


def overlap(one: Box, other: Box) -> float:
    """Return the area that both cover."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    if wide <= 0:
        return 0.0
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if high > 0 else 0.0
