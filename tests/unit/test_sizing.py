"""Shards that a tenant gets by its rate."""

from typing import Final

import pytest

from cluster.settings_push import SettingsPush
from tenants.control.figures import TenantFigures
from tenants.control.sizing import SIZING_INTERVAL_S, ShardSizing
from tenants.identity import TenantId
from tenants.settings.tenant_settings import resolve
from tests.unit.tenant_work import config

A_SHARD: Final = 1000


class Sized:
    """Sizing with hands on its clock, its hosts and what processes count."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.hosts = 8
        self.spans: dict[str, dict[str, int]] = {"gateway-0": {}}
        self.pushes = 0
        self.settings = SettingsPush(self._push, self._tell, lambda: 1)
        self.settings.push_soon = self._push_soon  # type: ignore[method-assign]
        self.sizing = ShardSizing(self._read, self.settings, lambda: self.hosts, A_SHARD, lambda: self.now_s)

    async def _read(self) -> dict[str, dict[str, TenantFigures]]:
        return {
            process: {tenant: TenantFigures(spans=spans) for tenant, spans in tenants.items()}
            for process, tenants in self.spans.items()
        }

    async def _push(self, _change: object) -> bool:
        return True

    async def _tell(self, _overrides: object) -> None:
        pass

    def _push_soon(self) -> None:
        self.pushes += 1

    async def send(self, seconds: float, process: str = "gateway-0", **rates: float) -> None:
        """Let tenants send at so many spans a second."""
        ends_s = self.now_s + seconds
        while self.now_s < ends_s:
            self.now_s += SIZING_INTERVAL_S
            for tenant, rate in rates.items():
                counted = self.spans[process]
                counted[tenant] = counted.get(tenant, 0) + round(rate * SIZING_INTERVAL_S)
            await self.sizing.look()

    def size(self, tenant: str = "acme") -> int:
        return resolve(config(), self.settings.overrides, TenantId(tenant)).shards


@pytest.fixture
async def sized() -> Sized:
    made = Sized()
    await made.sizing.look()
    return made


@pytest.mark.parametrize(("rate", "shards"), [(10, 1), (900, 1), (1900, 2), (3900, 4), (6000, 8), (100_000, 8)])
async def test_tenant_has_as_many_shards_as_its_rate_needs_and_there_are_hosts(
    sized: Sized, rate: float, shards: int
) -> None:
    await sized.send(600, acme=rate, globex=5)
    assert (sized.size(), sized.size("globex")) == (shards, 1)
    assert sized.pushes <= 3


async def test_size_is_a_power_of_two_however_many_hosts_there_are(sized: Sized) -> None:
    sized.hosts = 7
    await sized.send(300, acme=50_000)
    assert sized.size() == 4
    sized.hosts = 3
    await sized.send(10, acme=50_000)
    assert sized.size() == 2
    sized.hosts = 0  # nobody knows
    await sized.send(10, acme=50_000)
    assert sized.size() == 2


async def test_short_burst_does_not_divide_a_tenant(sized: Sized) -> None:
    await sized.send(600, acme=500)
    await sized.send(10, acme=3000)
    await sized.send(60, acme=500)
    assert sized.size() == 1


async def test_tenant_keeps_its_shards_for_a_while_when_it_sends_less(sized: Sized) -> None:
    await sized.send(300, acme=3900)
    assert sized.size() == 4
    await sized.send(120, acme=0)
    assert sized.size() == 4
    await sized.send(7200, acme=0)
    assert sized.size() == 1
    assert sized.settings.overrides.sizes == {}
    assert sized.sizing._rates == {}


@pytest.mark.parametrize("rate", [980, 1020, 1500, 1980, 2040])
async def test_rate_near_a_bound_changes_nothing_for_ever(sized: Sized, rate: float) -> None:
    await sized.send(1800, acme=rate)
    pushes = sized.pushes
    for _ in range(20):
        await sized.send(120, acme=rate * 1.05)
        await sized.send(120, acme=rate * 0.95)
    assert sized.pushes - pushes <= 1


async def test_rates_of_all_gateways_count_and_a_restarted_one_is_not_a_burst(sized: Sized) -> None:
    sized.spans["gateway-1"] = {}
    sized.spans["collector-0"] = {"acme": 0}
    for _ in range(60):
        sized.spans["gateway-1"]["acme"] = sized.spans["gateway-1"].get("acme", 0) + 8000
        await sized.send(10, acme=800)
    assert sized.size() == 2
    # A process that is heard of for the first time has counted for nobody knows how long.
    sized.spans["gateway-2"] = {"acme": 10**9}
    sized.spans["gateway-1"] = {"acme": 0}
    await sized.send(20, acme=800)
    assert sized.size() == 2


async def test_what_stands_for_many_tenants_is_none(sized: Sized) -> None:
    await sized.send(600, __other__=90_000)
    assert sized.settings.overrides.sizes == {}
    assert sized.pushes == 0
