"""Gateways, shard hosts and a collector with a journal: whichever dies, and when, every request is counted once.

The real classes of all of them, in one event loop, without Ray; calls between them lose answers and come twice.
"""

import asyncio
import itertools
import random
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cluster.gateway.dispatch import Dispatcher
from cluster.gateway.host_lane import GroupBounds, HostCalls
from cluster.gateway.intake import Accepted
from cluster.host_feed import HostFeed
from cluster.placement import Routes
from tenants.endpoint import HttpClients, Surroundings
from tenants.endpoint.collector_set import CollectorSet
from tenants.endpoint.tenant_collector import TenantCollector
from tenants.identity import TenantId
from tenants.journal.store import JournalStore
from tenants.journal.writer import JournalWriter
from tenants.processing.flush_record import Claimed, FlushRecord, Place, ShardKey
from tenants.processing.frame_group import FrameGroup
from tenants.processing.ledger import Ledger
from tenants.processing.shard_set import Claim, ShardSet
from tests.overrides_in_force import whole_of
from tests.unit.conditions import until
from tests.unit.receiver import LOOPBACK
from tests.unit.standing_clock import StandingClock
from tests.unit.tenant_work import ACME, NOW_NS, book, collected, overrides, request, span

HOSTS: Final = ("h0", "h1", "h2")
"""At first the last one is not there."""
TENANTS: Final = (ACME, TenantId("globex"))
EDGE_COUNTER: Final = "traces_service_graph_request_total"


def entry(shards: int) -> dict[str, Any]:
    return {"processors": ["span-metrics", "service-graphs"], "shards": shards}


class World:
    """Two gateways, one to three shard hosts, one collector. Each may be replaced by an empty successor."""

    def __init__(self, folder: Path) -> None:
        self.version = 1
        self.routes = routes(1, 2)
        self.loses_answers = 0
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._book = book(overrides(acme=entry(1), globex=entry(2)))
        self._incarnation = itertools.count(1)
        self.clock = StandingClock()
        self.collector: CollectorSet | None = None
        # As the actors have them: what waits for a claim must not take the collector's threads away.
        self._threads = {name: ThreadPoolExecutor(2) for name in HOSTS}
        self._claiming = {name: ThreadPoolExecutor(1) for name in HOSTS}

    async def begin(self) -> None:
        self.clients = HttpClients(LOOPBACK)
        self.hosts = {name: self.new_host(name) for name in self.routes.shard_hosts}
        self.gateways = [self.new_gateway() for _ in range(2)]
        await self.begin_collector()

    async def end(self) -> None:
        for gateway in self.gateways:
            close(gateway)
        await self.end_collector()
        await self.clients.close()
        for threads in (*self._threads.values(), *self._claiming.values()):
            threads.shutdown(wait=False, cancel_futures=True)

    # Processes

    def new_host(self, name: str) -> ShardSet:
        def claim(keys: Sequence[ShardKey]) -> Mapping[ShardKey, Claimed]:
            if self.collector is None:
                raise ConnectionError("the collector is away")
            # As the collector's actor does.
            own = [key for key in keys if self.routes.host_of(key.tenant, key.index) == name]
            return asyncio.run_coroutine_threadsafe(self.collector.claim(name, own), self._loop).result(10)

        return ShardSet(self._book, claim, lambda: NOW_NS, claim_pause_ns=0)

    def new_gateway(self) -> Dispatcher:
        bounds = GroupBounds(1, 60.0)
        return Dispatcher(
            self._book,
            self.routes,
            self.calls(),
            bounds,
            lambda: NOW_NS,
            poll_s=0.002,
            monotonic_ns=lambda: 0,
            random=lambda: 0.5,
            gateways=2,
        )

    def calls(self) -> dict[str, HostCalls]:
        names = self.routes.shard_hosts
        return {name: HostCalls(self.ingest(name), self.durable(name), self.adopt(name)) for name in names}

    async def begin_collector(self) -> None:
        incarnation = next(self._incarnation)
        self._store = JournalStore.open(f"sqlite:///{self._folder}/journal.db", "collector-0", incarnation)
        self._writer = JournalWriter(self._store, StandingClock(), random.Random(1))
        around = Surroundings(self.clients, self.clock, random.Random(1), "1")
        collector = CollectorSet(self._book, around, self._writer, self.release)
        await collector.recover(self._store, lambda _: True)
        self.collector = collector
        self.feeds = {name: HostFeed(name, "collector-0", incarnation, collector) for name in HOSTS}

    async def end_collector(self) -> None:
        collector, self.collector = self.collector, None
        assert collector is not None
        for tenant in collector._tenants.values():
            await tenant.close()
        await self._writer.close()
        self._store.close()

    # Calls

    def lose_answer(self) -> None:
        if self.loses_answers:
            self.loses_answers -= 1
            raise ConnectionError("answer lost")

    def ingest(self, name: str) -> Any:
        async def call(group: FrameGroup) -> Sequence[Place | None]:
            places = await self._loop.run_in_executor(self._threads[name], self.hosts[name].apply, group)
            self.lose_answer()
            return places

        return call

    def durable(self, name: str) -> Any:
        async def call(keys: Collection[ShardKey]) -> Mapping[ShardKey, Place]:
            return self.hosts[name].durable(keys)

        return call

    def adopt(self, name: str) -> Any:
        async def call(keys: Collection[ShardKey]) -> Collection[ShardKey]:
            here = await self._loop.run_in_executor(self._claiming[name], self.hosts[name].begin, keys)
            self.lose_answer()
            return here

        return call

    async def release(self, host: str, owned: Sequence[tuple[ShardKey, int]]) -> Sequence[FlushRecord]:
        if host not in self.hosts:
            return ()
        records = self.hosts[host].release(owned)
        try:
            self.lose_answer()
        except ConnectionError:
            return ()
        return records

    async def pull(self, name: str) -> None:
        if name in self.hosts:
            await self.feeds[name].pull(_Pulled(self, name), 10)

    # What happens

    async def send(self, gateway: int, tenant: TenantId, body: bytes) -> None:
        """Send a request until it is acknowledged, as clients do."""
        async with asyncio.timeout(20):
            while not isinstance(await self.gateways[gateway].submit(tenant, body), Accepted):
                gateway = 1 - gateway

    async def rescale(self, shards: int) -> None:
        self.version += 1
        self._book.put_overrides(whole_of(self.version, overrides(acme=entry(shards), globex=entry(3 - shards % 2))))
        if self.collector is not None:
            await self.collector.use_overrides(None)

    def scale(self, hosts: int) -> None:
        """Spread tenants over other hosts. The gateways do not know yet: see :meth:`tell`."""
        self.routes = routes(self.routes.version + 1, hosts)
        for name in self.routes.shard_hosts:
            if name not in self.hosts:
                self.hosts[name] = self.new_host(name)

    def tell(self, gateway: int) -> None:
        self.gateways[gateway].put_routes(self.routes, self.calls())

    async def see_off(self) -> None:
        """End the hosts that nobody needs any more, as the controller does."""
        for name in self.hosts.keys() - set(self.routes.shard_hosts):
            is_known = all(gateway._routes is self.routes for gateway in self.gateways)
            if self.collector and is_known and all(gateway.is_done_with(name) for gateway in self.gateways):
                await self.collector.evict(name)
                del self.hosts[name]
                self.collector.forget(name)

    async def settle(self) -> None:
        """Until every frame is journalled, and every host that is too many has left."""
        for number in range(len(self.gateways)):
            self.tell(number)
        async with asyncio.timeout(20):
            while self.hosts.keys() != set(self.routes.shard_hosts):
                for name in HOSTS:
                    await self.pull(name)
                await asyncio.sleep(0.003)
                await self.see_off()
            while any(lane.retention.size_bytes for gateway in self.gateways for lane in gateway._lanes.values()):
                for name in HOSTS:
                    await self.pull(name)
                await asyncio.sleep(0.003)

    @property
    def tenants(self) -> dict[TenantId, TenantCollector]:
        assert self.collector is not None
        return self.collector._tenants

    def counted(self) -> dict[TenantId, dict[str, float]]:
        now_ms = self.clock.now_ms() + 10_000
        return {tenant: collected(one._state.registry, now_ms) for tenant, one in self.tenants.items()}

    def ledgers(self) -> dict[TenantId, Ledger]:
        # Not the snapshot, which is of before if the tenant is being collected just now.
        return {tenant: Ledger.of(one._state.registry.ledger_totals()) for tenant, one in self.tenants.items()}

    def edges(self) -> dict[TenantId, int]:
        return {tenant: one._state.registry.stats()["edges"] for tenant, one in self.tenants.items()}


class _Pulled:
    """The handle of a shard host, for pulls."""

    def __init__(self, world: World, name: str) -> None:
        self.pull = self
        self._world = world
        self._name = name

    async def remote(self, _collector: str, _incarnation: int, acknowledged: Any, fenced: Any) -> Any:
        pulled = self._world.hosts[self._name].pull(acknowledged, fenced, lambda _: True)
        self._world.lose_answer()
        return pulled


def routes(version: int, hosts: int) -> Routes:
    return Routes(version, HOSTS[:hosts], ("collector-0",))


def close(gateway: Dispatcher) -> None:
    for lane in gateway._lanes.values():
        for task in (*lane._tasks, lane._settling):
            if task is not None:
                task.cancel()


_ids = itertools.count(1)


def body(name: str, halves: int) -> list[bytes]:
    """Requests with spans of so many calls, client and server halves in requests of their own."""
    clients, servers = [], []
    for _ in range(halves):
        number = next(_ids)
        trace_id = random.Random(number).randbytes(16)
        call = number.to_bytes(8)
        clients.append(span(name, kind=3, trace_id=trace_id, span_id=call))
        servers.append(span(f"{name} served", kind=2, trace_id=trace_id, span_id=b"s" + call[1:], parent_span_id=call))
    return [request(spans=clients, service="shop"), request(spans=servers, service="stock")]


Step = tuple[str, int]
kinds = ["send", "send", "send", "pull", "pull", "collect", "kill host", "kill collector", "kill gateway"]
kinds += ["rescale", "scale", "tell", "see off", "lose", "again"]
steps = st.tuples(st.sampled_from(kinds), st.integers(0, 7))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A host leaves while it has what nobody pulled; and again, when not everybody knows that it is to leave.
@example([("send", 2), ("send", 3), ("send", 4), ("send", 5), ("scale", 0), ("tell", 1), ("see off", 0)])
@example([("scale", 2), ("send", 4), ("send", 5), ("scale", 0), ("see off", 0), ("send", 2), ("send", 3), ("tell", 1)])
@given(st.lists(steps, min_size=3, max_size=14))
def test_every_request_is_counted_once_whatever_dies(script: list[Step]) -> None:
    with TemporaryDirectory() as folder, structlog.testing.capture_logs() as logs:
        asyncio.run(play(Path(folder), script))
    assert not [line for line in logs if line["log_level"] in {"error", "critical"}]


async def play(folder: Path, script: list[Step]) -> None:
    world = World(folder)
    await world.begin()
    try:
        await act(world, script)
    finally:
        await world.end()


async def test_claim_that_hangs_delays_no_other_tenant_and_its_own_spans_are_counted_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.begin()
    may_end = threading.Event()
    try:
        (first, second), (third, fourth) = body("op", 3), body("op", 3)
        await world.send(0, ACME, first)
        for host in world.hosts.values():
            host._claim = _after(may_end, host._claim)
        # More than a lane has calls in flight.
        waiting = [asyncio.create_task(world.send(number % 2, TENANTS[1], third)) for number in range(8)]
        await until(lambda: all(gateway._unclaimed_bytes for gateway in world.gateways))
        for number in range(20):
            await world.send(number % 2, ACME, first)
        await world.send(0, ACME, second)
        assert not any(task.done() for task in waiting)
        may_end.set()
        await asyncio.gather(*waiting)
        await world.send(0, TENANTS[1], fourth)
        await world.settle()
        assert world.counted() == {tenant: {"op": 3, "op served": 3} for tenant in TENANTS}
        assert world.edges() == dict.fromkeys(TENANTS, 3)
        assert all(ledger.closes for ledger in world.ledgers().values())
    finally:
        may_end.set()
        await world.end()


def _after(may_end: threading.Event, claim: Claim) -> Claim:
    def claim_late(keys: Sequence[ShardKey]) -> Mapping[ShardKey, Claimed]:
        assert may_end.wait(60)
        return claim(keys)

    return claim_late


async def act(world: World, script: list[Step]) -> None:
    sent: Counter[tuple[TenantId, str]] = Counter()
    halves: Counter[TenantId] = Counter()
    bodies: list[tuple[TenantId, bytes]] = []
    late: list[tuple[TenantId, bytes]] = []
    for kind, number in script:
        tenant = TENANTS[number % 2]
        if kind == "send":
            name = f"op {number}"
            client, server = body(name, 1 + number)
            await world.send(number % 2, tenant, client)
            bodies.append((tenant, client))
            # The other half comes later, when something else has happened.
            late.append((tenant, server))
            sent.update({(tenant, name): 1 + number, (tenant, f"{name} served"): 1 + number})
            halves[tenant] += 1 + number
        elif kind == "again" and bodies:
            await world.send(number % 2, *bodies[number % len(bodies)])
        elif kind == "pull":
            await world.pull(HOSTS[number % 3])
        elif kind == "collect":
            for collector in world.tenants.values():
                await collector.collect()
        elif kind == "kill host":
            name = HOSTS[number % 3]
            if name in world.hosts:
                world.hosts[name] = world.new_host(name)
        elif kind == "kill collector":
            await world.end_collector()
            await world.begin_collector()
        elif kind == "kill gateway":
            # What it has passed on is safe as long as no shard host dies at the same instant.
            for name in HOSTS:
                await world.pull(name)
            await world.settle()
            close(world.gateways[number % 2])
            world.gateways[number % 2] = world.new_gateway()
        elif kind == "rescale":
            await world.rescale((1, 2, 4)[number % 3])
        elif kind == "scale":
            world.scale(1 + number % 3)
            # One of them hears of it later.
            world.tell(number % 2)
        elif kind == "tell":
            world.tell(number % 2)
        elif kind == "see off":
            await world.see_off()
        elif kind == "lose":
            world.loses_answers = number
        assert all(ledger.closes for ledger in world.ledgers().values())
        if late and number % 2:
            await world.send(0, *late.pop(0))
    for tenant, server in late:
        await world.send(1, tenant, server)
    world.loses_answers = 0
    await world.settle()
    counted = Counter({(tenant, name): value for tenant, own in world.counted().items() for name, value in own.items()})
    assert counted == sent
    assert +Counter(world.edges()) == halves
    for tenant, ledger in world.ledgers().items():
        spans = sum(count for (owner, _), count in sent.items() if owner == tenant)
        assert (ledger.closes, ledger.waiting) == (True, 0)
        assert ledger.received - ledger.discarded.get("duplicate", 0) == spans
        assert ledger.processors["span_metrics"].generated == spans
        assert ledger.processors["service_graphs"].generated == 2 * halves[tenant] == spans
    assert all(collector.snapshot().shards["open_edges"] == 0 for collector in world.tenants.values())
