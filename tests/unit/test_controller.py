import asyncio
import pickle
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog

from cluster import controller as controller_module
from cluster import host_fleet, ray_compat
from cluster.controller import COLLECTOR_SLOT, Controller
from cluster.errors import StartError
from cluster.gateway.gateway import Ports
from cluster.gateway.listen import CannotListenError
from cluster.gateway_fleet import GATEWAY_SLOT
from cluster.host_fleet import SHARD_SLOT
from cluster.measurements import Measurements
from cluster.placement import Layout, Routes, Scale
from cluster.ray_compat import Node
from tenants.identity import TenantId
from tenants.identity.token_table import TokenTable
from tenants.settings import ServiceConfig
from tenants.settings.in_force import OverridesChange, OverridesInForce, applied, change_between
from tests.overrides_in_force import in_force, whole_of
from tests.unit.actor_handle import ActorHandle
from tests.unit.conditions import until
from tests.unit.tenant_work import config, overrides, spans_on

SECRET = "s3cr3t-token"
FAST = 0.2
CONFIG = config(f"""
cluster: {{shard_hosts: 2}}
remote_write: [{{url: "http://h/{SECRET}", headers: {{Authorization: {SECRET}}}}}]
overrides: {{defaults: {{metrics_generator: {{remote_write_headers: {{X-Key: {SECRET}}}}}}}}}
""")
RUNTIME_OF_ACME = spans_on(
    remote_write=[{"url": "https://acme/", "headers": {"X-Key": SECRET}}], remote_write_headers={"X-A": SECRET}
)
RUNTIME = overrides(acme=RUNTIME_OF_ACME)


async def start(
    controller: Controller, settings: ServiceConfig = CONFIG, version: int = 5, scale: Scale | None = None
) -> dict[str, Ports]:
    scale = scale or Scale(1, settings.cluster.shard_hosts)
    return await controller.start(settings, in_force(RUNTIME, version), 1, TokenTable(), scale)


def newer(base: int = 5, version: int = 6) -> OverridesChange:
    """Return a change that takes acme's entry away."""
    return change_between(in_force(RUNTIME, base), in_force({}, version))


async def version_of(controller: Controller) -> int:
    version, _ = await controller.settings_in_force()
    return version


class Actor:
    """Any of the three actors: knows its settings or not, answers or not."""

    def __init__(self, name: str, journal: list[tuple[str, str]]) -> None:
        self.name = name
        self.journal = journal
        self.overrides = OverridesInForce()
        self.tokens_version = 0
        self.drains = True
        self.fails: set[str] = set()
        self.hangs: set[str] = set()
        self.needs: set[str] = set()
        self._is_configured = False

    async def _answer(self, method: str) -> None:
        self.journal.append((self.name, method))
        if method in self.fails:
            raise ConnectionError(f"{self.name} is unavailable")
        if method in self.hangs:
            await asyncio.sleep(60)

    async def configure(self, _config: Any, *arguments: Any) -> Ports | None:
        await self._answer("configure")
        self._is_configured = True
        self._put(next(each for each in arguments if isinstance(each, OverridesChange)))
        return Ports(4317, 4318) if self.name.startswith("gateway") else None

    async def put_overrides(self, change: OverridesChange) -> bool:
        await self._answer("put_overrides")
        return self._put(change)

    async def put_tokens(self, version: int, _table: TokenTable) -> bool:
        await self._answer("put_tokens")
        self.tokens_version = version
        return True

    def _put(self, change: OverridesChange) -> bool:
        latter = applied(self.overrides, change)
        self.overrides = latter or self.overrides
        return latter is not None

    @property
    def version(self) -> int:
        return self.overrides.version

    async def put_routes(self, _routes: Routes, _hosts: Any) -> bool:
        await self._answer("put_routes")
        return self._is_configured

    async def put_gateways(self, _gateways: int) -> bool:
        await self._answer("put_gateways")
        return True

    async def is_done_with(self, host: str) -> bool:
        await self._answer("is_done_with")
        return host not in self.needs

    async def evict(self, _host: str) -> None:
        await self._answer("evict")

    async def is_configured(self) -> bool:
        self.journal.append((self.name, "is_configured"))
        if "is_configured" in self.fails:
            raise ConnectionError("restarting")
        return self._is_configured

    async def measure(self) -> Measurements:
        await self._answer("measure")
        return [("millrace_settings_version", (), self.version)]

    async def snapshots(self) -> dict[TenantId, str]:
        await self._answer("snapshots")
        return {TenantId("acme"): self.name}

    async def drain(self, _deadline_s: float) -> bool:
        await self._answer("drain")
        return self.drains


class Cluster:
    """What Ray would be asked for: actors by name, nodes with slots, killing."""

    def __init__(self) -> None:
        self.nodes = [Node("here", "127.0.0.1", True, False, 0, {})]
        self.places: dict[str, str] = {}
        self.journal: list[tuple[str, str]] = []
        self.handles: dict[str, ActorHandle] = {}
        self.options: dict[str, dict[str, Any]] = {}
        self.killed: list[str] = []
        self.restarted: list[str] = []
        self.ended: set[str] = set()
        self.prepare: Callable[[Actor], None] = lambda _: None

    def create_actor(self, _actor_class: type, name: str, **options: Any) -> ActorHandle:
        self.options[name] = options
        if name not in self.handles or name in self.ended:
            self.ended.discard(name)
            actor = Actor(name, self.journal)
            self.prepare(actor)
            self.handles[name] = ActorHandle(actor)
        return self.handles[name]

    def actor(self, name: str) -> Actor:
        actor: Actor = self.handles[name].actor
        return actor

    def restart(self, name: str) -> None:
        self.handles[name].actor = Actor(name, self.journal)

    def find_actors(self, prefix: str) -> dict[str, ActorHandle]:
        names = [name for name in self.handles if name.startswith(prefix) and name not in self.ended]
        return {name: self.handles[name] for name in names}

    def slots(self, slot: str) -> int:
        return int(sum(node.resources.get(slot, 0) for node in self.nodes if node.is_alive))

    def add_nodes(self, **slots: str) -> None:
        """Add nodes by id, each with a slot of every kind that is named."""
        self.nodes += [
            Node(id_, f"10.0.0.{len(self.nodes)}", True, False, 0, dict.fromkeys(kinds.split(), 1.0))
            for id_, kinds in slots.items()
        ]

    def change_node(self, id_: str, **changes: Any) -> None:
        self.nodes = [replace(node, **changes) if node.id == id_ else node for node in self.nodes]

    def restart_elsewhere(self, handle: ActorHandle) -> None:
        self.restarted.append(handle.actor.name)
        self.places.pop(handle.actor.name)
        self.restart(handle.actor.name)

    def kill(self, handle: ActorHandle) -> None:
        self.killed.append(handle.actor.name)
        self.ended.add(handle.actor.name)

    def order(self, method: str) -> list[str]:
        return [name for name, called in self.journal if called == method]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(ray_compat, "create_actor", made.create_actor)
    monkeypatch.setattr(ray_compat, "kill", made.kill)
    monkeypatch.setattr(ray_compat, "find_actors", made.find_actors)
    monkeypatch.setattr(ray_compat, "slots", made.slots)
    monkeypatch.setattr(ray_compat, "nodes", lambda: list(made.nodes))
    monkeypatch.setattr(ray_compat, "places", lambda: dict(made.places))
    monkeypatch.setattr(ray_compat, "restart", made.restart_elsewhere)
    monkeypatch.setattr(controller_module, "_WATCH_INTERVAL_S", 0.01)
    # It directs the log of a process; this one is the tests'.
    monkeypatch.setattr(controller_module, "set_up_logging", lambda *_: None)
    return made


@pytest.fixture
async def controller(cluster: Cluster) -> AsyncIterator[Controller]:
    made = Controller("controller")
    yield made
    tasks = [made._watching, *made._reconfiguring.values()]
    for task in (running := [task for task in tasks if task is not None]):
        task.cancel()
    if running:
        await asyncio.wait(running)


def silently() -> Any:
    return structlog.testing.capture_logs()


# Starting


async def test_gateways_are_configured_last_and_their_ports_returned(cluster: Cluster, controller: Controller) -> None:
    assert await start(controller) == {"gateway-0": Ports(4317, 4318)}
    assert sorted(cluster.handles) == ["collector-0", "gateway-0", "shard-host-0", "shard-host-1"]
    assert [name[:-2] for name in cluster.order("configure")] == ["shard-host", "shard-host", "collector", "gateway"]
    routes = Routes(1, ("shard-host-0", "shard-host-1"), ("collector-0",))
    assert cluster.handles["shard-host-1"].sent("configure")[0][1] == routes
    assert cluster.handles["gateway-0"].sent("configure")[0][1] == routes
    assert cluster.handles["shard-host-1"].sent("configure")[0][2] == {"collector-0": cluster.handles["collector-0"]}
    assert cluster.handles["collector-0"].sent("configure")[0][1:3] == (
        routes,
        {name: cluster.handles[name] for name in routes.shard_hosts},
    )


async def test_only_the_collector_is_told_secrets(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    change = change_between(in_force(RUNTIME, 5), in_force(overrides(globex=RUNTIME_OF_ACME), 6))
    assert await controller.put_overrides(change)
    cluster.restart("shard-host-0")
    cluster.restart("gateway-0")
    await until(lambda: len(cluster.order("configure")) == 6)
    for name, handle in cluster.handles.items():
        told = any(SECRET.encode() in pickle.dumps(arguments) for _, arguments in handle.arguments)
        assert told == (name == "collector-0"), name
    collector = cluster.handles["collector-0"]
    assert (collector.sent("configure")[0][0], collector.sent("configure")[0][3]) == (CONFIG, whole_of(5, RUNTIME))
    assert collector.sent("put_overrides") == [(change,)]


async def test_number_of_actors_follows_configuration_then_slots_then_cores(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def names_of(text: str) -> list[str]:
        cluster.handles.clear()
        controller = Controller("controller")
        await start(controller, config(text))
        assert controller._watching is not None
        controller._watching.cancel()
        return sorted(cluster.handles)

    for cores, hosts in ((None, 1), (1, 1), (2, 1), (3, 1), (8, 4)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert len([name for name in await names_of("") if name.startswith("shard-host")]) == hosts
    cluster.add_nodes(a=f"{SHARD_SLOT} {GATEWAY_SLOT} {COLLECTOR_SLOT}", b=f"{SHARD_SLOT} {GATEWAY_SLOT}")
    cluster.add_nodes(c=SHARD_SLOT, d=SHARD_SLOT)
    names = await names_of("")
    assert len([name for name in names if name.startswith("shard-host")]) == 4
    assert len([name for name in names if name.startswith("gateway")]) == 2
    assert len([n for n in await names_of("cluster: {shard_hosts: 1}") if n.startswith("shard-host")]) == 1


async def test_claims_pulls_and_control_have_threads_of_their_own_in_a_shard_host(
    cluster: Cluster, controller: Controller
) -> None:
    await start(controller)
    assert cluster.options["shard-host-0"]["concurrency_groups"] == {"pull": 1, "control": 1, "claim": 1}
    slots = {name: options["slot"] for name, options in cluster.options.items()}
    assert slots["shard-host-0"] == SHARD_SLOT
    assert (slots["collector-0"], slots["gateway-0"]) == (COLLECTOR_SLOT, GATEWAY_SLOT)


async def test_gateways_are_told_how_many_share_the_rates(cluster: Cluster, controller: Controller) -> None:
    cluster.add_nodes(a=GATEWAY_SLOT, b=GATEWAY_SLOT, c=GATEWAY_SLOT)
    await start(controller)
    for node in "abc":
        assert [arguments[-1] for arguments in cluster.handles[f"gateway-{node}"].sent("configure")] == [3]


async def test_address_that_cannot_be_had_ends_the_start(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def taken(self: Actor, *_arguments: Any) -> None:
        raise CannotListenError("127.0.0.1:4317", "in use")

    cluster.prepare = lambda actor: (
        monkeypatch.setattr(actor, "configure", taken.__get__(actor)) if actor.name == "gateway-0" else None
    )
    with pytest.raises(CannotListenError, match="4317"):
        await start(controller)
    assert await version_of(controller) == 0


async def test_actors_that_do_not_come_up_are_named(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_module, "_START_TIMEOUT_S", FAST)
    cluster.prepare = lambda actor: actor.hangs.add("configure")
    with pytest.raises(StartError, match="shard-host-0, shard-host-1 did not come up"):
        await start(controller)


async def test_controller_that_was_restarted_finds_the_actors_again(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    handles = dict(cluster.handles)
    again = Controller("controller")
    assert await version_of(again) == 0
    assert not await again.is_ready()
    assert await start(again) == {"gateway-0": Ports(4317, 4318)}
    assert cluster.handles == handles
    assert await version_of(again) == 5
    assert await again.is_ready()
    assert again._watching is not None
    again._watching.cancel()


# Watching


async def test_restarted_actor_is_told_the_newest_settings(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    await controller.put_overrides(newer())
    for name in list(cluster.handles):
        cluster.restart(name)
    with silently() as logs:
        await until(lambda: all(handle.actor.version == 6 for handle in cluster.handles.values()))
    assert {line["actor"] for line in logs} == set(cluster.handles)


async def test_actor_that_cannot_be_configured_is_tried_again_and_stops_nobody(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(controller)
    for name in ("shard-host-0", "gateway-0"):
        cluster.restart(name)
    cluster.actor("shard-host-0").hangs.add("configure")
    with silently():
        await until(lambda: cluster.actor("gateway-0").version == 5)
        cluster.restart("shard-host-0")
        cluster.actor("shard-host-0").fails.add("configure")
        monkeypatch.setattr(controller_module, "_START_TIMEOUT_S", FAST)
        # The call that hangs was begun under the long limit.
        controller._reconfiguring["shard-host-0"].cancel()
        await until(lambda: cluster.order("configure").count("shard-host-0") >= 4)
        cluster.actor("shard-host-0").fails.clear()
        await until(lambda: cluster.actor("shard-host-0").version == 5)


async def test_while_one_actor_is_being_configured_the_others_are_looked_after(
    cluster: Cluster, controller: Controller
) -> None:
    await start(controller)
    cluster.restart("collector-0")
    cluster.actor("collector-0").hangs.add("configure")
    cluster.journal.clear()
    with silently():
        await until(lambda: "collector-0" in cluster.order("configure"))
        for _ in range(3):
            cluster.restart("gateway-0")
            await until(lambda: cluster.actor("gateway-0").version == 5)
        cluster.restart("shard-host-1")
        await until(lambda: cluster.actor("shard-host-1").version == 5)
        # It is told once, however often it is looked at meanwhile.
        assert cluster.order("configure").count("collector-0") == 1
        await controller.drain(1.0)
    assert not controller._reconfiguring


async def test_actor_that_missed_newer_settings_gets_them_when_it_is_back(
    cluster: Cluster, controller: Controller
) -> None:
    await start(controller)
    away = cluster.actor("shard-host-1")
    away.fails = {"put_overrides", "is_configured"}
    with silently() as logs:
        await controller.put_overrides(newer())
    assert [(line["actor"], line["problem"]) for line in logs] == [("shard-host-1", "ConnectionError")]
    versions = {name: cluster.actor(name).version for name in cluster.handles}
    assert versions == {"shard-host-0": 6, "shard-host-1": 5, "collector-0": 6, "gateway-0": 6}
    away.fails = set()
    await until(lambda: away.version == 6)
    told = len(cluster.order("put_overrides"))
    await asyncio.sleep(0.05)
    assert len(cluster.order("put_overrides")) == told


async def test_watching_survives_its_own_bugs(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(controller)
    bugs = [RuntimeError("bug")]
    actors = controller._actors

    def failing() -> dict[str, Any]:
        if bugs:
            raise bugs.pop()
        return actors()

    monkeypatch.setattr(controller, "_actors", failing)
    with silently() as logs:
        await until(lambda: not bugs)
        cluster.restart("gateway-0")
        await until(lambda: cluster.actor("gateway-0").version == 5)
    assert logs[0]["event"] == "actors could not be looked after"


# Settings


async def test_settings_reach_the_collector_first_and_the_gateways_last(
    cluster: Cluster, controller: Controller
) -> None:
    """A span that is generated under new settings must not arrive where they are not known yet."""
    await start(controller)
    await controller.put_overrides(newer())
    told = [name[:-2] for name in cluster.order("put_overrides")]
    assert told == ["collector", "shard-host", "shard-host", "gateway"]


async def test_older_settings_are_not_put_over_newer_ones(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    await controller.put_overrides(newer(3, 4))
    assert cluster.order("put_overrides") == []
    assert await version_of(controller) == 5


async def test_settings_wait_for_nobody_longer_than_an_answer_may_take(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(controller)
    cluster.actor("collector-0").hangs.add("put_overrides")
    monkeypatch.setattr(controller_module._answers, "__defaults__", (0.02,))
    with silently():
        async with asyncio.timeout(20):
            await controller.put_overrides(newer())
    assert cluster.actor("gateway-0").version == 6


async def test_controller_without_the_base_of_a_change_asks_for_the_whole(
    cluster: Cluster, controller: Controller
) -> None:
    await start(controller)
    assert not await controller.put_overrides(newer(base=7, version=8))
    assert cluster.order("put_overrides") == []
    assert await controller.settings_in_force() == (5, True)
    assert await start(controller, version=8)
    assert await controller.settings_in_force() == (8, True)
    assert {handle.actor.version for handle in cluster.handles.values()} == {8}


async def test_actor_without_the_base_of_a_change_is_told_the_whole(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    cluster.actor("gateway-0").overrides = in_force({}, 3)
    with silently() as logs:
        assert await controller.put_overrides(newer())
        assert await controller.settings_in_force() == (6, False)
    assert [(line["actor"], line["problem"]) for line in logs] == [("gateway-0", "missed an earlier change")]
    await until(lambda: cluster.actor("gateway-0").version == 6)
    assert cluster.actor("gateway-0").overrides == in_force({}, 6)
    while await controller.settings_in_force() != (6, True):  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_settings_are_everywhere_when_the_last_actor_has_taken_them(
    cluster: Cluster, controller: Controller
) -> None:
    await start(controller)
    gateway = cluster.actor("gateway-0")
    taken = asyncio.Event()
    take = gateway.put_overrides

    async def slowly(change: OverridesChange) -> bool:
        await taken.wait()
        return await take(change)

    gateway.put_overrides = slowly  # type: ignore[method-assign]
    putting = asyncio.ensure_future(controller.put_overrides(newer()))
    await until(lambda: len(cluster.handles["gateway-0"].sent("put_overrides")) == 1)
    assert await controller.settings_in_force() == (6, False)
    taken.set()
    assert await putting
    assert await controller.settings_in_force() == (6, True)


async def test_late_answer_to_older_settings_does_not_hide_that_newer_ones_were_missed(
    cluster: Cluster, controller: Controller
) -> None:
    await start(controller)
    away, other = cluster.actor("shard-host-0"), cluster.actor("shard-host-1")
    answered = asyncio.Event()
    take = other.put_overrides

    async def slowly(change: OverridesChange) -> bool:
        if change.version == 6:
            await answered.wait()
        return await take(change)

    other.put_overrides = slowly  # type: ignore[method-assign]
    older = asyncio.ensure_future(controller.put_overrides(newer()))
    await until(lambda: away.version == 6)
    away.fails = {"put_overrides", "is_configured"}
    with silently():
        assert await controller.put_overrides(newer(6, 7))
        answered.set()
        assert await older
        assert await controller.settings_in_force() == (7, False)
    away.fails = set()
    await until(lambda: away.version == 7)


# Tokens


async def test_tokens_reach_gateways_only_and_those_that_missed_them_later(
    cluster: Cluster, controller: Controller
) -> None:
    cluster.add_nodes(a=GATEWAY_SLOT, b=GATEWAY_SLOT)
    await start(controller)
    away = cluster.actor("gateway-b")
    away.fails = {"put_tokens", "is_configured"}
    with silently() as logs:
        await controller.put_tokens(2, TokenTable())
    assert [(line["actor"], line["problem"]) for line in logs] == [("gateway-b", "ConnectionError")]
    assert [cluster.actor(name).tokens_version for name in ("gateway-a", "gateway-b")] == [2, 1]
    away.fails = set()
    await until(lambda: away.tokens_version == 2)
    assert set(cluster.order("put_tokens")) == {"gateway-a", "gateway-b"}
    await controller.put_tokens(1, TokenTable())
    assert cluster.actor("gateway-a").tokens_version == 2


# Questions


async def test_actor_that_does_not_answer_is_reported_as_down(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    cluster.actor("shard-host-0").fails.add("measure")
    measured = await controller.measure()
    assert measured["shard-host-0"] == [("millrace_actor_up", (), 0.0)]
    assert measured["gateway-0"] == [("millrace_actor_up", (), 1.0), ("millrace_settings_version", (), 5)]
    assert sorted(measured) == sorted(cluster.handles)


async def test_ready_means_that_some_gateway_accepts(cluster: Cluster, controller: Controller) -> None:
    assert not await controller.is_ready()
    cluster.add_nodes(a=GATEWAY_SLOT, b=GATEWAY_SLOT)
    await start(controller)
    assert await controller.is_ready()
    cluster.actor("gateway-b").fails.add("is_configured")
    assert await controller.is_ready()
    cluster.actor("gateway-a").fails.add("is_configured")
    assert not await controller.is_ready()


async def test_tenants_of_collectors_that_answer_are_listed(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    assert await controller.tenants() == {TenantId("acme"): "collector-0"}
    cluster.actor("collector-0").fails.add("snapshots")
    assert await controller.tenants() == {}


# Draining


async def test_drain_goes_with_the_stream_and_ends_every_actor(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    cluster.journal.clear()
    with silently():
        assert await controller.drain(40.0)
    assert cluster.journal == [
        ("gateway-0", "drain"),
        ("collector-0", "drain"),
    ]
    assert sorted(cluster.killed) == sorted(cluster.handles)
    assert controller._watching is not None
    assert controller._watching.done()
    assert cluster.handles["gateway-0"].sent("drain") == [(20.0,)]
    assert 30 < cluster.handles["collector-0"].sent("drain")[0][0] <= 40


async def test_drain_says_so_when_something_is_left(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    cluster.actor("collector-0").drains = False
    with silently():
        assert not await controller.drain(1.0)
    assert sorted(cluster.killed) == sorted(cluster.handles)


async def test_actors_that_hang_or_fail_leave_time_for_the_collector(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    cluster.actor("gateway-0").fails.add("drain")
    with silently() as logs:
        async with asyncio.timeout(20):
            assert await controller.drain(40.0)
    assert [(line["kind"], line["log_level"]) for line in logs if "kind" in line] == [("gateway", "error")]
    assert 30 < cluster.handles["collector-0"].sent("drain")[0][0] <= 40
    assert sorted(cluster.killed) == sorted(cluster.handles)


async def test_collector_that_does_not_answer_means_not_sent(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_module, "_ANSWER_TIMEOUT_S", 0.05)
    await start(controller)
    cluster.actor("collector-0").hangs.add("drain")
    with silently():
        async with asyncio.timeout(20):
            assert not await controller.drain(0.1)
    assert "collector-0" in cluster.killed


# Another number of shard hosts


async def until_layout(controller: Controller, hosts: int, leaving: int = 0) -> Layout:
    async with asyncio.timeout(20):
        while True:
            layout = await controller.layout()
            if (len(layout.shard_hosts), len(layout.leaving), layout.is_everywhere) == (hosts, leaving, True):
                return layout
            await asyncio.sleep(0.005)


async def test_new_hosts_are_up_before_the_collector_hears_of_them_and_gateways_are_last(
    cluster: Cluster, controller: Controller
) -> None:
    await start(controller)
    cluster.journal.clear()
    await controller.rescale(Scale(2, 4))
    called = [(name, method) for name, method in cluster.journal if method in {"configure", "put_routes"}]
    assert called == [
        ("shard-host-2", "configure"),
        ("shard-host-3", "configure"),
        ("collector-0", "put_routes"),
        ("gateway-0", "put_routes"),
    ]
    routes = Routes(2, tuple(f"shard-host-{index}" for index in range(4)), ("collector-0",))
    handles = {name: cluster.handles[name] for name in routes.shard_hosts}
    assert cluster.handles["gateway-0"].sent("put_routes") == [(routes, handles)]
    assert cluster.handles["collector-0"].sent("put_routes") == [(routes, handles)]
    assert await controller.layout() == Layout(2, routes.shard_hosts, (), is_everywhere=True)
    # Restarted ones, and settings, reach the new ones too.
    await controller.put_overrides(newer())
    assert cluster.actor("shard-host-3").version == 6


async def test_older_wish_is_not_fulfilled(cluster: Cluster, controller: Controller) -> None:
    await start(controller, scale=Scale(5, 2))
    await controller.rescale(Scale(5, 3))
    await controller.rescale(Scale(4, 3))
    assert sorted(cluster.handles) == ["collector-0", "gateway-0", "shard-host-0", "shard-host-1"]


async def test_wish_before_the_start_waits_for_it(cluster: Cluster, controller: Controller) -> None:
    await controller.rescale(Scale(5, 3))
    assert cluster.handles == {}
    assert (await controller.layout()).version == 0


async def test_hosts_that_do_not_come_up_change_nothing(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(controller)
    monkeypatch.setattr(controller_module, "_START_TIMEOUT_S", FAST)
    cluster.prepare = lambda actor: actor.hangs.add("configure")
    with pytest.raises(StartError, match="shard-host-2, shard-host-3 did not come up"):
        await controller.rescale(Scale(2, 4))
    assert sorted(cluster.killed) == ["shard-host-2", "shard-host-3"]
    assert await controller.layout() == Layout(1, ("shard-host-0", "shard-host-1"), (), is_everywhere=True)
    assert cluster.order("put_routes") == []
    cluster.prepare = lambda _: None
    monkeypatch.setattr(controller_module, "_START_TIMEOUT_S", 20.0)
    await controller.rescale(Scale(3, 3))
    assert (await controller.layout()).shard_hosts == ("shard-host-0", "shard-host-1", "shard-host-2")


async def test_host_leaves_when_gateways_and_collector_need_nothing_of_it(
    cluster: Cluster, controller: Controller
) -> None:
    await start(controller)
    gateway = cluster.actor("gateway-0")
    gateway.needs.add("shard-host-1")
    await controller.rescale(Scale(2, 1))
    await until(lambda: cluster.order("is_done_with").count("gateway-0") > 2)
    assert (await controller.layout()).leaving == ("shard-host-1",)
    assert cluster.killed == []
    assert cluster.order("evict") == []
    # It is looked after until then.
    cluster.restart("shard-host-1")
    with silently():
        await until(lambda: cluster.actor("shard-host-1").version == 5)
    gateway.needs.clear()
    with silently():
        await until_layout(controller, 1)
    assert cluster.handles["collector-0"].sent("evict") == [("shard-host-1",)]
    assert cluster.killed == ["shard-host-1"]
    told = cluster.handles["collector-0"].sent("put_routes")
    assert [sorted(hosts) for _, hosts in told] == [["shard-host-0", "shard-host-1"], ["shard-host-0"]]
    assert set(await controller.measure()) == {"shard-host-0", "collector-0", "gateway-0"}


async def test_host_that_the_collector_cannot_evict_stays(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    cluster.actor("collector-0").fails.add("evict")
    with silently():
        await controller.rescale(Scale(2, 1))
        await until(lambda: cluster.order("evict").count("collector-0") > 1)
        assert cluster.killed == []
        cluster.actor("collector-0").fails.clear()
        await until_layout(controller, 1)
    assert cluster.killed == ["shard-host-1"]


async def test_host_that_is_wanted_again_before_it_left_stays(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    cluster.actor("gateway-0").needs.add("shard-host-1")
    before = cluster.handles["shard-host-1"]
    await controller.rescale(Scale(2, 1))
    await controller.rescale(Scale(3, 2))
    cluster.actor("gateway-0").needs.clear()
    looks = cluster.order("is_configured").count("gateway-0")
    await until(lambda: cluster.order("is_configured").count("gateway-0") > looks + 2)
    assert cluster.killed == []
    assert cluster.handles["shard-host-1"] is before
    assert await controller.layout() == Layout(3, ("shard-host-0", "shard-host-1"), (), is_everywhere=True)


async def test_gateways_wait_for_the_collector_to_know_the_routes(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    cluster.actor("collector-0").fails = {"put_routes"}
    with silently() as logs:
        await controller.rescale(Scale(2, 3))
        assert [line["actor"] for line in logs if line["event"] == "actor did not take the routes"] == ["collector-0"]
        assert not (await controller.layout()).is_everywhere
        assert cluster.order("put_routes").count("gateway-0") == 0
        cluster.actor("collector-0").fails = set()
        await until_layout(controller, 3)
    assert cluster.order("put_routes")[-2:] == ["collector-0", "gateway-0"]


async def test_restarted_actors_are_told_the_newest_routes(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    await controller.rescale(Scale(2, 3))
    with silently():
        for name in ("gateway-0", "collector-0"):
            cluster.restart(name)
            await until(lambda name=name: cluster.actor(name).version == 5)
            assert cluster.handles[name].sent("configure")[-1][1].version == 2


async def test_controller_that_was_restarted_in_the_middle_finishes_what_was_begun(
    cluster: Cluster, controller: Controller
) -> None:
    await start(controller, scale=Scale(1, 3))
    cluster.actor("gateway-0").needs.add("shard-host-2")
    await controller.rescale(Scale(2, 1))
    assert controller._watching is not None
    controller._watching.cancel()
    again = Controller("controller")
    with silently():
        await start(again, scale=Scale(2, 1))
        await until(lambda: cluster.killed == ["shard-host-1"])
        assert (await again.layout()).leaving == ("shard-host-2",)
        cluster.actor("gateway-0").needs.clear()
        await until_layout(again, 1)
    assert again._watching is not None
    again._watching.cancel()


async def test_settings_pushed_while_a_host_comes_up_reach_it(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(controller)
    come = asyncio.Event()

    async def slowly(self: Actor, *arguments: Any) -> None:
        await come.wait()
        await Actor.configure(self, *arguments)

    cluster.prepare = lambda actor: monkeypatch.setattr(actor, "configure", slowly.__get__(actor))
    rescaling = asyncio.ensure_future(controller.rescale(Scale(2, 3)))
    await until(lambda: "shard-host-2" in cluster.handles)
    async with asyncio.timeout(20):
        await controller.put_overrides(newer())
    come.set()
    await rescaling
    with silently():
        await until(lambda: cluster.actor("shard-host-2").version == 6)


# Nodes


ALL_SLOTS = f"{GATEWAY_SLOT} {SHARD_SLOT} {COLLECTOR_SLOT}"


def soon_absent(monkeypatch: pytest.MonkeyPatch, after_s: float = FAST) -> None:
    monkeypatch.setattr(host_fleet, "_ABSENT_AFTER_S", after_s)


async def test_gateway_appears_on_a_node_that_is_added_and_all_share_the_rates_anew(
    cluster: Cluster, controller: Controller
) -> None:
    cluster.add_nodes(a=ALL_SLOTS, b=SHARD_SLOT)
    assert await start(controller) == {"gateway-a": Ports(4317, 4318)}
    assert (cluster.options["gateway-a"]["node"], cluster.options["shard-host-0"].get("node")) == ("a", None)
    with silently():
        cluster.add_nodes(c=GATEWAY_SLOT, d=SHARD_SLOT)
        await until(lambda: "gateway-c" in cluster.order("configure"))
        await until(lambda: cluster.handles["gateway-a"].sent("put_gateways") == [(2,)])
        await until(lambda: len(controller._gateways.accepting) == 2)
    assert sorted(await controller.ports()) == ["gateway-a", "gateway-c"]
    assert cluster.handles["gateway-c"].sent("configure")[0][-1] == 2
    assert "gateway-d" not in cluster.handles


async def test_gateway_is_forgotten_with_its_node(cluster: Cluster, controller: Controller) -> None:
    cluster.add_nodes(a=ALL_SLOTS, b=f"{GATEWAY_SLOT} {SHARD_SLOT}")
    await start(controller)
    cluster.actor("gateway-b").fails |= {"is_configured", "put_overrides"}
    with silently():
        await controller.put_overrides(newer())
        assert await controller.settings_in_force() == (6, False)
        cluster.change_node("b", is_alive=False)
        await until(lambda: "gateway-b" in cluster.killed)
        await until(lambda: not controller._behind)
    assert await controller.is_ready()
    assert "gateway-b" not in await controller.measure()
    await until(lambda: cluster.handles["gateway-a"].sent("put_gateways") == [(1,)])


async def test_gateway_on_a_node_that_drains_stops_first_and_is_asked_for_leaving_hosts_until_it_ends(
    cluster: Cluster, controller: Controller
) -> None:
    cluster.add_nodes(a=ALL_SLOTS, b=ALL_SLOTS)
    await start(controller)
    draining = cluster.actor("gateway-b")
    draining.hangs.add("drain")
    draining.needs.add("shard-host-1")
    cluster.places = {"gateway-b": "b", "shard-host-1": "b", "collector-0": "b", "shard-host-0": "a"}
    with silently():
        cluster.change_node("b", is_draining=True)
        await until(lambda: "gateway-b" in cluster.order("drain"))
        await until(lambda: controller._routes.shard_hosts == ("shard-host-0",))
        assert sorted(await controller.ports()) == ["gateway-a"]
        looks = cluster.order("is_done_with").count("gateway-b")
        await until(lambda: cluster.order("is_done_with").count("gateway-b") > looks + 1)
        assert cluster.killed == []
        assert cluster.restarted == []
        # One that leaves is not made to accept again when its process is restarted.
        draining._is_configured = False
        told = len(cluster.handles["gateway-b"].sent("configure"))
        await until(lambda: cluster.order("is_done_with").count("gateway-b") > looks + 4)
        assert len(cluster.handles["gateway-b"].sent("configure")) == told
    controller._gateways._tasks["gateway-b"].cancel()


async def test_node_that_drains_is_left_by_all(cluster: Cluster, controller: Controller) -> None:
    cluster.add_nodes(a=ALL_SLOTS, b=ALL_SLOTS)
    await start(controller)
    cluster.places = {"gateway-b": "b", "shard-host-1": "b", "collector-0": "b", "shard-host-0": "a"}
    former = cluster.handles["shard-host-1"]

    def prepare(actor: Actor) -> None:
        # It has no place any more.
        actor.hangs.add("configure")
        cluster.places.pop(actor.name, None)

    cluster.prepare = prepare
    with silently() as logs:
        cluster.change_node("b", is_draining=True)
        await until(lambda: cluster.restarted == ["collector-0"])
    assert cluster.killed == ["gateway-b", "shard-host-1"] or cluster.killed == ["shard-host-1", "gateway-b"]
    assert controller._routes.shard_hosts == ("shard-host-0",)
    assert (await controller.layout()).version == 1
    told = [routes for routes, _ in cluster.handles["gateway-a"].sent("put_routes")]
    assert told[-1].shard_hosts == ("shard-host-0",)
    assert [line for line in logs if line["log_level"] == "error"] == []
    await until(lambda: cluster.handles["shard-host-1"] is not former)
    with silently():
        # A node comes that has a place.
        cluster.actor("shard-host-1").hangs.clear()
        cluster.restart("shard-host-1")
        controller._hosts._waiting["shard-host-1"].cancel()
        await until(lambda: controller._routes.shard_hosts == ("shard-host-0", "shard-host-1"))


async def test_all_stay_where_nobody_else_is(cluster: Cluster, controller: Controller) -> None:
    cluster.add_nodes(a=ALL_SLOTS)
    await start(controller)
    cluster.places = {"shard-host-0": "a", "shard-host-1": "a", "collector-0": "a", "gateway-a": "a"}
    with silently():
        cluster.change_node("a", is_draining=True)
        await until(lambda: "gateway-a" in cluster.killed)
        looks = cluster.order("is_configured").count("collector-0")
        await until(lambda: cluster.order("is_configured").count("collector-0") > looks + 3)
    assert cluster.restarted == []
    assert cluster.killed == ["gateway-a"]


async def test_silent_shard_host_gets_nothing_and_comes_back(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon_absent(monkeypatch)
    await start(controller)
    lost = cluster.handles["shard-host-1"]
    lost.actor.fails.add("is_configured")
    with silently():
        await until(lambda: cluster.killed == ["shard-host-1"])
        assert cluster.handles["collector-0"].sent("evict") == [("shard-host-1",)]
        await until(lambda: controller._routes.shard_hosts == ("shard-host-0", "shard-host-1"))
    assert cluster.handles["shard-host-1"] is not lost
    versions = [routes.version for routes, _ in cluster.handles["gateway-0"].sent("put_routes")]
    assert versions == sorted(set(versions))
    # A wish of the operator is newer than all of these.
    await controller.rescale(Scale(2, 3))
    assert controller._routes.version > versions[-1]
    assert (await controller.layout()).version == 2


async def test_silent_shard_hosts_stay_if_all_are(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon_absent(monkeypatch)
    await start(controller)
    for name in ("shard-host-0", "shard-host-1"):
        cluster.actor(name).fails.add("is_configured")
    with silently():
        looks = cluster.order("is_configured").count("gateway-0")
        await until(lambda: cluster.order("is_configured").count("gateway-0") > looks + 10)
    assert cluster.killed == []
    assert len(controller._routes.shard_hosts) == 2


async def test_restarted_controller_goes_on_with_the_hosts_that_have_a_place(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_fleet, "_PATIENCE_S", FAST)
    await start(controller)
    cluster.restart("shard-host-1")
    cluster.actor("shard-host-1").hangs.add("configure")
    again = Controller("controller")
    with silently():
        assert await start(again) == {"gateway-0": Ports(4317, 4318)}
        told = cluster.handles["gateway-0"].sent("configure")[-1][1]
        assert told.shard_hosts == ("shard-host-0",)
        # Newer than what the former one may have told.
        assert told.version > 1_000_000_000_000
        again._hosts._waiting["shard-host-1"].cancel()
        cluster.restart("shard-host-1")
        await until(lambda: again._routes.shard_hosts == ("shard-host-0", "shard-host-1"))
    assert again._watching is not None
    again._watching.cancel()


async def test_without_a_node_for_gateways_the_start_waits_for_one(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add_nodes(a=f"{SHARD_SLOT} {COLLECTOR_SLOT}")
    starting = asyncio.ensure_future(start(controller))
    await until(lambda: "collector-0" in cluster.order("configure"))
    cluster.add_nodes(b=GATEWAY_SLOT)
    assert await starting == {"gateway-b": Ports(4317, 4318)}
    monkeypatch.setattr(controller_module, "_START_TIMEOUT_S", FAST)
    cluster.nodes = [node for node in cluster.nodes if node.id != "b"]
    with pytest.raises(StartError, match="no node of the cluster offers gateway_slot"):
        await start(Controller("controller"))


async def test_more_hosts_come_with_more_places_if_nobody_said_how_many(
    cluster: Cluster, controller: Controller
) -> None:
    cluster.add_nodes(a=ALL_SLOTS, b=SHARD_SLOT)
    await start(controller, scale=Scale(1, 0))
    assert len(controller._routes.shard_hosts) == 2
    with silently():
        cluster.add_nodes(c=SHARD_SLOT)
        await until(lambda: len(controller._routes.shard_hosts) == 3)
        # A node that leaves does not make them fewer: another one may come.
        cluster.change_node("c", is_alive=False)
        looks = cluster.order("is_configured").count("collector-0")
        await until(lambda: cluster.order("is_configured").count("collector-0") > looks + 3)
    assert len(controller._hosts.wanted) == 3


async def test_actors_are_looked_after_while_the_cluster_does_not_tell_its_nodes(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(controller)

    def fail() -> None:
        raise ConnectionError("no GCS")

    monkeypatch.setattr(ray_compat, "nodes", fail)
    with silently():
        cluster.restart("gateway-0")
        await until(lambda: cluster.actor("gateway-0").version == 5)
    assert cluster.killed == []


async def test_gateway_that_cannot_be_started_on_a_new_node_is_tried_again(
    cluster: Cluster, controller: Controller
) -> None:
    cluster.add_nodes(a=ALL_SLOTS)
    await start(controller)
    cluster.prepare = lambda actor: actor.fails.add("configure")
    with silently() as logs:
        cluster.add_nodes(b=GATEWAY_SLOT)
        await until(lambda: cluster.killed.count("gateway-b") > 1)
        assert sorted(await controller.ports()) == ["gateway-a"]
        cluster.prepare = lambda _: None
        await until(lambda: "gateway-b" in controller._gateways.accepting)
    assert any(line["event"] == "gateway could not be started; it is tried again" for line in logs)


async def test_gateway_leaves_in_the_time_that_its_node_has(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add_nodes(a=ALL_SLOTS, b=GATEWAY_SLOT, c=GATEWAY_SLOT, d=GATEWAY_SLOT)
    await start(controller)
    in_10_s = int((time.time() + 10) * 1000)
    with silently():
        cluster.change_node("b", is_draining=True)
        cluster.change_node("c", is_draining=True, leaves_at_ms=in_10_s)
        cluster.change_node("d", is_draining=True, leaves_at_ms=1)
        await until(lambda: len(cluster.killed) == 3)
    times = {node: cluster.handles[f"gateway-{node}"].sent("drain")[0][0] for node in "bcd"}
    assert (times["b"], times["d"]) == (CONFIG.cluster.drain_timeout.seconds, 1.0)
    assert 5 < times["c"] < 8.5


async def test_gateways_of_a_former_life_that_have_no_place_leave(cluster: Cluster, controller: Controller) -> None:
    cluster.create_actor(object, "gateway-0")
    cluster.add_nodes(a=ALL_SLOTS)
    with silently():
        assert await start(controller) == {"gateway-a": Ports(4317, 4318)}
        await until(lambda: cluster.killed == ["gateway-0"])
    assert cluster.order("drain") == ["gateway-0"]
