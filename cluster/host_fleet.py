"""The shard hosts: those that there shall be, and how far each of them has come."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

import structlog

from cluster import ray_compat
from cluster.errors import StartError
from cluster.placement import SHARD_HOST, Scale
from cluster.shard_host import ShardHost

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

SHARD_SLOT: Final = "shard_slot"

_START_TIMEOUT_S = 120.0
_PATIENCE_S = 15.0
"""Longest that a restarted controller waits for a shard host that may have no node any more, if others are there."""
_ABSENT_AFTER_S = 20.0
"""A shard host that has not answered for this long gets nothing until it is back. Longer than Ray takes to notice that
its node is lost (15 s) and to start it on another one: the same host goes on then, without a change of routes."""

Configure = Callable[[str], Awaitable[None]]
End = Callable[[str, Any], Awaitable[None]]


class HostFleet:
    """Starts shard hosts, and waits for those that have no place yet. One event loop owns it.

    Who gets ranges, and when one that is too many may end, is decided elsewhere.

    Args:
        configure: tells one of :attr:`handles` its settings; waits as long as it has to.
        end: kills an actor and returns when its name is free.

    Attributes:
        scale: the wish that is fulfilled.
        wanted: names of those that there shall be.
        handles: all of them, by name: also those that have to come up first, and those that are too many.
    """

    def __init__(self, configure: Configure, end: End) -> None:
        self.scale = Scale(0, 0)
        self.wanted: tuple[str, ...] = ()
        self.handles: dict[str, Any] = {}
        self._configure = configure
        self._end = end
        self._arriving: set[str] = set()
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._silent_since: dict[str, float] = {}

    @property
    def up(self) -> dict[str, Any]:
        """Those that know their settings, or did before they were restarted."""
        return {name: handle for name, handle in self.handles.items() if name not in self._arriving}

    def present(self, absent: Collection[str] = ()) -> tuple[str, ...]:
        """Return the wanted ones that are up and not among the absent, in their order."""
        up = self.up
        return tuple(name for name in self.wanted if name in up and name not in absent)

    def create(self, scale: Scale) -> bool:
        """Find or create those that are wished for; return whether there were some, of a former life."""
        self.put_scale(scale)
        found = ray_compat.find_actors(SHARD_HOST)
        self.handles = found | {name: _create(name) for name in self.wanted}
        return bool(found)

    def put_scale(self, scale: Scale) -> None:
        """Want what is wished for."""
        self.scale, self.wanted = scale, names_for(scale)

    async def come_up_again(self) -> tuple[str, ...]:
        """Tell those of a former life their settings, and return which of the wanted are up; others are waited for.

        Raises:
            StartError: none came up.
        """
        for name in self.wanted:
            self._await(name)
        await asyncio.wait(list(self._waiting.values()), timeout=_PATIENCE_S)
        if not self.present() and (left := list(self._waiting.values())):
            await asyncio.wait(left, timeout=_START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if not (up := self.present()):
            raise StartError(f"none of {', '.join(self.wanted)} came up; has the cluster room for them?")
        return up

    async def add(self, names: Sequence[str], come_up: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        """Start more of them; nobody sends them anything yet.

        Raises:
            StartError: one did not come up; none of them is left.
        """
        self._arriving.update(names)
        self.handles |= {name: _create(name) for name in names}
        try:
            await come_up(names)
        except Exception as error:
            for name in names:
                await self._end(name, self.handles.pop(name))
            if isinstance(error, StartError):
                raise
            raise StartError(f"{', '.join(names)} did not come up: {type(error).__name__}: {error}"[:300]) from None
        finally:
            self._arriving.difference_update(names)

    def bring_back(self) -> None:
        """Create those that are wanted and not there; they may wait long for a place.

        More are wanted where the cluster offers more places, if nobody said how many there shall be. They do not become
        fewer with a node that is lost: another one will come.
        """
        if not self.scale.shard_hosts and len(names := names_for(self.scale)) > len(self.wanted):
            self.wanted = names
        for name in self.wanted:
            if name not in self.handles:
                self.handles[name] = _create(name)
                self._await(name)

    def silent(self, answered: Mapping[str, Any]) -> set[str]:
        """Return those that have not answered for long.

        Args:
            answered: what each answered when it was asked just now; an exception if it did not.
        """
        now = asyncio.get_running_loop().time()
        for name in self.handles:
            if isinstance(answered.get(name), BaseException):
                self._silent_since.setdefault(name, now)
            else:
                self._silent_since.pop(name, None)
        return {name for name, since in self._silent_since.items() if now - since >= _ABSENT_AFTER_S}

    def pop(self, name: str) -> Any:
        """Let go of one, and return it, for it to be ended."""
        self._silent_since.pop(name, None)
        return self.handles.pop(name)

    async def stop(self) -> None:
        """Wait for nobody any more."""
        for task in (tasks := list(self._waiting.values())):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _await(self, name: str) -> None:
        if name not in self._waiting:
            self._arriving.add(name)
            self._waiting[name] = asyncio.get_running_loop().create_task(self._return(name))

    async def _return(self, name: str) -> None:
        try:
            await self._configure(name)
        except Exception:
            log.exception("shard host could not be started; it is tried again", actor=name)
            await self._end(name, self.handles[name])
            self.pop(name)
        finally:
            self._arriving.discard(name)
            del self._waiting[name]


def names_for(scale: Scale) -> tuple[str, ...]:
    """Return the names of the shard hosts that are wished for."""
    # Of each span a gateway takes about three times the CPU time of a shard host.
    hosts = scale.shard_hosts or ray_compat.slots(SHARD_SLOT) or max(1, (os.cpu_count() or 1) // 2)
    return tuple(f"{SHARD_HOST}{index}" for index in range(hosts))


def _create(name: str) -> Any:
    groups = {"pull": 1, "control": 1, "claim": 1}
    return ray_compat.create_actor(ShardHost, name, slot=SHARD_SLOT, max_concurrency=2, concurrency_groups=groups)
