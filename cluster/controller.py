"""The controller: starts and watches the other actors, owns the routes, and pushes settings."""

import asyncio
import os
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog

from cluster import ray_compat
from cluster.collector_host import CollectorHost
from cluster.errors import StartError
from cluster.gateway.gateway import Gateway, Ports
from cluster.log_setup import set_up_logging
from cluster.measurements import Measurements
from cluster.placement import Routes
from cluster.shard_host import ShardHost
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity.tenant_id import TenantId
from tenants.identity.token_table import TokenTable
from tenants.settings.in_force import OverridesChange, OverridesInForce, applied, whole
from tenants.settings.redaction import change_without_endpoints, without_endpoints
from tenants.settings.service_config import ServiceConfig

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_WATCH_INTERVAL_S = 1.0
_ANSWER_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 120.0
_COLLECTORS = 1

GATEWAY_SLOT = "gateway_slot"
SHARD_SLOT = "shard_slot"
COLLECTOR_SLOT = "collector_slot"


class Controller:
    """Starts gateways, shard hosts and the collector, tells each its settings, and tells a restarted one again.

    Not on the data path: while it is down, spans flow on under the settings in force. State held: routes, settings
    and handles; after a restart it knows nothing until the service calls :meth:`start` again, which finds the actors by
    name. Every method may be repeated; one that failed may have done its work.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._config: ServiceConfig | None = None
        self._overrides = OverridesInForce()
        self._tokens = (0, TokenTable())
        self._routes = Routes(0, (), ())
        self._hosts: dict[str, Any] = {}
        self._collectors: dict[str, Any] = {}
        self._gateways: dict[str, Any] = {}
        self._ports: dict[str, Ports] = {}
        self._behind: set[str] = set()
        self._moves = 0
        self._behind_with_tokens: set[str] = set()
        self._watching: asyncio.Task[None] | None = None

    async def start(
        self, config: ServiceConfig, overrides: OverridesInForce, tokens_version: int, tokens: TokenTable
    ) -> dict[str, Ports]:
        """Start everything; returns the ports of each gateway once they accept.

        Raises:
            CannotListenError: an OTLP address cannot be had.
            StartError: some actor did not come up in time.
        """
        set_up_logging(config.log, self._name)
        self._config, self._overrides = config, overrides
        self._tokens = (tokens_version, tokens)
        offered = {slot: ray_compat.slots(slot) for slot in (GATEWAY_SLOT, SHARD_SLOT, COLLECTOR_SLOT)}
        hosts = config.cluster.shard_hosts or offered[SHARD_SLOT] or os.cpu_count() or 1
        host_names = tuple(f"shard-host-{index}" for index in range(hosts))
        collector_names = tuple(f"collector-{index}" for index in range(_COLLECTORS))
        self._routes = Routes(1, host_names, collector_names)
        groups = {"pull": 1, "control": 1}
        self._hosts = {
            name: ray_compat.create_actor(
                ShardHost, name, slot=SHARD_SLOT, max_concurrency=2, concurrency_groups=groups
            )
            for name in host_names
        }
        self._collectors = {
            name: ray_compat.create_actor(CollectorHost, name, slot=COLLECTOR_SLOT) for name in collector_names
        }
        self._gateways = {
            name: ray_compat.create_actor(Gateway, name, slot=GATEWAY_SLOT)
            for name in (f"gateway-{index}" for index in range(offered[GATEWAY_SLOT] or 1))
        }
        with self._moving():
            # Gateways last: spans are accepted when there is somebody to count them.
            for actors in (self._hosts, self._collectors, self._gateways):
                try:
                    async with asyncio.timeout(_START_TIMEOUT_S):
                        await asyncio.gather(*(self._configure(name) for name in actors))
                except TimeoutError:
                    names = ", ".join(actors)
                    raise StartError(
                        f"{names} did not come up within {_START_TIMEOUT_S:g} s; has the cluster room for them?"
                    ) from None
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        return self._ports

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
                for actors in (self._collectors, self._hosts, self._gateways):
                    await self._tell(actors, change)
        return True

    async def put_tokens(self, version: int, tokens: TokenTable) -> None:
        """Put newer tokens in force in every gateway. One that cannot be reached gets them when it is back."""
        if version < self._tokens[0]:
            return
        self._tokens = (version, tokens)
        await self._tell_tokens(self._gateways)

    async def settings_in_force(self) -> tuple[int, bool]:
        """Return the version of the overrides that it pushes, and whether every actor has it.

        The version is 0 if it was not started in this life.
        """
        is_everywhere = not (self._behind or self._moves)
        return (self._overrides.version if self._watching else 0), is_everywhere

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

    async def is_ready(self) -> bool:
        """Whether every gateway accepts spans."""
        answers = await _answers([gateway.is_configured.remote() for gateway in self._gateways.values()])
        return bool(answers) and all(answer is True for answer in answers)

    async def drain(self, deadline_s: float) -> bool:
        """Stop accepting, flush, send, and end every actor, within ``deadline_s`` seconds.

        Returns:
            Whether everything that was accepted has been sent.
        """
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + deadline_s
        log.info("draining: no new spans from now on")
        # Each stage may use half of what is left, so that the last one is never left without time.
        await self._stage(
            "gateway", [g.drain.remote(deadline_s / 2) for g in self._gateways.values()], deadline_s / 2 + 1
        )
        left_s = max(0.0, ends_at - loop.time())
        drains = [c.drain.remote(left_s) for c in self._collectors.values()]
        sent = await self._stage("collector", drains, left_s + _ANSWER_TIMEOUT_S)
        for actor in self._actors().values():
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
        return self._hosts | self._collectors | self._gateways

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """Settings are on their way: until the end nobody may say that they are everywhere."""
        self._moves += 1
        try:
            yield
        finally:
            self._moves -= 1

    async def _configure(self, name: str) -> None:
        if self._config is None:
            return
        overrides = whole(self._overrides)
        if name in self._collectors:
            await self._collectors[name].configure.remote(self._config, self._routes, self._hosts, overrides)
            return
        config, overrides = without_endpoints(self._config), change_without_endpoints(overrides)
        if name in self._hosts:
            await self._hosts[name].configure.remote(config, self._routes, self._collectors, overrides)
        else:
            gateway = self._gateways[name]
            await gateway.put_tokens.remote(*self._tokens)
            self._ports[name] = await gateway.configure.remote(
                config, self._routes, self._hosts, overrides, len(self._gateways)
            )

    async def _tell(self, names: Iterable[str], change: OverridesChange) -> None:
        """Push a change to these actors; who lacks its base, or does not answer, is behind until the next look."""
        actors = {name: actor for name, actor in self._actors().items() if name in names}
        public = change_without_endpoints(change)
        answers = await _answers(
            [
                actor.put_overrides.remote(change if name in self._collectors else public)
                for name, actor in actors.items()
            ]
        )
        for name, answer in zip(actors, answers, strict=True):
            if answer is True:
                self._note_version(name, change.version)
                continue
            self._behind.add(name)
            problem = type(answer).__name__ if isinstance(answer, BaseException) else "missed an earlier change"
            log.warning("actor did not take the settings", actor=name, problem=problem)

    async def _tell_tokens(self, names: Iterable[str]) -> None:
        gateways = {name: self._gateways[name] for name in names}
        answers = await _answers([gateway.put_tokens.remote(*self._tokens) for gateway in gateways.values()])
        for name, answer in zip(gateways, answers, strict=True):
            if isinstance(answer, BaseException):
                self._behind_with_tokens.add(name)
                log.warning("gateway did not take the tokens", actor=name, problem=type(answer).__name__)
            else:
                self._behind_with_tokens.discard(name)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            try:
                await self._look_after()
            except Exception:
                log.exception("actors could not be looked after")

    async def _look_after(self) -> None:
        """Tell restarted actors everything, and those that missed newer settings those."""
        actors = self._actors()
        answers = await _answers([actor.is_configured.remote() for actor in actors.values()])
        answered = dict(zip(actors, answers, strict=True))
        await asyncio.gather(*(self._reconfigure(name) for name, answer in answered.items() if answer is False))
        if behind := [name for name in self._behind if answered.get(name) is True]:
            await self._tell(behind, whole(self._overrides))
        if behind := [name for name in self._behind_with_tokens if answered.get(name) is True]:
            await self._tell_tokens(behind)

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


async def _answers(calls: list[Awaitable[Any]], timeout_s: float = _ANSWER_TIMEOUT_S) -> list[Any]:
    return await asyncio.gather(*(asyncio.wait_for(call, timeout_s) for call in calls), return_exceptions=True)
