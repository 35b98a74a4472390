"""What goes wrong in a cluster, in a seeded order: processes die, stop for a while, lose connections; shards move."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import psutil

from tests.chaos.connections import cut_between
from tests.integration.service import MillraceProcess
from tests.integration.waiting import eventually

ACTORS: Final = ("Gateway", "ShardHost", "CollectorHost", "Controller")
_SHARDS: Final = (1, 2, 4)
_HOSTS: Final = (1, 2, 3)
_BACK_WITHIN_S: Final = 90


class Monkey:
    """Does harm to a running service, one thing after the other.

    Attributes:
        done: how often each kind of harm was done.
    """

    def __init__(
        self,
        service: MillraceProcess,
        rng: random.Random,
        tenants: Sequence[str],
        entry: Mapping[str, Any],
        *,
        operator: str,
    ) -> None:
        """``operator`` is a token."""
        self.done: Counter[str] = Counter()
        self._service = service
        self._rng = rng
        self._tenants = tenants
        self._entry = entry
        self._operator = operator

    @property
    def kills(self) -> int:
        """How many processes were killed."""
        return sum(count for harm, count in self.done.items() if harm.startswith("kill"))

    async def harm(self, kills: int, pause_s: float) -> None:
        """Kill so many processes, and do other things between; the processes are back when the next one dies."""
        round_: list[Callable[[], Awaitable[None]]] = []
        while self.kills < kills:
            if not round_:
                # In rounds, so that everything happens however few kills there are.
                others = [self._stop_for_a_while, self._cut_connections, self._rescale, self._rescale_hosts]
                round_ = [*[self._kill] * 5, *others]
                self._rng.shuffle(round_)
            await round_.pop()()
            await asyncio.sleep(self._rng.uniform(0.2, pause_s))
        await self.until_whole()

    async def until_whole(self) -> None:
        """Wait until every actor is there and knows its settings, and nothing from before waits for the journal.

        Only then one more death is one, and not the second of two that belong together.
        """

        async def is_whole() -> bool:
            if any(not self._service.actors(name) for name in ACTORS):
                return False
            if (await self._service.get("/ready")).status_code != 200:
                return False
            metrics = await self._service.metrics()
            up, versions = metrics["millrace_actor_up"], metrics["millrace_settings_version"]
            # The service itself has a version too.
            return set(up.values()) == {1.0} and len(versions) == len(up) + 1

        async def is_settled() -> bool:
            waits = (await self._service.metrics())["millrace_retained_seconds"]
            return max(waits.values()) < loop.time() - whole_at

        await eventually(is_whole, _BACK_WITHIN_S, lambda: f"not whole again:\n{self._service.log[-4000:]}")
        loop = asyncio.get_running_loop()
        whole_at = loop.time()
        await eventually(is_settled, _BACK_WITHIN_S, lambda: f"not journalled:\n{self._service.log[-4000:]}")

    async def _kill(self) -> None:
        """Kill a random actor, wherever it is in its work; one at a time: more is not promised."""
        await self.until_whole()
        name = self._rng.choice(ACTORS)
        victim = self._rng.choice(self._service.actors(name))
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            # A shard host that has left meanwhile.
            return
        await asyncio.to_thread(victim.wait, 30)
        self.done[f"kill {name}"] += 1

    async def _stop_for_a_while(self) -> None:
        """Let a process hang: its answers come late, or after its callers gave up."""
        name = self._rng.choice(ACTORS)
        await eventually(lambda: self._service.actors(name), _BACK_WITHIN_S, lambda: f"no {name} to stop")
        process = self._rng.choice(self._service.actors(name))
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            try:
                await asyncio.sleep(self._rng.uniform(0.2, 3.0))
            finally:
                process.resume()
        self.done[f"stop {name}"] += 1

    async def _cut_connections(self) -> None:
        """Let the network between the shard hosts and all others fail for a while.

        One cut alone Ray mends by itself; when calls fail again and again it gives up, and nobody knows what was done.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._rng.uniform(0.0, 3.0)

        async def is_over() -> bool:
            hosts = self._service.actors("ShardHost")
            for harm, name in (("cut", "Gateway"), ("cut pulls", "CollectorHost")):
                self.done[harm] += await asyncio.to_thread(cut_between, self._service.actors(name), hosts)
            # Ray connects when the first call is made.
            return loop.time() > ends_at and self.done["cut"] > before

        before = self.done["cut"]
        await eventually(is_over, _BACK_WITHIN_S, lambda: f"nothing to cut:\n{self._service.log[-4000:]}")

    async def _rescale(self) -> None:
        """Give a tenant another number of shards."""
        tenant, shards = self._rng.choice(self._tenants), self._rng.choice(_SHARDS)
        # Nobody waits until it is in force everywhere: processes may be down.
        self._service.write_entry(tenant, {**self._entry, "shards": shards})
        self.done["rescale"] += 1

    async def _rescale_hosts(self) -> None:
        """Spread all tenants over another number of shard hosts; the next harm does not wait until it is done."""
        answer = await self._service.ask(
            "PATCH", "/api/admin/cluster", token=self._operator, body={"shard_hosts": self._rng.choice(_HOSTS)}
        )
        assert answer.status_code == 202, answer.text
        self.done["rescale hosts"] += 1
