import asyncio
import pickle
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog

from cluster import controller as controller_module
from cluster import ray_compat
from cluster.controller import COLLECTOR_SLOT, GATEWAY_SLOT, SHARD_SLOT, Controller
from cluster.errors import StartError
from cluster.gateway.gateway import Ports
from cluster.gateway.listen import CannotListenError
from cluster.measurements import Measurements
from cluster.placement import Routes
from tenants.identity import TenantId
from tenants.identity.token_table import TokenTable
from tenants.settings import ServiceConfig
from tenants.settings.in_force import OverridesChange, OverridesInForce, applied, change_between
from tests.overrides_in_force import in_force, whole_of
from tests.unit.actor_handle import ActorHandle
from tests.unit.tenant_work import config, overrides, spans_on
from tests.unit.waiting import until

SECRET = "s3cr3t-token"
CONFIG = config(f"""
cluster: {{shard_hosts: 2}}
remote_write: [{{url: "http://h/{SECRET}", headers: {{Authorization: {SECRET}}}}}]
overrides: {{defaults: {{metrics_generator: {{remote_write_headers: {{X-Key: {SECRET}}}}}}}}}
""")
RUNTIME_OF_ACME = spans_on(
    remote_write=[{"url": "https://acme/", "headers": {"X-Key": SECRET}}], remote_write_headers={"X-A": SECRET}
)
RUNTIME = overrides(acme=RUNTIME_OF_ACME)


async def start(controller: Controller, settings: ServiceConfig = CONFIG, version: int = 5) -> dict[str, Ports]:
    return await controller.start(settings, in_force(RUNTIME, version), 1, TokenTable())


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

    async def is_configured(self) -> bool:
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
    """What Ray would be asked for: actors by name, slots, killing."""

    def __init__(self) -> None:
        self.journal: list[tuple[str, str]] = []
        self.handles: dict[str, ActorHandle] = {}
        self.options: dict[str, dict[str, Any]] = {}
        self.slots: dict[str, int] = {}
        self.killed: list[str] = []
        self.prepare: Callable[[Actor], None] = lambda _: None

    def create_actor(self, _actor_class: type, name: str, **options: Any) -> ActorHandle:
        self.options[name] = options
        if name not in self.handles:
            actor = Actor(name, self.journal)
            self.prepare(actor)
            self.handles[name] = ActorHandle(actor)
        return self.handles[name]

    def actor(self, name: str) -> Actor:
        actor: Actor = self.handles[name].actor
        return actor

    def restart(self, name: str) -> None:
        self.handles[name].actor = Actor(name, self.journal)

    def kill(self, handle: ActorHandle) -> None:
        self.killed.append(handle.actor.name)

    def order(self, method: str) -> list[str]:
        return [name for name, called in self.journal if called == method]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(ray_compat, "create_actor", made.create_actor)
    monkeypatch.setattr(ray_compat, "kill", made.kill)
    monkeypatch.setattr(ray_compat, "slots", lambda slot: made.slots.get(slot, 0))
    monkeypatch.setattr(controller_module, "_WATCH_INTERVAL_S", 0.01)
    # It directs the log of a process; this one is the tests'.
    monkeypatch.setattr(controller_module, "set_up_logging", lambda *_: None)
    return made


@pytest.fixture
async def controller(cluster: Cluster) -> AsyncIterator[Controller]:
    made = Controller("controller")
    yield made
    if made._watching is not None:
        made._watching.cancel()
        await asyncio.wait([made._watching])


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

    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert len([name for name in await names_of("") if name.startswith("shard-host")]) == 3
    cluster.slots = {SHARD_SLOT: 4, GATEWAY_SLOT: 2, COLLECTOR_SLOT: 1}
    names = await names_of("")
    assert len([name for name in names if name.startswith("shard-host")]) == 4
    assert len([name for name in names if name.startswith("gateway")]) == 2
    assert len([n for n in await names_of("cluster: {shard_hosts: 1}") if n.startswith("shard-host")]) == 1


async def test_pulls_and_control_have_threads_of_their_own_in_a_shard_host(
    cluster: Cluster, controller: Controller
) -> None:
    await start(controller)
    assert cluster.options["shard-host-0"]["concurrency_groups"] == {"pull": 1, "control": 1}
    slots = {name: options["slot"] for name, options in cluster.options.items()}
    assert slots["shard-host-0"] == SHARD_SLOT
    assert (slots["collector-0"], slots["gateway-0"]) == (COLLECTOR_SLOT, GATEWAY_SLOT)


async def test_gateways_are_told_how_many_share_the_rates(cluster: Cluster, controller: Controller) -> None:
    cluster.slots = {GATEWAY_SLOT: 3}
    await start(controller)
    for index in range(3):
        told = [
            arguments for method, arguments in cluster.handles[f"gateway-{index}"].arguments if method == "configure"
        ]
        assert [arguments[-1] for arguments in told] == [3]


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
    monkeypatch.setattr(controller_module, "_START_TIMEOUT_S", 0.02)
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
        monkeypatch.setattr(controller_module, "_START_TIMEOUT_S", 0.02)
        # The call that hangs was begun under the long limit.
        assert controller._watching is not None
        controller._watching.cancel()
        controller._watching = asyncio.ensure_future(controller._watch())
        await until(lambda: cluster.order("configure").count("shard-host-0") >= 4)
        cluster.actor("shard-host-0").fails.clear()
        await until(lambda: cluster.actor("shard-host-0").version == 5)


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
        async with asyncio.timeout(2):
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
    cluster.slots = {GATEWAY_SLOT: 2}
    await start(controller)
    away = cluster.actor("gateway-1")
    away.fails = {"put_tokens", "is_configured"}
    with silently() as logs:
        await controller.put_tokens(2, TokenTable())
    assert [(line["actor"], line["problem"]) for line in logs] == [("gateway-1", "ConnectionError")]
    assert [cluster.actor(name).tokens_version for name in ("gateway-0", "gateway-1")] == [2, 1]
    away.fails = set()
    await until(lambda: away.tokens_version == 2)
    assert set(cluster.order("put_tokens")) == {"gateway-0", "gateway-1"}
    await controller.put_tokens(1, TokenTable())
    assert cluster.actor("gateway-0").tokens_version == 2


# Questions


async def test_actor_that_does_not_answer_is_reported_as_down(cluster: Cluster, controller: Controller) -> None:
    await start(controller)
    cluster.actor("shard-host-0").fails.add("measure")
    measured = await controller.measure()
    assert measured["shard-host-0"] == [("millrace_actor_up", (), 0.0)]
    assert measured["gateway-0"] == [("millrace_actor_up", (), 1.0), ("millrace_settings_version", (), 5)]
    assert sorted(measured) == sorted(cluster.handles)


async def test_ready_means_that_every_gateway_accepts(cluster: Cluster, controller: Controller) -> None:
    assert not await controller.is_ready()
    cluster.slots = {GATEWAY_SLOT: 2}
    await start(controller)
    assert await controller.is_ready()
    cluster.actor("gateway-1").fails.add("is_configured")
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
        assert await controller.drain(4.0)
    assert cluster.journal == [
        ("gateway-0", "drain"),
        ("collector-0", "drain"),
    ]
    assert sorted(cluster.killed) == sorted(cluster.handles)
    assert controller._watching is not None
    assert controller._watching.done()
    assert cluster.handles["gateway-0"].sent("drain") == [(2.0,)]
    assert 3.5 < cluster.handles["collector-0"].sent("drain")[0][0] <= 4.0


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
        async with asyncio.timeout(2):
            assert await controller.drain(0.4)
    assert [(line["kind"], line["log_level"]) for line in logs if "kind" in line] == [("gateway", "error")]
    assert 0.3 < cluster.handles["collector-0"].sent("drain")[0][0] <= 0.4
    assert sorted(cluster.killed) == sorted(cluster.handles)


async def test_collector_that_does_not_answer_means_not_sent(
    cluster: Cluster, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_module, "_ANSWER_TIMEOUT_S", 0.05)
    await start(controller)
    cluster.actor("collector-0").hangs.add("drain")
    with silently():
        async with asyncio.timeout(2):
            assert not await controller.drain(0.1)
    assert "collector-0" in cluster.killed
