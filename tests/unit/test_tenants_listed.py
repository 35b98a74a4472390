"""The list of tenants: ordered, cut into pages, with what an operator looks for; quick, however many there are."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tenants.control.figures import TenantFigures
from tenants.identity.access import Scope
from tests.unit.control_plane_bench import ControlPlaneBench


@pytest_asyncio.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ControlPlaneBench]:
    async with ControlPlaneBench(tmp_path) as made:
        now_ms = 1_000_000
        monkeypatch.setattr(made.control._timeline, "_clock_ms", lambda: now_ms)
        made.figures = {"p": {}}
        for turn in (0, 1):
            for name, rate in (("a", 1), ("b", 9), ("c", 5)):
                made.figures["p"][name] = TenantFigures(spans=turn * rate * 10, active_series=10 - rate)
            now_ms += 10_000 * turn
            made.control._timeline.add(made.figures)
        yield made


async def _listed(bench: ControlPlaneBench, query: str) -> Any:
    token = await bench.token(Scope.OPERATOR)
    answer = await bench.ask("GET", f"/api/admin/tenants?{query}", token=token, tenant=None)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["a", "b", "c"]),
        ("order=rate", ["b", "c", "a"]),
        ("order=series", ["a", "c", "b"]),
        ("order=rate&skip=1&limit=1", ["c"]),
        ("order=rate&search=a", ["a"]),
        ("skip=5", []),
    ],
)
async def test_order_and_pages(bench: ControlPlaneBench, query: str, names: list[str]) -> None:
    listed = await _listed(bench, query)
    assert [row["tenant"] for row in listed["tenants"]] == names
    assert listed["total"] == (1 if "search" in query else 3)


async def test_a_row_tells_rate_limits_and_endpoints(bench: ControlPlaneBench) -> None:
    bench.figures["p"]["b"].endpoints["sending"] = 1
    bench.figures["p"]["b"].lag_s = 2.5
    row = (await _listed(bench, "search=b"))["tenants"][0]
    assert row["rate"]["spans_per_second"] == 9.0
    assert row["endpoints"] == {"states": {"sending": 1}, "lag_s": 2.5}
    assert row["limits"]["rate_limit_bytes"] == 30_000_000
    assert row["limits"]["processors"] == []


async def test_ten_thousand_tenants_take_less_than_a_second(tmp_path: Path) -> None:
    entry = {"metrics_generator": {"processors": ["span-metrics"]}}
    runtime = {f"tenant-{number:05}": entry for number in range(10_000)}
    async with ControlPlaneBench(tmp_path, runtime=runtime) as bench:
        bench.figures = {"p": {f"tenant-{number:05}": TenantFigures(spans=number) for number in range(0, 10_000, 100)}}
        token = await bench.token(Scope.OPERATOR)
        started = time.perf_counter()
        answer = await bench.ask("GET", "/api/admin/tenants?limit=50&order=rate", token=token, tenant=None)
        assert time.perf_counter() - started < 1
        assert (answer.json()["total"], len(answer.json()["tenants"])) == (10_000, 50)
