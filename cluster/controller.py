"""The controller: starts and watches the other actors, owns the routes, and pushes settings."""

import asyncio
import time
from collections.abc import Awaitable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import structlog

from cluster import ray_compat
from cluster.collector_host import CollectorHost
from cluster.errors import NotConfiguredError, StartError
from cluster.gateway.gateway import Ports
from cluster.gateway_fleet import GATEWAY_SLOT, GatewayFleet
from cluster.host_fleet import HostFleet, names_for
from cluster.log_setup import set_up_logging
from cluster.measurements import Measurements
from cluster.node_plan import draining, has_room
from cluster.placement import Layout, Routes, Scale
from cluster.ray_compat import Node
from tenants.endpoint.collector_set import TenantLook
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity.tenant_id import TenantId
from tenants.identity.token_table import TokenTable
from tenants.settings.in_force import OverridesChange, OverridesInForce, applied, whole
from tenants.settings.redaction import change_without_endpoints, without_endpoints
from tenants.settings.service_config import ServiceConfig

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """What has become of what the service wants.

    Attributes:
        settings: version of the overrides that the controller pushes, 0 if it was restarted, and whether all have it.
        layout: how far the last wish for another number of shard hosts has come.
        ports: where each gateway listens that accepts.
    """

    settings: tuple[int, bool]
    layout: Layout
    ports: Mapping[str, Ports]


_WATCH_INTERVAL_S = 1.0
_TIMES_AT_REST = 2
"""So many intervals pass between two looks when the last one found nothing to do: each costs every actor a call."""
_ANSWER_TIMEOUT_S = 5.0
_EVICT_TIMEOUT_S = 30.0
"""Longest that the collector may take to get what a leaving host has, and to journal it. Then it is asked again."""
_ENDED_TIMEOUT_S = 10.0
_ENDED_POLL_S = 0.05
_START_TIMEOUT_S = 120.0
_COLLECTORS = 1

COLLECTOR_SLOT = "collector_slot"


class Controller:
    """Starts gateways, shard hosts and the collector, tells each its settings, and tells a restarted one again.

    Not on the data path: while it is down, spans flow on under the settings in force. State held: routes, settings
    and handles; after a restart it knows nothing until the service calls :meth:`start` again, which finds the actors by
    name. Every method may be repeated; one that failed may have done its work.

    A shard host that the routes do not name any more leaves in steps, each of which may be repeated: gateways send
    nothing there and wait until everything it counted is journalled, or send it elsewhere; the collector takes its
    ranges and gives them to others; it is killed.

    Nodes come and go. Gateways are :class:`GatewayFleet`'s. A shard host whose node drains, or that is silent for long,
    leaves in the same steps; it is created anew, waits for a place, and gets its part again when it is up. The
    collector is restarted elsewhere when all others have left a node that drains; it goes on from the journal.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._config: ServiceConfig | None = None
        self._overrides = OverridesInForce()
        self._tokens = (0, TokenTable())
        self._routes = Routes(0, (), ())
        self._hosts = HostFleet(self._configure, self._end)
        self._scaling = asyncio.Lock()
        self._seeing_off: asyncio.Task[None] | None = None
        self._reconfiguring: dict[str, asyncio.Task[None]] = {}
        self._behind_with_routes: set[str] = set()
        self._collectors: dict[str, Any] = {}
        self._gateways = GatewayFleet(self._configure_gateway, self._end)
        self._behind: set[str] = set()
        self._moves = 0
        self._behind_with_tokens: set[str] = set()
        self._watching: asyncio.Task[None] | None = None

    async def start(
        self, config: ServiceConfig, overrides: OverridesInForce, tokens_version: int, tokens: TokenTable, scale: Scale
    ) -> dict[str, Ports]:
        """Start everything; returns the ports of each gateway once they accept.

        Shard hosts from a former life that are too many leave.

        Raises:
            CannotListenError: an OTLP address cannot be had.
            StartError: some actor did not come up in time.
        """
        set_up_logging(config.log, self._name)
        async with self._scaling:
            self._config, self._overrides = config, overrides
            self._tokens = (tokens_version, tokens)
            collector_names = tuple(f"collector-{index}" for index in range(_COLLECTORS))
            is_again = self._hosts.create(scale)
            # Newer than what a former life may have told those that live on.
            version = max(scale.version, _now_ms()) if is_again else scale.version
            self._routes = Routes(version, self._hosts.wanted, collector_names)
            self._collectors = {
                name: ray_compat.create_actor(CollectorHost, name, slot=COLLECTOR_SLOT) for name in collector_names
            }
            with self._moving():
                if is_again:
                    self._routes = replace(self._routes, shard_hosts=await self._hosts.come_up_again())
                else:
                    await self._come_up(self._hosts.wanted)
                await self._come_up(self._collectors)
                # Gateways last: spans are accepted when there is somebody to count them.
                await self._come_up(await self._create_gateways(config))
            # Those that leave are not configured, and may have to send what they hold elsewhere.
            self._behind_with_routes = set(self._gateways.leaving)
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        return self._gateways.ports

    async def _create_gateways(self, config: ServiceConfig) -> tuple[str, ...]:
        """Return the names of those that have a node now; in a cluster that is not complete yet, wait for the first.

        Raises:
            StartError: no node came that offers a place.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT_S):
                while True:
                    nodes = await asyncio.to_thread(ray_compat.nodes)
                    if names := self._gateways.create(nodes, config.cluster.drain_timeout.seconds):
                        return names
                    await asyncio.sleep(_WATCH_INTERVAL_S)
        raise StartError(f"no node of the cluster offers {GATEWAY_SLOT}; start one with --resources")

    async def rescale(self, scale: Scale) -> None:
        """Spread tenants over another number of shard hosts, unless a later wish is fulfilled or being fulfilled.

        Those that are too many leave afterwards, by and by; :meth:`layout` says which still do. Nothing is lost or
        counted twice, whatever dies meanwhile.

        Raises:
            StartError: a new one did not come up in time; everything is as before.
        """
        async with self._scaling:
            if self._config is None or scale.version <= self._hosts.scale.version:
                return
            new = [name for name in names_for(scale) if name not in self._hosts.handles]
            await self._hosts.add(new, self._come_up)
            self._hosts.put_scale(scale)
            # None is there if all that are wanted wait for a place: then the others stay until one has it.
            present = self._hosts.present() or self._routes.shard_hosts
            await self._spread(present, max(scale.version, self._routes.version + 1))

    async def layout(self) -> Layout:
        """Return how far the last wish for another number of shard hosts has come."""
        version = self._hosts.scale.version if self._watching else 0
        leaving = tuple(sorted(self._leaving))
        missing = tuple(name for name in self._hosts.wanted if name not in self._routes.shard_hosts)
        return Layout(version, self._routes.shard_hosts, leaving, not self._behind_with_routes, missing)

    async def put_overrides(self, change: OverridesChange) -> bool:
        """Put newer overrides in force everywhere. An actor that cannot be reached gets them when it is back.

        Returns:
            False if the version that they change is not here: the whole has to come, by :meth:`start`.
        """
        latter = applied(self._overrides, change)
        if latter is None:
            return False
        if latter is not self._overrides:
            self._overrides = latter
            # Against the stream: a span that is generated under new settings meets nobody who does not know them yet.
            with self._moving():
                for actors in (self._collectors, self._hosts.up, self._gateways.settled):
                    await self._tell(actors, change)
        return True

    async def ports(self) -> dict[str, Ports]:
        """Return where each gateway listens that accepts."""
        return {
            name: self._gateways.ports[name]
            for name in sorted(self._gateways.accepting)
            if name in self._gateways.ports
        }

    async def put_tokens(self, version: int, tokens: TokenTable) -> None:
        """Put newer tokens in force in every gateway. One that cannot be reached gets them when it is back."""
        if version < self._tokens[0]:
            return
        self._tokens = (version, tokens)
        await self._tell_tokens(self._gateways.settled)

    async def settings_in_force(self) -> tuple[int, bool]:
        """Return the version of the overrides that it pushes, and whether every actor has it.

        The version is 0 if it was not started in this life.
        """
        is_everywhere = not (self._behind or self._moves)
        return (self._overrides.version if self._watching else 0), is_everywhere

    async def standing(self) -> Standing:
        """Return what the service looks after, in one answer: it asks every other second."""
        return Standing(await self.settings_in_force(), await self.layout(), await self.ports())

    async def measure(self) -> dict[str, Measurements]:
        """Return the metrics of every actor by its name; one that does not answer in time is reported as down."""
        actors = self._actors()
        answers = await _answers([actor.measure.remote() for actor in actors.values()])
        measured: dict[str, Measurements] = {}
        for name, answer in zip(actors, answers, strict=True):
            is_up = not isinstance(answer, BaseException)
            up: Measurements = [("millrace_actor_up", (), float(is_up))]
            measured[name] = up if isinstance(answer, BaseException) else up + answer
        return measured

    async def tenants(self) -> dict[TenantId, TenantCollectorSnapshot]:
        """Return the figures of every tenant that has series."""
        answers = await _answers([collector.snapshots.remote() for collector in self._collectors.values()])
        return {
            tenant: snapshot
            for answer in answers
            if not isinstance(answer, BaseException)
            for tenant, snapshot in answer.items()
        }

    async def ledger(self, tenant: TenantId) -> list[tuple[str, str, str, int]]:
        """Return a tenant's ledger by service, stage and outcome; nothing of one that generates nothing.

        Raises:
            NotConfiguredError, TimeoutError: its collector cannot tell now.
        """
        collector = self._collectors[self._routes.collector_of(tenant)]
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            rows: list[tuple[str, str, str, int]] = await collector.ledger.remote(tenant)
        return rows

    async def look(self, tenant: TenantId) -> TenantLook:
        """Return what is known of a tenant, for somebody who looks.

        Raises:
            NotConfiguredError, TimeoutError: its collector cannot tell now.
        """
        collector = self._collectors[self._routes.collector_of(tenant)]
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            seen: TenantLook = await collector.look.remote(tenant)
        return seen

    async def is_ready(self) -> bool:
        """Whether some gateway accepts spans."""
        answers = await _answers([gateway.is_configured.remote() for gateway in self._gateways.accepting.values()])
        return any(answer is True for answer in answers)

    async def drain(self, deadline_s: float) -> bool:
        """Stop accepting, flush, send, and end every actor, within ``deadline_s`` seconds.

        Returns:
            Whether everything that was accepted has been sent.
        """
        if self._watching is not None:
            others = (self._seeing_off, *self._reconfiguring.values())
            background = [self._watching, *(task for task in others if task is not None)]
            for task in background:
                task.cancel()
            await asyncio.wait(background)
            await asyncio.gather(self._gateways.stop(), self._hosts.stop())
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + deadline_s
        log.info("draining: no new spans from now on")
        # Each stage may use half of what is left, so that the last one is never left without time.
        await self._stage(
            "gateway", [g.drain.remote(deadline_s / 2) for g in self._gateways.settled.values()], deadline_s / 2 + 1
        )
        left_s = max(0.0, ends_at - loop.time())
        drains = [c.drain.remote(left_s) for c in self._collectors.values()]
        sent = await self._stage("collector", drains, left_s + _ANSWER_TIMEOUT_S)
        for actor in (self._hosts.handles | self._collectors | self._gateways.handles).values():
            ray_compat.kill(actor)
        is_sent = all(answer is True for answer in sent)
        log.info("drained", everything_sent=is_sent)
        return is_sent

    async def _stage(self, kind: str, calls: list[Any], timeout_s: float) -> Sequence[Any]:
        answers = await _answers(calls, timeout_s)
        for answer in answers:
            if isinstance(answer, BaseException):
                log.error("actor did not drain", kind=kind, error=f"{type(answer).__name__}: {answer}"[:300])
        return answers

    def _actors(self) -> dict[str, Any]:
        # Not who has to come up first: it would keep everybody waiting.
        return self._hosts.up | self._collectors | self._gateways.settled

    @property
    def _leaving(self) -> frozenset[str]:
        return frozenset(self._hosts.up.keys() - set(self._routes.shard_hosts))

    async def _come_up(self, names: Collection[str]) -> None:
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await asyncio.gather(*(self._configure(name) for name in names))
        except TimeoutError:
            raise StartError(
                f"{', '.join(names)} did not come up within {_START_TIMEOUT_S:g} s; has the cluster room for them?"
            ) from None

    async def _spread(self, names: tuple[str, ...], version: int) -> None:
        """Spread tenants over these shard hosts; call while nobody else scales."""
        missing = [name for name in self._hosts.wanted if name not in names]
        log.info(
            "tenants are spread over other shard hosts",
            hosts=len(names),
            before=len(self._routes.shard_hosts),
            missing=missing,
        )
        self._routes = Routes(version, names, self._routes.collectors)
        self._behind_with_routes = {*self._collectors, *self._gateways.settled}
        await self._tell_routes()

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """Settings are on their way: until the end nobody may say that they are everywhere."""
        self._moves += 1
        try:
            yield
        finally:
            self._moves -= 1

    async def _configure(self, name: str) -> None:
        """Tell an actor everything, however long it waits for its process."""
        if self._config is None:
            return
        if name in self._gateways.handles:
            await self._gateways.configure(name)
            return
        in_force = self._overrides
        overrides = whole(in_force)
        if name in self._collectors:
            await self._collectors[name].configure.remote(self._config, self._routes, self._hosts.up, overrides)
        else:
            config, overrides = without_endpoints(self._config), change_without_endpoints(overrides)
            await self._hosts.handles[name].configure.remote(config, self._routes, self._collectors, overrides)
        if in_force.version != self._overrides.version:
            # What was pushed meanwhile did not reach it.
            self._behind.add(name)

    async def _configure_gateway(self, name: str) -> Ports:
        if self._config is None:
            raise NotConfiguredError(self._name)
        gateway, tokens, routes, overrides = self._gateways.handles[name], self._tokens, self._routes, self._overrides
        await gateway.put_tokens.remote(*tokens)
        ports: Ports = await gateway.configure.remote(
            without_endpoints(self._config),
            routes,
            self._hosts_of_routes,
            change_without_endpoints(whole(overrides)),
            self._gateways.count,
        )
        # It may have waited long for its process.
        for is_behind, behind in (
            (tokens[0] != self._tokens[0], self._behind_with_tokens),
            (routes.version != self._routes.version, self._behind_with_routes),
            (overrides.version != self._overrides.version, self._behind),
        ):
            if is_behind:
                behind.add(name)
        return ports

    @property
    def _hosts_of_routes(self) -> dict[str, Any]:
        return {name: self._hosts.handles[name] for name in self._routes.shard_hosts}

    async def _tell_routes(self) -> None:
        """Push the routes to who lacks them; who does not answer is told again at the next look.

        The collector first: it gives ranges to the hosts of its routes only, and gateways must find them there.
        """
        for actors, hosts in ((self._collectors, self._hosts.up), (self._gateways.settled, self._hosts_of_routes)):
            behind = {name: actor for name, actor in actors.items() if name in self._behind_with_routes}
            calls = {name: actor.put_routes.remote(self._routes, hosts) for name, actor in behind.items()}
            self._behind_with_routes -= await _taken(calls, "actor did not take the routes", "was restarted")
            if self._behind_with_routes & self._collectors.keys():
                return

    async def _see_off(self) -> None:
        """Let go of the shard hosts that nothing is needed of any more."""
        async with self._scaling:
            for name in sorted(self._leaving):
                gateways = self._gateways.settled.values()
                answers = await _answers([gateway.is_done_with.remote(name) for gateway in gateways])
                if self._behind_with_routes or not all(answer is True for answer in answers):
                    continue
                evictions = [collector.evict.remote(name) for collector in self._collectors.values()]
                failures = [answer for answer in await _answers(evictions, _EVICT_TIMEOUT_S) if answer is not None]
                if failures:
                    problem = f"{type(failures[0]).__name__}: {failures[0]}"[:300]
                    log.warning("shard host cannot leave yet", host=name, error=problem)
                    continue
                host = self._hosts.pop(name)
                self._behind.discard(name)
                # What it was still to hear is forgotten with it.
                self._behind_with_routes.update(self._collectors)
                await self._tell_routes()
                await self._end(name, host)
                log.info("shard host left", host=name)

    async def _end(self, name: str, host: Any) -> None:
        """Kill an actor and wait until its name is free: who is created under it would be the one that dies."""
        ray_compat.kill(host)
        try:
            async with asyncio.timeout(_ENDED_TIMEOUT_S):
                while name in await asyncio.to_thread(ray_compat.find_actors, name):  # noqa: ASYNC110
                    await asyncio.sleep(_ENDED_POLL_S)
        except TimeoutError:
            log.warning("actor does not end", actor=name)

    async def _tell(self, names: Iterable[str], change: OverridesChange) -> None:
        """Push a change to these actors; who lacks its base, or does not answer, is behind until the next look."""
        public = change_without_endpoints(change)
        calls = {
            name: actor.put_overrides.remote(change if name in self._collectors else public)
            for name, actor in self._actors().items()
            if name in names
        }
        taken = await _taken(calls, "actor did not take the settings", "missed an earlier change")
        self._behind |= calls.keys() - taken
        for name in taken:
            self._note_version(name, change.version)

    async def _tell_tokens(self, names: Iterable[str]) -> None:
        gateways = self._gateways.settled
        calls = {name: gateways[name].put_tokens.remote(*self._tokens) for name in names if name in gateways}
        taken = await _taken(calls, "gateway did not take the tokens", "refused")
        self._behind_with_tokens |= calls.keys() - taken
        self._behind_with_tokens -= taken

    async def _watch(self) -> None:
        is_at_rest = False
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S * (_TIMES_AT_REST if is_at_rest else 1))
            try:
                is_at_rest = await self._look_after()
            except Exception:
                is_at_rest = False
                log.exception("actors could not be looked after")

    async def _look_after(self) -> bool:
        """Tell restarted actors everything, and those that missed newer settings those.

        Returns:
            Whether there was nothing to do: every actor is configured, and none comes, goes or is behind.
        """
        nodes, places = await self._look_at_nodes()
        if nodes and self._config is not None:
            await self._gateways.look(nodes, places, self._config.cluster.drain_timeout.seconds)
        actors = self._actors()
        answers = await _answers([actor.is_configured.remote() for actor in actors.values()])
        answered = dict(zip(actors, answers, strict=True))
        for name, answer in answered.items():
            # One that leaves would accept again.
            if answer is False and name not in self._gateways.leaving:
                self._begin_to_reconfigure(name)
        # Who has gone meanwhile has nothing to hear any more.
        for waiting in (self._behind, self._behind_with_tokens, self._behind_with_routes):
            waiting.intersection_update(self._actors())
        if behind := [name for name in self._behind if answered.get(name) is True]:
            await self._tell(behind, whole(self._overrides))
        if behind := [name for name in self._behind_with_tokens if answered.get(name) is True]:
            await self._tell_tokens(behind)
        if self._scaling.locked():
            return False
        await self._look_after_hosts(nodes, places, answered)
        if self._behind_with_routes:
            await self._tell_routes()
        if self._leaving:
            # Beside the watch: it takes longer than a restarted actor may be left alone.
            self._seeing_off = asyncio.get_running_loop().create_task(self._see_off_or_log())
        behind_or_gone = self._behind | self._behind_with_tokens | self._behind_with_routes | set(self._leaving)
        moving = (
            self._gateways.leaving | self._gateways.arriving | (set(self._hosts.wanted) ^ set(self._routes.shard_hosts))
        )
        return bool(nodes) and all(answer is True for answer in answers) and not (behind_or_gone or moving)

    async def _look_at_nodes(self) -> tuple[list[Node], dict[str, str]]:
        """Return the nodes, and where actors are if that matters; nothing while the cluster itself does not answer."""
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                nodes = await asyncio.to_thread(ray_compat.nodes)
                return nodes, await asyncio.to_thread(ray_compat.places) if draining(nodes) else {}
        except Exception as error:  # noqa: BLE001  (actors have to be looked after all the same)
            log.warning("the cluster does not tell its nodes", error=f"{type(error).__name__}: {error}"[:300])
            return [], {}

    async def _look_after_hosts(
        self, nodes: Sequence[Node], places: Mapping[str, str], answered: Mapping[str, Any]
    ) -> None:
        """Spread tenants over the wanted shard hosts that are there, and bring back those that are not."""
        goes = {name for name, node in places.items() if node in draining(nodes)}
        absent = goes | self._hosts.silent(answered)
        async with self._scaling:
            self._hosts.bring_back()
            present = self._hosts.present(absent)
            # If there is nobody else, those stay that may still work.
            if present and present != self._routes.shard_hosts:
                await self._spread(present, max(_now_ms(), self._routes.version + 1))
        if not (self._leaving or self._gateways.leaving) and has_room(nodes, COLLECTOR_SLOT):
            for name in goes & self._collectors.keys():
                log.info("collector goes elsewhere, for its node leaves", actor=name)
                ray_compat.restart(self._collectors[name])

    async def _see_off_or_log(self) -> None:
        try:
            await self._see_off()
        except Exception:
            log.exception("shard hosts could not be seen off")

    def _begin_to_reconfigure(self, name: str) -> None:
        """Tell an actor everything, beside the watch: a collector that recovers takes longer than others can wait."""
        if name not in self._reconfiguring:
            task = self._reconfiguring[name] = asyncio.get_running_loop().create_task(self._reconfigure(name))
            task.add_done_callback(lambda _: self._reconfiguring.pop(name))

    async def _reconfigure(self, name: str) -> None:
        log.warning("actor was restarted and is told its settings again", actor=name)
        version = self._overrides.version
        try:
            await asyncio.wait_for(self._configure(name), _START_TIMEOUT_S)
        except Exception:
            # The next round tries again.
            log.exception("actor could not be configured", actor=name)
        else:
            self._note_version(name, version)

    def _note_version(self, name: str, version: int) -> None:
        # A newer version may have been refused while the actor was still taking this one.
        if version == self._overrides.version:
            self._behind.discard(name)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _answers(calls: list[Awaitable[Any]], timeout_s: float = _ANSWER_TIMEOUT_S) -> list[Any]:
    return await asyncio.gather(*(asyncio.wait_for(call, timeout_s) for call in calls), return_exceptions=True)


async def _taken(calls: Mapping[str, Awaitable[Any]], event: str, problem: str) -> set[str]:
    """Return the actors that answer true; of the others the log says the event, and ``problem`` if they answered."""
    answers = await _answers(list(calls.values()))
    taken = {name for name, answer in zip(calls, answers, strict=True) if answer is True}
    for name, answer in zip(calls, answers, strict=True):
        if isinstance(answer, BaseException):
            log.warning(event, actor=name, problem=type(answer).__name__)
        elif name not in taken:
            log.warning(event, actor=name, problem=problem)
    return taken
