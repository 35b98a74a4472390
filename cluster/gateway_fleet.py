"""The gateways: they come and go with the nodes that offer a place for one."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import structlog

from cluster import ray_compat
from cluster.gateway.gateway import Gateway, Ports
from cluster.node_plan import GATEWAY, draining, gateway_places
from cluster.ray_compat import Node

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

GATEWAY_SLOT: Final = "gateway_slot"

_ANSWER_TIMEOUT_S: Final = 5.0
_LEAVE_GRACE_S: Final = 2.0
"""Time to end a gateway that has drained, before its node is gone."""
_SHORTEST_DRAIN_S: Final = 1.0

Configure = Callable[[str], Awaitable[Ports]]
End = Callable[[str, Any], Awaitable[None]]


class GatewayFleet:
    """Starts a gateway on each node that offers a place, and ends it before its node leaves. One event loop owns it.

    On a node that drains it stops accepting at once, so that clients and load balancers go elsewhere, and ends when
    what it took is journalled. One whose node is lost is forgotten: what it had passed on shard hosts have, and clients
    send again what was not answered.

    Args:
        configure: tells one of :attr:`handles` its settings, and returns its ports; waits as long as it has to.
        end: kills an actor and returns when its name is free.

    Attributes:
        handles: all of them, by name.
        arriving: those that do not know their settings yet.
        leaving: those that accept nothing any more.
        ports: of those that were configured.
    """

    def __init__(self, configure: Configure, end: End) -> None:
        self.handles: dict[str, Any] = {}
        self.arriving: set[str] = set()
        self.leaving: set[str] = set()
        self.ports: dict[str, Ports] = {}
        self._configure = configure
        self._end = end
        self._bound_to: dict[str, str] = {}
        self._told: dict[str, int] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def accepting(self) -> dict[str, Any]:
        """Those that stay, and know their settings."""
        return {name: handle for name, handle in self.settled.items() if name not in self.leaving}

    @property
    def settled(self) -> dict[str, Any]:
        """Those that know their settings, also if they leave."""
        return {name: handle for name, handle in self.handles.items() if name not in self.arriving}

    @property
    def count(self) -> int:
        """How many share what is shared between gateways."""
        return max(1, len(self.handles.keys() - self.leaving))

    def create(self, nodes: Sequence[Node], drain_timeout_s: float) -> tuple[str, ...]:
        """Find or create the gateways of these nodes, and return their names; who calls configures them.

        Those from a former life that no node offers a place for are found too, and leave.
        """
        places = gateway_places(nodes, GATEWAY_SLOT)
        for name, handle in ray_compat.find_actors(GATEWAY).items():
            if name not in places and name not in self.handles:
                self.handles[name] = handle
                self._see_off(name, drain_timeout_s)
        for name, node in places.items():
            self._create(name, node)
        return tuple(places)

    async def configure(self, name: str) -> None:
        """Tell one its settings, the first time or again."""
        count = self.count
        self.ports[name] = await self._configure(name)
        self._told[name] = count

    async def look(self, nodes: Sequence[Node], places: Mapping[str, str], drain_timeout_s: float) -> None:
        """Let them come and go as the nodes are now.

        Args:
            nodes: of the cluster.
            places: node of each actor, by its name; needed of those that are on nodes that drain.
            drain_timeout_s: longest that one which leaves waits for what it took to be journalled.
        """
        known, leaving_nodes = {node.id: node for node in nodes}, draining(nodes)
        for name in list(self.handles):
            bound_to = self._bound_to.get(name, "")
            if bound_to and not (bound_to in known and known[bound_to].is_alive):
                self._forget(name)
            elif (node := leaving_nodes.get(bound_to or places.get(name, ""))) and name not in self.leaving:
                left_s = (
                    node.leaves_at_ms / 1000 - time.time() - _LEAVE_GRACE_S if node.leaves_at_ms else drain_timeout_s
                )
                log.info("gateway leaves, for its node does", actor=name, node=node.address)
                self._see_off(name, max(_SHORTEST_DRAIN_S, min(drain_timeout_s, left_s)))
        for name, bound_to in gateway_places(nodes, GATEWAY_SLOT).items():
            if name not in self.handles:
                self._create(name, bound_to)
                self.arriving.add(name)
                self._begin(name, self._arrive(name))
        await self._tell_count()

    async def stop(self) -> None:
        """Begin nothing any more."""
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _create(self, name: str, bound_to: str) -> None:
        self.handles[name] = ray_compat.create_actor(Gateway, name, slot=GATEWAY_SLOT, node=bound_to)
        self._bound_to[name] = bound_to

    def _begin(self, name: str, work: Any) -> None:
        task = self._tasks[name] = asyncio.get_running_loop().create_task(work)

        def done(_: object) -> None:
            if self._tasks.get(name) is task:
                del self._tasks[name]

        task.add_done_callback(done)

    async def _arrive(self, name: str) -> None:
        try:
            await self.configure(name)
        except Exception:
            log.exception("gateway could not be started; it is tried again", actor=name)
            await self._end(name, self.handles[name])
            self._drop(name)
        else:
            self.arriving.discard(name)
            log.info("gateway has come", actor=name)

    def _see_off(self, name: str, timeout_s: float) -> None:
        self.leaving.add(name)
        self._begin(name, self._leave(name, timeout_s))

    async def _leave(self, name: str, timeout_s: float) -> None:
        handle = self.handles[name]
        try:
            async with asyncio.timeout(timeout_s + _LEAVE_GRACE_S):
                await handle.drain.remote(timeout_s)
        except Exception as error:  # noqa: BLE001  (whatever ails it, it goes)
            log.warning("gateway did not drain", actor=name, error=f"{type(error).__name__}: {error}"[:300])
        await self._end(name, handle)
        self._drop(name)
        log.info("gateway left", actor=name)

    def _forget(self, name: str) -> None:
        """Let go of one whose node is lost."""
        log.warning("gateway was lost with its node", actor=name)
        if task := self._tasks.pop(name, None):
            task.cancel()
        ray_compat.kill(self.handles[name])
        self._drop(name)

    def _drop(self, name: str) -> None:
        for known in (self.handles, self._bound_to, self.ports, self._told):
            known.pop(name, None)
        self.arriving.discard(name)
        self.leaving.discard(name)

    async def _tell_count(self) -> None:
        """Tell all that share the rates of tenants how many they are now, if they do not know."""
        count = self.count
        for name, handle in self.accepting.items():
            if self._told.get(name) == count:
                continue
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                    await handle.put_gateways.remote(count)
            except Exception as error:  # noqa: BLE001  (it is told at the next look)
                log.warning("gateway was not told how many there are", actor=name, problem=type(error).__name__)
            else:
                self._told[name] = count
