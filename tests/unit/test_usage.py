"""Usage by tenant and day: nothing is billed twice, whatever restarts, and what the store did not take is not lost."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from tenants.control.figures import TenantFigures
from tenants.control.usage import UsageMeter
from tenants.identity.access import Scope
from tenants.store.database import Database
from tenants.store.errors import StoreUnavailable
from tenants.store.usage import UsageDay, UsageStore
from tests.unit.control_plane_bench import ControlPlaneBench

DAY = date(2026, 3, 1)
NOON_MS = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1000)


class Metered:
    """A meter with hands on its clock, its processes and its store."""

    def __init__(self, folder: Path) -> None:
        self.now_ms = NOON_MS
        self.figures: dict[str, dict[str, TenantFigures]] = {}
        self.database = Database.open(f"sqlite:///{folder / 'usage.db'}")
        self.store = UsageStore(self.database)
        self.meter = UsageMeter(self.store, self._read, lambda: self.now_ms)

    async def _read(self) -> dict[str, dict[str, TenantFigures]]:
        return self.figures

    async def read(self, **processes: dict[str, TenantFigures]) -> None:
        self.figures = processes
        await self.meter.read()

    async def day(self, day: date = DAY, tenant: str = "acme") -> UsageDay:
        (found,) = await self.meter.days(tenant, day, day)
        return found


@pytest_asyncio.fixture
async def metered(tmp_path: Path) -> AsyncIterator[Metered]:
    made = Metered(tmp_path)
    yield made
    made.database.close()


def counted(spans: int = 0, size: int = 0, samples: int = 0, series: int = 0) -> TenantFigures:
    return TenantFigures(spans=spans, bytes=size, samples_sent=samples, active_series=series)


async def test_growth_is_added_up_over_processes(metered: Metered) -> None:
    await metered.read(
        g0={"acme": counted(10, 100)}, g1={"acme": counted(5, 50)}, c={"acme": counted(samples=7, series=3)}
    )
    await metered.read(
        g0={"acme": counted(12, 120)}, g1={"acme": counted(5, 50)}, c={"acme": counted(samples=9, series=5)}
    )
    day = await metered.day()
    assert (day.spans, day.bytes, day.samples_sent) == (17, 170, 9)
    assert (day.active_series_max, day.active_series_sum, day.active_series_readings) == (5, 8, 2)


async def test_a_restarted_process_begins_at_zero(metered: Metered) -> None:
    await metered.read(g0={"acme": counted(10)})
    await metered.read(g0={"acme": counted(4)})
    assert (await metered.day()).spans == 14


async def test_a_process_that_does_not_answer_is_not_counted_anew(metered: Metered) -> None:
    await metered.read(g0={"acme": counted(10)})
    await metered.read()
    await metered.read(g0={"acme": counted(11)})
    assert (await metered.day()).spans == 11


async def test_a_tenant_that_left_and_came_back_begins_at_zero(metered: Metered) -> None:
    await metered.read(c={"acme": counted(samples=10)})
    await metered.read(c={})
    await metered.read(c={"acme": counted(samples=12)})
    assert (await metered.day()).samples_sent == 22


async def test_midnight_begins_another_day(metered: Metered) -> None:
    await metered.read(g0={"acme": counted(10)})
    metered.now_ms += 13 * 3_600_000
    await metered.read(g0={"acme": counted(15)})
    assert (await metered.day()).spans == 10
    assert (await metered.day(date(2026, 3, 2))).spans == 5


async def test_what_the_store_does_not_take_is_kept(metered: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_rows: object) -> None:
        raise StoreUnavailable("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(metered.store, "add", refuse)
        with pytest.raises(StoreUnavailable):
            await metered.read(g0={"acme": counted(10, series=4)})
    await metered.read(g0={"acme": counted(12, series=2)})
    day = await metered.day()
    assert (day.spans, day.active_series_max, day.active_series_readings) == (12, 4, 2)


async def test_usage_over_the_api(tmp_path: Path) -> None:
    async with ControlPlaneBench(tmp_path) as bench:
        bench.figures = {"g0": {"acme": counted(10, 100), "globex": counted(1, 10)}}
        await bench.control.usage.read()
        today = datetime.now(UTC).date().isoformat()
        answer = (await bench.ask("GET", "/api/usage")).json()
        assert answer["to"] == today
        assert [(row["tenant"], row["day"], row["spans"]) for row in answer["usage"]] == [("acme", today, 10)]
        operator = await bench.token(Scope.OPERATOR)
        everybody = await bench.ask("GET", "/api/usage?format=csv", tenant=None, token=operator)
        assert everybody.headers["content-type"].startswith("text/csv")
        lines = everybody.text.split("\r\n")
        assert lines[0].startswith("day,tenant,spans,bytes,samples_sent")
        assert {line.split(",")[1] for line in lines[1:] if line} == {"acme", "globex"}
        assert (await bench.ask("GET", "/api/usage?from=2026-02-01&to=2026-01-01")).status_code == 400
        assert (await bench.ask("GET", "/api/usage?from=0001-01-01&to=9999-12-31")).status_code == 400
        assert (await bench.ask("GET", "/api/usage?from=yesterday")).status_code == 400
        assert (await bench.ask("GET", "/api/usage?to=0001-01-01")).json()["usage"] == []


async def test_old_days_are_forgotten(metered: Metered) -> None:
    await metered.read(g0={"acme": counted(10)})
    await metered.meter.forget_before(NOON_MS)
    assert (await metered.day()).spans == 10
    await metered.meter.forget_before(NOON_MS + 86_400_000)
    assert await metered.meter.days("acme", DAY, DAY) == []
