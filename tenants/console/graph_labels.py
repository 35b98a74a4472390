"""Where the text of each arrow of a service graph stands: beside nothing else, as far as there is room.

Every text has places on its own arrow. One after the other takes the place where it covers least; then each looks
again, now that the others stand somewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

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
    free = [_free_costs(own, [*arrows[:number], *arrows[number + 1 :]], nodes) for number, own in enumerate(boxes)]
    taken: dict[int, int] = {}
    for _ in range(_LOOKS):
        before = dict(taken)
        for number, own in enumerate(boxes):
            others = [boxes[other][at] for other, at in taken.items() if other != number]
            taken[number] = _best(own, free[number], others)
        if taken == before:
            break
    return [label.places[taken[number]] for number, label in enumerate(labels)]


def _free_costs(boxes: Sequence[Box], arrows: Sequence[Sequence[Point]], nodes: Sequence[Box]) -> list[float]:
    """Return how bad each box is for a text, whatever the other texts do."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    points = [(x, y) for arrow in arrows for x, y in arrow if left < x < right and top < y < bottom]
    costs = []
    for order, box in enumerate(boxes):
        covered = sum(overlap(box, node) for node in nodes)
        lines = sum(box[0] < x < box[2] and box[1] < y < box[3] for x, y in points)
        costs.append(_OF_NODE * covered + _OF_LINE * lines + _OF_ORDER * order)
    return costs


def _best(boxes: Sequence[Box], free: Sequence[float], others: Sequence[Box]) -> int:
    def cost(index: int) -> tuple[float, int]:
        return free[index] + _OF_TEXT * sum(overlap(boxes[index], other) for other in others), index

    return min(range(len(boxes)), key=cost)


def overlap(one: Box, other: Box) -> float:
    """Return the area that both cover."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    if wide <= 0:
        return 0.0
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if high > 0 else 0.0
