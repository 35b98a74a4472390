"""The picture of a service graph: complete, readable, and harmless whatever services call themselves."""

import asyncio
import itertools
import re
import threading
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from cluster.demo.acme import ACME
from cluster.demo.globex import GLOBEX
from cluster.demo.model import Flavour
from tenants.console import graph_labels
from tenants.console.graph_labels import Box, Label, overlap, place_labels
from tenants.console.graph_layout import NODE_WIDTH, lay_out
from tenants.console.graph_pictures import GraphPictures
from tenants.console.graph_svg import MAX_EDGES, draw, not_drawn
from tenants.console.tenant_pages import Graph
from tests.integration.dashboards.demo_shop import edges as edges_of

_SVG = "{http://www.w3.org/2000/svg}"


def _edge(client: str, server: str, **figures: Any) -> dict[str, Any]:
    known = {"calls": 10.0, "per_second": 1.0, "error_share": 0.0, "p95_s": 0.2, "resolution_s": 0.1}
    return {"client": client, "server": server, "connection_type": ""} | known | figures


def _draw(*edges: dict[str, Any], kinds: dict[str, str] | None = None) -> ElementTree.Element:
    names = {name for edge in edges for name in (edge["client"], edge["server"])}
    nodes = [{"name": name, "kind": (kinds or {}).get(name, "service")} for name in sorted(names)]
    text = draw({"edges": list(edges), "nodes": nodes}, "/graph?service=")
    return ElementTree.fromstring(text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def _arrows(picture: ElementTree.Element) -> list[ElementTree.Element]:
    return [path for path in picture.iter(f"{_SVG}path") if (path.get("id") or "").startswith("edge-")]


def test_callers_stand_above_whom_they_call() -> None:
    edges = [("web", "shop"), ("shop", "pay"), ("web", "pay"), ("pay", "bank")]
    layout = lay_out(["bank", "pay", "shop", "web"], edges)
    assert [layout.layer[name] for name in ("web", "shop", "pay", "bank")] == [0, 1, 2, 3]
    assert [layer for _, layer in layout.bends["web", "pay"]] == [1]


def test_circles_and_calls_to_oneself_are_drawn_too() -> None:
    edges = [("a", "b"), ("b", "c"), ("c", "a"), ("a", "a")]
    layout = lay_out(["a", "b", "c"], edges)
    assert sorted(layout.layer.values()) == [0, 1, 2]
    assert len(_arrows(_draw(*(_edge(client, server) for client, server in edges)))) == 4


def test_nodes_do_not_cover_each_other() -> None:
    edges = [("hub", f"s{number}") for number in range(9)] + [(f"s{number}", "db") for number in range(5)]
    names = sorted({name for edge in edges for name in edge})
    layout = lay_out(names, edges)
    for layer in range(layout.layers):
        row = sorted(layout.x[name] for name in names if layout.layer[name] == layer)
        assert all(right - left >= NODE_WIDTH for left, right in itertools.pairwise(row))
    assert max(layout.x.values()) + NODE_WIDTH / 2 <= layout.width + 1e-6
    assert lay_out(names, edges) == layout


def test_an_arrow_says_rate_errors_and_time() -> None:
    picture = _draw(
        _edge("web", "shop", per_second=100.0),
        _edge("shop", "pay", error_share=0.02, p95_s=0.05),
        _edge("shop", "mail", error_share=0.5, per_second=0.5, connection_type="messaging_system"),
        kinds={"mail": "virtual"},
    )
    said = [" ".join(text.itertext()) for text in picture.iter(f"{_SVG}text") if "said" in (text.get("class") or "")]
    assert said == ["100/s 200 ms", "1/s · 2.0 % err < 100 ms", "0.5/s · 50.0 % err 200 ms"]
    web, pay, mail = _arrows(picture)
    assert [each.get("class") for each in (web, pay, mail)] == ["edge good", "edge poor", "edge bad"]
    assert float(web.get("stroke-width") or 0) > float(pay.get("stroke-width") or 0)
    assert mail.get("stroke-dasharray")
    assert not pay.get("stroke-dasharray")
    kinds = {group[0].text: group.get("class") for group in picture.iter(f"{_SVG}g")}
    assert kinds["mail"] == "node virtual"


def test_edges_of_two_types_between_the_same_nodes_are_one_arrow() -> None:
    picture = _draw(_edge("a", "b", error_share=0.5), _edge("a", "b", connection_type="messaging_system"))
    (arrow,) = _arrows(picture)
    assert arrow[0].text == "a → b: 2/s · 25.0 % err · 200 ms (messaging system)"


def test_the_first_look_has_no_rate() -> None:
    (arrow,) = _arrows(_draw(_edge("a", "b", per_second=None, p95_s=None)))
    assert arrow[0].text == "a → b: …"


@pytest.mark.parametrize("flavour", [ACME, GLOBEX])
def test_no_text_of_a_shop_covers_a_node_or_another_text(flavour: Flavour) -> None:
    figures = {"per_second": 40.2, "error_share": 0.0005}
    picture = _draw(*(_edge(client, server, **figures) for client, server in sorted(edges_of(flavour))))
    plates = [_box(rect) for rect in picture.iter(f"{_SVG}rect") if rect.get("class") == "plate"]
    nodes = [_box(rect) for group in picture.iter(f"{_SVG}g") for rect in group.iter(f"{_SVG}rect")]
    assert len(plates) > len(nodes) > 15
    assert [pair for pair in itertools.combinations(plates, 2) if overlap(*pair)] == []
    assert [(plate, node) for plate in plates for node in nodes if overlap(plate, node)] == []


def test_a_text_gives_way_to_another_and_to_nodes_heads_and_arrows() -> None:
    label = Label([(0, 0), (0, 40), (0, 80), (0, 120)], 60, 30)
    node, arrow = (-20.0, 70.0, 20.0, 90.0), [(10.0, 45.0)]
    assert place_labels([label], [], [[]]) == [(0, 0)]
    assert place_labels([label, label], [node], [arrow, []]) == [(0, 0), (0, 120)]
    # Nowhere is room: then where least is covered.
    assert place_labels([Label([(0, 0), (50, 0)], 60, 30), Label([(0, 0)], 60, 30)], [], [[], []]) == [(50, 0), (0, 0)]


def _box(rect: ElementTree.Element) -> Box:
    left, top, width, height = (float(rect.get(name) or 0) for name in ("x", "y", "width", "height"))
    return left, top, left + width, top + height


@pytest.mark.parametrize(
    "name", ['<script>alert("x")</script>', "\"'><img src=x onerror=alert(1)>", "a&b", "Löwe ☃", ""]
)
def test_names_are_text_whatever_they_are(name: str) -> None:
    picture = _draw(_edge("web", name))
    assert {re.sub("{.*}", "", element.tag) for element in picture.iter()} <= {
        *("svg", "defs", "marker", "path", "title", "text", "tspan", "a", "g", "rect")
    }
    (link,) = [each for each in picture.iter(f"{_SVG}a") if not (each.get("href") or "").endswith("=web")]
    assert re.fullmatch(r"/graph\?service=[A-Za-z0-9%._~-]*", link.get("href") or "")
    assert link[0][0].text == (name or None)


def test_a_graph_that_nobody_could_read_is_cut() -> None:
    edges = [_edge("hub", f"s{number}", per_second=float(number)) for number in range(MAX_EDGES + 50)]
    arrows = _arrows(_draw(*edges))
    assert len(arrows) == MAX_EDGES
    assert str(arrows[0][0].text).startswith(f"hub → s{MAX_EDGES + 49}:")


def test_the_page_counts_arrows_that_are_not_drawn() -> None:
    edges = [_edge("hub", f"s{number}") for number in range(MAX_EDGES)]
    twice = [_edge("hub", f"s{number}", connection_type="messaging_system") for number in range(20)]
    assert not_drawn({"edges": edges + twice, "left_out": 0}) == 0
    more = [_edge(f"s{number}", "hub") for number in range(3)]
    assert not_drawn({"edges": edges + twice + more, "left_out": 4}) == 7


def _tall(layers: int) -> list[dict[str, Any]]:
    """Return a chain, and as many edges again, each of which passes many layers."""
    chain = list(itertools.pairwise(range(layers)))
    past = [(first, layers - 1 - first) for first in range(layers // 2 - 1)]
    past += [(0, last) for last in range(layers // 2 + 1, layers - 1)]
    return [_edge(f"s{client:03}", f"s{server:03}") for client, server in chain + past]


def _comparisons(monkeypatch: pytest.MonkeyPatch, edges: list[dict[str, Any]]) -> int:
    """Return how often something was compared with the place of a text."""
    made = itertools.count()
    with monkeypatch.context() as patch:
        for name in ("overlap", "covers"):
            compare = getattr(graph_labels, name)
            patch.setattr(graph_labels, name, lambda *both, compare=compare: (next(made), compare(*both))[1])
        _draw(*edges)
    return next(made)


def test_the_work_of_placing_texts_grows_with_the_arrows_and_not_with_their_square(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    low, high = _tall(15), _tall(60)
    assert 4 * len(low) < len(high) <= MAX_EDGES
    few, many = (_comparisons(monkeypatch, edges) / len(edges) for edges in (low, high))
    assert 0 < many < 2 * few
    assert many < 1000


async def test_the_event_loop_goes_on_while_a_picture_is_drawn() -> None:
    may_end = threading.Event()

    def wait(graph: Mapping[str, Any], link: str) -> str:
        return "drawn" if may_end.wait(10) else "nothing else went on"

    edge = _edge("web", "shop", mean_s=0.1, p50_s=0.1, p99_s=0.3)
    page = _page(GraphPictures(wait), {"edges": [edge], "nodes": [], "services": [], "left_out": 3})
    refreshing = asyncio.create_task(page.refresh())
    asyncio.get_running_loop().call_later(0.01, may_end.set)
    await refreshing
    assert page._picture.content == "drawn"
    assert page._left_out.text == "3 connections that count less are not drawn"


def _page(pictures: GraphPictures, graph: dict[str, Any]) -> Any:
    """Return the page with what a browser would show in mere attributes."""

    async def get(path: str, tenant: str) -> dict[str, Any]:
        return graph

    page: Any = Graph(SimpleNamespace(get=get), "acme", pictures=pictures)  # type: ignore[arg-type]
    page._service = ""
    page._select = SimpleNamespace(options={"": "All services"})
    page._left_out, page._picture, page._table = SimpleNamespace(), SimpleNamespace(), SimpleNamespace()
    return page


async def test_one_picture_is_drawn_at_a_time_and_each_once_for_all_who_look() -> None:
    drawn: list[str] = []
    two_at_a_time = threading.Barrier(2)

    def note(graph: Mapping[str, Any], link: str) -> str:
        picture = f"{link}{graph['edges'][0]['client']}"
        drawn.append(picture)
        with pytest.raises(threading.BrokenBarrierError):
            two_at_a_time.wait(0.1)
        return picture

    pictures = GraphPictures(note)
    asked = [(client, link) for client in ("a", "b") for link in ("/acme?", "/globex?")] * 3
    shown = await asyncio.gather(*(pictures.picture({"edges": [_edge(client, "x")]}, link) for client, link in asked))
    assert shown == [f"{link}{client}" for client, link in asked]
    assert sorted(drawn) == ["/acme?a", "/acme?b", "/globex?a", "/globex?b"]
