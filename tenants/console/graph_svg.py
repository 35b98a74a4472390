"""A service graph as a picture: who calls whom, how often, with how many errors, how fast.

An arrow leads from who calls to who is called; its width tells the rate, its colour the share of errors, its text both
and the 95th percentile. Who sends no spans has a dashed outline, a database round corners. Colours are of the page.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final
from urllib.parse import quote

from tenants.console import figures_text
from tenants.console.graph_labels import Label, Point, place_labels
from tenants.console.graph_layout import NODE_WIDTH, lay_out

MAX_EDGES: Final = 120
"""More than this nobody can read: who wants to see the others filters by service, or reads the table."""

_HEIGHT: Final = 48
_GAP_Y: Final = 116
_MARGIN: Final = 24
_BACK: Final = 60.0
"""Room at the side for arrows that lead back."""

_NAME_CHARACTERS: Final = 19

_CHARACTER_WIDTH: Final = 6.6
_PARTS: Final = (0.6, 0.55, 0.65, 0.5, 0.7, 0.45, 0.75, 0.4, 0.8, 0.35, 0.84, 0.3, 0.25, 0.2)
"""Where on a piece of an arrow its text may stand, the best first."""
_PIECES: Final = 2
"""On so many pieces of an arrow, from its caller on: however many layers it crosses, its text has as many places."""
_HEAD: Final = 14.0
"""Side of the square that the head of an arrow needs."""
_STEPS: Final = 16
"""A text over a piece of an arrow covers one of so many points of it."""

_BAD: Final = 0.05
_POOR: Final = 0.01

_MARKERS: Final = "".join(
    f'<marker id="arrow-{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerUnits="userSpaceOnUse" markerWidth="11" '
    f'markerHeight="11" orient="auto-start-reverse"><path d="M0 0 10 5 0 10z" class="head {kind}"/></marker>'
    for kind in ("good", "poor", "bad")
)


def draw(graph: Mapping[str, Any], link: str) -> str:
    """Return the picture as SVG.

    Args:
        graph: as the API answers it.
        link: of a page that shows the edges of one service, whose name is put behind it.
    """
    edges = _merged(graph["edges"])[:MAX_EDGES]
    kinds = {node["name"]: node["kind"] for node in graph["nodes"]}
    names = sorted({name for edge in edges for name in (edge["client"], edge["server"])})
    layout = lay_out(names, [(edge["client"], edge["server"]) for edge in edges])
    width = max(320.0, layout.width + 2 * _MARGIN)
    if any((edge["client"], edge["server"]) not in layout.bends for edge in edges):
        width += _BACK
    height = 2 * _MARGIN + layout.layers * _HEIGHT + (layout.layers - 1) * _GAP_Y
    spots = {name: (x + _MARGIN, _top(layout.layer[name])) for name, x in layout.x.items()}
    most = max((edge["weight"] for edge in edges), default=0.0)
    curves = [
        _curve(spots[edge["client"]], spots[edge["server"]], layout.bends.get((edge["client"], edge["server"])))
        for edge in edges
    ]
    labels = [_label(edge, curve) for edge, curve in zip(edges, curves, strict=True)]
    ends = [curve[-1].end for curve in curves]
    places = place_labels(
        labels,
        [(x - NODE_WIDTH / 2, y, x + NODE_WIDTH / 2, y + _HEIGHT) for x, y in spots.values()]
        + [(x - _HEAD / 2, y - _HEAD, x + _HEAD / 2, y) for x, y in ends],
        [_points(curve) for curve in curves],
    )
    lines = [_line(edge, curve, most, number) for number, (edge, curve) in enumerate(zip(edges, curves, strict=True))]
    texts = [_text(edge, label, place) for edge, label, place in zip(edges, labels, places, strict=True)]
    boxes = [_node(name, kinds.get(name, "service"), spots[name], edges, link) for name in names]
    title = f"{len(names)} nodes, {len(edges)} connections"
    return (
        f'<svg class="graph" role="img" aria-label="Service graph: {title}" viewBox="0 0 {width:.0f} {height}" '
        f'width="{width:.0f}" height="{height}"><defs>{_MARKERS}</defs>'
        f"{''.join(lines)}{''.join(texts)}{''.join(boxes)}</svg>"
    )


def not_drawn(graph: Mapping[str, Any]) -> int:
    """Return how many connections the picture does not show, those included that the API left out."""
    arrows = {(edge["client"], edge["server"]) for edge in graph["edges"]}
    left_out: int = graph["left_out"]
    return max(0, len(arrows) - MAX_EDGES) + left_out


def _merged(edges: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make one of the edges between the same two nodes, those of another type too: they are one arrow."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for edge in edges:
        weight = edge["per_second"] if edge["per_second"] is not None else edge["calls"]
        own = found.setdefault(
            (edge["client"], edge["server"]),
            {"client": edge["client"], "server": edge["server"], "per_second": None, "weight": 0.0, "failed": 0.0}
            | {"p95_s": None, "resolution_s": None, "types": set()},
        )
        if edge["per_second"] is not None:
            own["per_second"] = (own["per_second"] or 0.0) + edge["per_second"]
        own["weight"] += weight
        own["failed"] += weight * edge["error_share"]
        if edge["p95_s"] is not None and edge["p95_s"] >= (own["p95_s"] or 0.0):
            own["p95_s"], own["resolution_s"] = edge["p95_s"], edge["resolution_s"]
        own["types"].add(edge["connection_type"])
    for own in found.values():
        own["error_share"] = own["failed"] / own["weight"] if own["weight"] else 0.0
    return sorted(found.values(), key=lambda own: -own["weight"])


def _top(layer: int) -> float:
    return _MARGIN + layer * (_HEIGHT + _GAP_Y)


@dataclass(frozen=True, slots=True)
class _Cubic:
    """One piece of an arrow: a Bézier curve."""

    start: Point
    first: Point
    second: Point
    end: Point

    def at(self, part: float) -> Point:
        rest = 1 - part
        a, b, c, d = rest**3, 3 * rest * rest * part, 3 * rest * part * part, part**3
        (x1, y1), (x2, y2), (x3, y3), (x4, y4) = self.start, self.first, self.second, self.end
        return a * x1 + b * x2 + c * x3 + d * x4, a * y1 + b * y2 + c * y3 + d * y4


def _curve(client: Point, server: Point, bends: Sequence[tuple[float, int]] | None) -> list[_Cubic]:
    """Return the way of an arrow: down from layer to layer, upright at each; or, back or to itself, out at the side."""
    (x1, y1), (x2, y2) = client, server
    if bends is None:
        start, end = (x1 + NODE_WIDTH / 2, y1 + _HEIGHT * 0.7), (x2 + NODE_WIDTH / 2 + 2, y2 + _HEIGHT * 0.3)
        out = max(start[0], end[0]) + _BACK
        return [_Cubic(start, (out, start[1] + 14), (out, end[1] - 14), end)]
    points = [(x1 + _lean(x1, bends[0][0] + _MARGIN if bends else x2), y1 + _HEIGHT)]
    for x, layer in bends:
        points += [(x + _MARGIN, _top(layer)), (x + _MARGIN, _top(layer) + _HEIGHT)]
    points.append((x2 + _lean(x2, bends[-1][0] + _MARGIN if bends else x1), y2 - 2))
    curve = []
    for start, end in itertools.pairwise(points):
        bend = (end[1] - start[1]) * 0.5
        curve.append(_Cubic(start, (start[0], start[1] + bend), (end[0], end[1] - bend), end))
    return curve


def _points(curve: Sequence[_Cubic]) -> list[Point]:
    # Every second piece passes a layer: it is short, and fewer points are as close.
    steps = (range(1, _STEPS), range(1, _STEPS, 3))
    return [piece.at(step / _STEPS) for number, piece in enumerate(curve) for step in steps[number % 2]]


def _lean(x: float, towards: float) -> float:
    """Return where on its side an arrow touches a node: on the side that it comes from, or goes to."""
    return max(-0.38, min(0.38, (towards - x) / 900)) * NODE_WIDTH


def _line(edge: Mapping[str, Any], curve: Sequence[_Cubic], most: float, number: int) -> str:
    path = f"M{_xy(curve[0].start)}" + "".join(
        f" C{_xy(piece.first)} {_xy(piece.second)} {_xy(piece.end)}" for piece in curve
    )
    stroke = 1.4 + 4.6 * math.sqrt(edge["weight"] / most) if most else 1.4
    types = ", ".join(sorted(filter(None, edge["types"]))).replace("_", " ")
    title = f"{edge['client']} → {edge['server']}: {' · '.join(_said(edge))}" + (f" ({types})" if types else "")
    dash = ' stroke-dasharray="7 5"' if "messaging_system" in edge["types"] else ""
    return (
        f'<path id="edge-{number}" class="edge {_kind(edge)}" d="{path}" stroke-width="{stroke:.1f}"{dash} '
        f'marker-end="url(#arrow-{_kind(edge)})"><title>{escape(title)}</title></path>'
    )


def _label(edge: Mapping[str, Any], curve: Sequence[_Cubic]) -> Label:
    """Say what an arrow says, and where it may: arrows of one caller part on their way down."""
    said = _said(edge)
    width = max(len(part) for part in said) * _CHARACTER_WIDTH + 6
    return Label([piece.at(part) for piece in curve[:_PIECES] for part in _PARTS], width, 14 * len(said) + 3)


def _text(edge: Mapping[str, Any], label: Label, place: Point) -> str:
    said = _said(edge)
    x, y = place
    left, top, _, _ = label.box(place)
    first = y - 7 * (len(said) - 1) + 4
    spans = "".join(
        f'<tspan x="{x:.0f}" dy="{14 if row else 0}">{escape(part)}</tspan>' for row, part in enumerate(said)
    )
    plate = f'<rect class="plate" x="{left:.0f}" y="{top:.0f}" width="{label.width:.0f}" height="{label.height}"/>'
    return f'{plate}<text class="said {_kind(edge)}" y="{first:.0f}" text-anchor="middle">{spans}</text>'


def _kind(edge: Mapping[str, Any]) -> str:
    share: float = edge["error_share"]
    return "bad" if share >= _BAD else "poor" if share >= _POOR else "good"


def _said(edge: Mapping[str, Any]) -> list[str]:
    """Return one or two lines: rate and errors, and time."""
    parts = [figures_text.rate(edge["per_second"]) if edge["per_second"] is not None else "…"]
    if edge["error_share"]:
        parts.append(f"{figures_text.share(edge['error_share'])} err")
    first = " · ".join(parts)
    return [first] if edge["p95_s"] is None else [first, figures_text.quantile(edge["p95_s"], edge["resolution_s"])]


def _node(name: str, kind: str, spot: tuple[float, float], edges: Sequence[Mapping[str, Any]], link: str) -> str:
    x, y = spot
    comes = [edge for edge in edges if edge["server"] == name]
    known = [edge["per_second"] for edge in comes if edge["per_second"] is not None]
    what = {"service": "", "virtual": "no spans", "database": "database"}[kind]
    says = " · ".join(filter(None, (what, f"{figures_text.rate(sum(known))} in" if known else "")))
    short = name if len(name) <= _NAME_CHARACTERS else f"{name[: _NAME_CHARACTERS - 1]}…"
    corner = 24 if kind == "database" else 8
    return (
        f'<a href="{escape(link + quote(name, safe=""))}"><g class="node {kind}"><title>{escape(name)}</title>'
        f'<rect x="{x - NODE_WIDTH / 2:.0f}" y="{y:.0f}" width="{NODE_WIDTH:.0f}" height="{_HEIGHT}" rx="{corner}"/>'
        f'<text x="{x:.0f}" y="{y + (20 if says else 29):.0f}" text-anchor="middle" class="name">'
        f"{escape(short or '(no name)')}</text>"
        f'<text x="{x:.0f}" y="{y + 37:.0f}" text-anchor="middle" class="sub">'
        f"{escape(says)}</text></g></a>"
    )


def _xy(point: tuple[float, float]) -> str:
    return f"{point[0]:.0f} {point[1]:.0f}"
