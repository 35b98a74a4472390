"""Processes that are killed come back by themselves, and only what they had a part in notices.

That nothing acknowledged is lost when a process dies is not promised yet, and not tested here: only that the service
takes and counts new spans again, and that tenants elsewhere go on as if nothing had happened.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
import pytest_asyncio

from tests.integration.otlp_client import GrpcClient
from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import CALLS, full_request, until_counted
from tests.integration.waiting import eventually
from tests.lasting_ports import lasting_port
from tests.prometheus import Prometheus

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

TENANTS: Final = tuple(f"restarted-{number}" for number in range(6))
ACTORS: Final = ("ShardHost", "CollectorHost", "Gateway", "Controller")
SPANS: Final = 2
BACK_WITHIN_S: Final = 30


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def breakable(prometheus: Prometheus) -> AsyncIterator[MillraceProcess]:
    """A service of this module's own, on ports that a new gateway can have again."""
    grpc, http = lasting_port(), lasting_port()
    ports = {"otlp_grpc": f"127.0.0.1:{grpc}", "otlp_http": f"127.0.0.1:{http}"}
    config = {"listen": ports, "remote_write": [{"url": prometheus.url}]}
    entry = {"processors": ["span-metrics"]}
    async with MillraceProcess(config, **dict.fromkeys(TENANTS, entry)) as running:
        yield running


class Traffic:
    """Calls of one tenant's shop, each sent once: a client that lost its answer does not know what became of it.

    Attributes:
        acknowledged: calls that were.
        refused: those that were not.
    """

    def __init__(self, service: MillraceProcess, tenant: str, shop: str) -> None:
        self.tenant = tenant
        self.shop = shop
        self.acknowledged = 0
        self.refused = 0
        self._service = service

    async def send(self) -> bool:
        """Send a call; return whether it was acknowledged."""
        # A new connection each time: one that is lost waits ever longer before it is tried again.
        async with GrpcClient(self._service.grpc_port) as client:
            answer = await client.export(full_request(self.shop).SerializeToString(), self.tenant)
        self.acknowledged += answer.is_accepted
        self.refused += not answer.is_accepted
        return answer.is_accepted

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Send one call after the other; the last one is finished."""
        is_over = asyncio.Event()

        async def flow() -> None:
            while not is_over.is_set():
                await self.send()
                await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as group:
            group.create_task(flow())
            try:
                yield
            finally:
                is_over.set()

    async def until_counted(self, prometheus: Prometheus) -> None:
        """Wait until exactly what was acknowledged is counted."""
        await until_counted(prometheus, SPANS * self.acknowledged, tenant=self.tenant, service=self.shop)


async def one_tenant_of_each_host(service: MillraceProcess) -> list[str]:
    """Return two tenants that share no shard host."""
    entities = (await service.metrics())["millrace_shard_entities"]
    by_host = {dict(labels)["actor"]: dict(labels)["tenant"] for labels in entities}
    assert len(by_host) == 2
    return list(by_host.values())


@pytest.mark.parametrize("killed", ACTORS)
async def test_killed_process_comes_back_and_nobody_else_notices(
    breakable: MillraceProcess, prometheus: Prometheus, killed: str
) -> None:
    before = [Traffic(breakable, tenant, f"before-{killed}") for tenant in TENANTS]
    assert all([await traffic.send() for traffic in before])
    await asyncio.gather(*(traffic.until_counted(prometheus) for traffic in before))
    tenants = await one_tenant_of_each_host(breakable)
    during = [Traffic(breakable, tenant, f"during-{killed}") for tenant in tenants]
    after = [Traffic(breakable, tenant, f"after-{killed}") for tenant in tenants]
    processes = {process.pid for name in ACTORS for process in breakable.actors(name)}
    victim = breakable.actors(killed)[0]
    async with during[0].flowing(), during[1].flowing():
        await eventually(lambda: all(traffic.acknowledged > 3 for traffic in during), 60, lambda: "no traffic")
        victim.kill()
        await asyncio.to_thread(victim.wait, 10)
        async with asyncio.timeout(BACK_WITHIN_S):
            for traffic in after:
                await eventually(traffic.send, BACK_WITHIN_S, lambda: f"refused:\n{breakable.log}")
                await traffic.until_counted(prometheus)

    await eventually(lambda: is_whole(breakable, processes - {victim.pid}), BACK_WITHIN_S, lambda: breakable.log)
    if killed == "ShardHost":
        (elsewhere,) = [traffic for traffic in during if not traffic.refused]
        await elsewhere.until_counted(prometheus)
    elif killed == "CollectorHost":
        assert [traffic.refused for traffic in during] == [0, 0]
    elif killed == "Controller":
        assert [traffic.refused for traffic in during] == [0, 0]
        await asyncio.gather(*(traffic.until_counted(prometheus) for traffic in during))
        # It knows its work again: settings still reach everybody.
        await breakable.put_tenants(another={"processors": ["span-metrics"]})
    else:
        for traffic in during:
            assert traffic.refused
            await until_counted_or_answer_lost(prometheus, traffic)


async def is_whole(service: MillraceProcess, unharmed: set[int]) -> bool:
    """Return whether every actor is there and answers, all of the ``unharmed`` processes among them."""
    processes = {process.pid for name in ACTORS for process in service.actors(name)}
    assert unharmed <= processes
    if len(processes) != len(unharmed) + 1 or (await service.get("/ready")).status_code != 200:
        return False
    up = (await service.metrics())["millrace_actor_up"]
    return len(up) == len(processes) - 1 and set(up.values()) == {1}


async def until_counted_or_answer_lost(prometheus: Prometheus, traffic: Traffic) -> None:
    """Wait until what was acknowledged is counted; more may be: calls whose answer died with the gateway."""
    counted = 0.0

    async def are_counted() -> bool:
        nonlocal counted
        found = await prometheus.query(f'sum({CALLS}{{tenant="{traffic.tenant}", service="{traffic.shop}"}})')
        counted = float(found[0]["value"][1]) if found else 0
        return counted >= SPANS * traffic.acknowledged

    await eventually(are_counted, BACK_WITHIN_S, lambda: f"{traffic.acknowledged} acknowledged, {counted} counted")
    assert counted <= SPANS * (traffic.acknowledged + traffic.refused)
