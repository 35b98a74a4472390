"""What goes wrong in a cluster, in a seeded order: processes die, stop for a while, lose connections; shards move."""

import asyncio
import contextlib
import random
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psutil

from tests.integration.service import MillraceProcess
from tests.integration.waiting import eventually

ACTORS: Final = ("Gateway", "ShardHost", "CollectorHost", "Controller")
_SHARDS: Final = (1, 2, 4)
_BACK_WITHIN_S: Final = 90


class Monkey:
    """Does harm to a running service, one thing after the other.

    Attributes:
        done: how often each kind of harm was done.
    """

    def __init__(
        self, service: MillraceProcess, rng: random.Random, tenants: Sequence[str], entry: Mapping[str, Any]
    ) -> None:
        self.done: Counter[str] = Counter()
        self._service = service
        self._rng = rng
        self._tenants = tenants
        self._entry = entry

    @property
    def kills(self) -> int:
        """How many processes were killed."""
        return sum(count for harm, count in self.done.items() if harm.startswith("kill"))

    async def harm(self, kills: int, pause_s: float) -> None:
        """Kill so many processes, and do other things between; the processes are back when the next one dies."""
        while self.kills < kills:
            harms = [self._kill] * 5 + [self._stop_for_a_while, self._cut_connections, self._rescale]
            await self._rng.choice(harms)()
            await asyncio.sleep(self._rng.uniform(0.2, pause_s))
        await self.until_whole()

    async def until_whole(self) -> None:
        """Wait until every actor is there and answers."""

        async def is_whole() -> bool:
            if any(not self._service.actors(name) for name in ACTORS):
                return False
            if (await self._service.get("/ready")).status_code != 200:
                return False
            up = (await self._service.metrics())["millrace_actor_up"]
            return set(up.values()) == {1.0}

        await eventually(is_whole, _BACK_WITHIN_S, lambda: f"not whole again:\n{self._service.log[-4000:]}")

    async def _kill(self) -> None:
        """Kill a random actor, wherever it is in its work; one at a time: more is not promised."""
        await self.until_whole()
        name = self._rng.choice(ACTORS)
        victim = self._rng.choice(self._service.actors(name))
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        victim.kill()
        await asyncio.to_thread(victim.wait, 30)
        self.done[f"kill {name}"] += 1

    async def _stop_for_a_while(self) -> None:
        """Let a process hang: its answers come late, or after its callers gave up."""
        name = self._rng.choice(ACTORS)
        processes = self._service.actors(name)
        if not processes:
            return
        process = self._rng.choice(processes)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            try:
                await asyncio.sleep(self._rng.uniform(0.2, 3.0))
            finally:
                process.resume()
        self.done[f"stop {name}"] += 1

    async def _cut_connections(self) -> None:
        """Close the connections between gateways and shard hosts, as a network that fails does."""
        pids = {process.pid for process in self._service.actors("ShardHost")}
        ends = {
            connection.laddr.port
            for connection in await asyncio.to_thread(psutil.net_connections, "tcp4")
            if connection.pid in pids and connection.status == psutil.CONN_LISTEN
        }
        for port in ends:
            await asyncio.to_thread(
                subprocess.run,
                ["ss", "--kill", "--no-header", "state", "established", "sport", "=", str(port)],
                check=False,
                capture_output=True,
            )
        self.done["cut"] += bool(ends)

    async def _rescale(self) -> None:
        """Give a tenant another number of shards."""
        tenant, shards = self._rng.choice(self._tenants), self._rng.choice(_SHARDS)
        # Nobody waits until it is in force everywhere: processes may be down.
        self._service.write_entry(tenant, {**self._entry, "shards": shards})
        self.done["rescale"] += 1
