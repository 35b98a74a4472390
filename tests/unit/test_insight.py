"""What a look at a tenant says: figures as PromQL would have them, of the last minute, of the tenant alone."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tenants.control import insight as module
from tenants.control.insight import TenantInsight
from tenants.control.problem import ProblemError
from tenants.control.timeline import Timeline
from tenants.endpoint.collector_set import TenantLook
from tenants.identity.tenant_id import TenantId
from tenants.processing.registry_view import NOTHING, RegistryView, Row
from tests.unit.control_plane_bench import ControlPlaneBench
from tests.unit.test_timeline import Clock

ACME = TenantId("acme")
BOUNDS = [0.1, 0.5]


def _span(calls: float, status: str = "UNSET", name: str = "GET /") -> Row:
    labels = ["web", name, "SPAN_KIND_SERVER", f"STATUS_CODE_{status}"]
    return labels, [calls, 0.0], [(0.2 * calls, [0.0, calls, 0.0])]


def _edge(client: str, server: str, connection: str = "", virtual: str = "", calls: float = 10.0) -> Row:
    nothing: tuple[float, list[float]] = (0.0, [0.0, 0.0, 0.0])
    # As the side of somebody who sends no spans is counted.
    unknown = (0.0, [calls, 0.0, 0.0])
    return [client, server, connection, virtual], [calls, 1.0, 0.0], [unknown, (calls, [0.0, 0.0, calls]), nothing]


def _view(*spans: Row, edges: list[Row] | None = None) -> TenantLook:
    view = RegistryView(list(spans), 0, [BOUNDS], edges or [], 3, [BOUNDS] * 3, [("calls", 2)], [("service", 1, 2)])
    return TenantLook(view, None)


class Looked:
    """A registry that somebody looks at."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.look: TenantLook | None = TenantLook(NOTHING, None)
        self.looks = 0
        self.insight = TenantInsight(self._look, Timeline(self.clock), self.clock)

    async def _look(self, _: TenantId) -> TenantLook | None:
        self.looks += 1
        return self.look


@pytest.fixture
def looked() -> Looked:
    return Looked()


async def test_the_first_look_has_no_rate_and_later_ones_that_of_the_last_minute(looked: Looked) -> None:
    looked.look = _view(_span(100), _span(100, "ERROR"))
    (row,) = (await looked.insight.red(ACME))["rows"]
    assert (row["calls"], row["errors"], row["error_share"], row["per_second"]) == (200, 100, 0.5, None)
    looked.clock.now_ms += 20_000
    looked.look = _view(_span(190), _span(110, "ERROR"))
    answer = await looked.insight.red(ACME)
    (row,) = answer["rows"]
    assert (answer["window_s"], row["per_second"], row["error_share"]) == (20.0, 5.0, 0.1)
    assert row["mean_s"] == pytest.approx(0.2)
    # Half of the observations of the bucket from 0.1 to 0.5.
    assert row["p50_s"] == pytest.approx(0.3)
    assert row["span_kind"] == "server"


async def test_a_look_just_after_another_asks_nobody(looked: Looked) -> None:
    looked.look = _view(_span(1))
    for _ in range(3):
        await looked.insight.red(ACME)
        await looked.insight.graph(ACME)
        await looked.insight.timeline(ACME)
    assert looked.looks == 1
    looked.clock.now_ms += 2_000
    assert (await looked.insight.timeline(ACME))["red"][-1]["per_second"] == 0.0
    assert looked.looks == 2


async def test_the_graph_tells_who_sends_no_spans(looked: Looked) -> None:
    looked.look = _view(
        _span(1),
        edges=[
            _edge("web", "shop"),
            _edge("shop", "orders", "database"),
            _edge("user", "web", "virtual_node"),
            _edge("shop", "stripe", "virtual_node", "server"),
        ],
    )
    answer = await looked.insight.graph(ACME)
    kinds = {node["name"]: node["kind"] for node in answer["nodes"]}
    assert kinds == {"web": "service", "shop": "service", "orders": "database", "user": "virtual", "stripe": "virtual"}
    assert answer["left_out"] == 3
    edge = answer["edges"][0]
    assert (edge["client"], edge["server"], edge["error_share"], edge["mean_s"]) == ("web", "shop", 0.1, 1.0)
    # All are beyond the last bound, as in PromQL.
    assert edge["p95_s"] == 0.5
    only = await looked.insight.graph(ACME, "orders")
    assert [(edge["client"], edge["server"]) for edge in only["edges"]] == [("shop", "orders")]
    assert only["services"] == answer["services"]


async def test_counting_that_began_anew_gives_no_negative_rate(looked: Looked) -> None:
    for calls in (100, 30):
        looked.look = _view(_span(calls))
        answer = await looked.insight.red(ACME)
        looked.clock.now_ms += 10_000
    assert answer["rows"][0]["per_second"] == 3.0


async def test_what_cannot_be_read_is_said(looked: Looked) -> None:
    looked.look = None
    with pytest.raises(ProblemError, match="cannot be read now"):
        await looked.insight.red(ACME)


async def test_however_many_small_tenants_are_looked_at_each_has_a_rate(looked: Looked) -> None:
    for calls in (0, 300):
        looked.look = _view(_span(calls))
        rates = [(await looked.insight.red(TenantId(f"t{number}")))["rows"][0]["per_second"] for number in range(200)]
        looked.clock.now_ms += 60_000
    assert rates == [5.0] * 200


async def test_who_comes_when_the_room_is_full_is_shown_without_rates_until_others_have_gone(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WATCHED_BYTES", 50_000)
    rates: dict[str, list[float | None]] = {name: [] for name in "abcd"}

    async def look(*names: str) -> None:
        looked.clock.now_ms += 20_000
        looked.look = _view(_span(looked.clock.now_ms / 1000))
        for name in names:
            rates[name].append((await looked.insight.red(TenantId(name)))["rows"][0]["per_second"])
            assert (await looked.insight.timeline(TenantId(name)))["tenant"] == name

    for _ in range(3):
        await look(*"abcd")
    kept = [name for name in "abcd" if rates[name][-1] is not None]
    left_out = [name for name in "abcd" if rates[name][-1] is None]
    assert [len(kept), len(left_out)] == [2, 2]
    for _ in range(8):
        await look(*left_out)
    # The places of the others are free.
    assert [rates[name][-1] for name in left_out] == [1.0, 1.0]


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ControlPlaneBench]:
    async with ControlPlaneBench(tmp_path) as made:
        yield made


async def test_a_tenant_is_answered_about_itself(bench: ControlPlaneBench) -> None:
    bench.looks["acme"] = _view(_span(1), edges=[_edge("web", "shop")])
    bench.looks["down"] = None
    for path in ("red", "service-graph", "cardinality", "endpoints", "timeline"):
        answer = await bench.ask("GET", f"/api/{path}", tenant="acme")
        assert (answer.status_code, answer.json()["tenant"]) == (200, "acme")
        assert (await bench.ask("GET", f"/api/{path}", tenant="down")).status_code == 503
        assert (await bench.ask("GET", f"/api/{path}", tenant=None)).status_code == 401
    assert (await bench.ask("GET", "/api/red", tenant="globex")).json()["rows"] == []
