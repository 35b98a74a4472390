"""The service on a cluster of several nodes, which are lost, drained and added under load: every number is right.

Clients retry, and send to whichever gateway is there; in the end every series that a real Prometheus has is what the
reference model makes of what was sent, and the ledger closes. ``MILLRACE_CHAOS_KILLS``, beyond the default, adds
rounds in which any node is lost, drained or told to end, and replaced.

Gateways and shard hosts are on different nodes, as in k8s/: one node's loss is the loss of one of the two that have
what is acknowledged and not journalled. The loss of the head is not played: without GCS fault tolerance, which needs
Redis, it is the loss of the cluster.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import pytest

from tests.chaos.ray_nodes import COLLECTOR, GATEWAY, HERE, NEIGHBOURS, SHARD, ServiceOnNodes, make_bridge
from tests.chaos.test_chaos import (
    ENTRY,
    KILLS,
    MAX_ITEMS,
    SEED,
    TENANTS,
    Load,
    all_edges_ended,
    assert_counted,
)
from tests.integration.waiting import eventually
from tests.postgres import Postgres
from tests.prometheus import Prometheus

_DEFAULT_KILLS: Final = 10
_ROUNDS: Final = max(0, KILLS - _DEFAULT_KILLS) // 4

SHARD_HOSTS: Final = 2

pytestmark = [
    pytest.mark.integration,
    pytest.mark.private_network,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(600 + 180 * _ROUNDS),
]

# As many as there are hosts: whichever is lost had something.
SPREAD: Final = {**ENTRY, "shards": SHARD_HOSTS}
EDGE: Final = (GATEWAY, COLLECTOR)
SHARDS: Final = (SHARD,)
# Longer than any half of an edge can be late here.
_WAIT_S: Final = 90
_NOTICED_AFTER_S: Final = 5.0
_TAKEN_OVER_WITHIN_S: Final = 60.0
"""Longest that a request may have to be sent again when a node is lost, on a busy machine: Ray needs 15 s to notice,
20 s of silence take a host out of the routes."""
_WITHIN_S: Final = 90
_DRAIN_S: Final = 60


class Cluster:
    """A service under load on nodes that come and go, and what is to be seen of it."""

    def __init__(self, service: ServiceOnNodes, loads: Sequence[Load]) -> None:
        self.service = service
        self._loads = loads
        self._names = iter(f"later-{number}" for number in range(1000))

    async def until_whole(self, shard_hosts: int, within_s: float = _WITHIN_S) -> float:
        """Wait until all actors that there shall be answer and nothing from before waits for the journal.

        Returns:
            How long it took.
        """
        began = time.monotonic()
        seen: dict[str, Any] = {}

        async def is_whole() -> bool:
            layout = (await self.service.ask("GET", "/api/admin/cluster", token=self.service.operator)).json()
            metrics = await self.service.metrics()
            up = {dict(labels)["actor"]: value for labels, value in metrics["millrace_actor_up"].items()}
            versions = metrics["millrace_settings_version"]
            seen.update(layout["shard_hosts"], up=up, versions=len(versions))
            hosts = layout["shard_hosts"]
            gateways = [name for name in up if name.startswith("gateway-")]
            return (
                len(hosts["running"]) == shard_hosts
                and not hosts["leaving"]
                # Those that have no place are known to be missing.
                and hosts["is_done"] == (shard_hosts == SHARD_HOSTS)
                and len(gateways) == len(self.service.entrances)
                and set(up.values()) == {1.0}
                and len(versions) == len(up) + 1
            )

        async def is_settled() -> bool:
            waits = (await self.service.metrics())["millrace_retained_seconds"]
            return max(waits.values()) < time.monotonic() - whole_at

        await eventually(is_whole, within_s, lambda: f"not whole: {seen}\n{self.service.logs}")
        whole_at = time.monotonic()
        await eventually(is_settled, within_s, lambda: f"not journalled\n{self.service.logs}")
        return time.monotonic() - began

    async def add(self, slots: Sequence[str]) -> str:
        """Start one more node; wait until its gateway accepts, if it is to have one."""
        name = next(self._names)
        node = await self.service.add(name, slots)
        if GATEWAY in slots:
            await eventually(node.accepts, _WITHIN_S, lambda: f"no gateway on {name}\n{self.service.logs}")
            self.service.entrances.add(name)
        return name

    async def lose(self, name: str) -> None:
        """Kill all processes of a node at one blow."""
        await self.service.nodes[name].lose()
        self.service.entrances.discard(name)
        print(f"{name} is lost")

    async def drain(self, name: str) -> None:
        """Have a node leave as an autoscaler does, and see in which order it becomes empty; then end it."""
        node = self.service.nodes[name]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._until_empty(name))
            group.create_task(self.service.drain(name, _DRAIN_S))
        # Ray has ended its raylet, which had nothing to do any more; who drained it deletes it.
        await node.terminate()
        await node.until_ended()

    async def terminate(self, name: str) -> None:
        """Have a node end as the kubelet does; Ray itself drains it and waits until it is empty."""
        began = time.monotonic()
        await self.service.nodes[name].terminate()
        await self._until_empty(name)
        await self.service.nodes[name].until_ended()
        print(f"{name} ended {time.monotonic() - began:.1f} s after SIGTERM")

    async def _until_empty(self, name: str) -> None:
        node = self.service.nodes[name]
        actors = [actor for actor in ("Gateway", "ShardHost", "CollectorHost") if node.has(actor)]
        began = time.monotonic()
        if "Gateway" in actors:

            async def accepts_no_more() -> bool:
                return not await node.accepts()

            await eventually(accepts_no_more, _DRAIN_S, lambda: f"{name} goes on accepting\n{self.service.logs}")
            self.service.entrances.discard(name)
            print(f"{name} stopped accepting after {time.monotonic() - began:.1f} s")
        await eventually(
            lambda: not any(node.has(actor) for actor in actors),
            _DRAIN_S,
            lambda: f"{name} not empty\n{self.service.logs}",
        )
        if "CollectorHost" in actors:
            # Until then it was needed: what the gateway took had to be journalled.
            said = self.service.nodes["head"].log.split(f'"node": "{node.address}", "event": "gateway leaves')[-1]
            assert 0 < said.find('"event": "gateway left"') < said.find('"event": "collector goes elsewhere')
        print(f"{name}, with {', '.join(actors)}, was empty after {time.monotonic() - began:.1f} s")


async def first_moves(cluster: Cluster) -> None:
    """One node of each kind lost, one drained, one told to end, one added."""
    service = cluster.service
    # a) Everything is where it should be.
    assert {"edge-a", "edge-b"} == set(service.where("Gateway"))
    assert {"shard-a", "shard-b"} == set(service.where("ShardHost"))
    assert service.where("Controller") == ["head"]
    assert await service.nodes["edge-a"].accepts()
    assert await service.nodes["edge-b"].accepts()
    # b) A node of shards is lost. Nobody else has room: its ranges go to the host that is left.
    await cluster.lose("shard-a")
    print(f"taken over {await cluster.until_whole(SHARD_HOSTS - 1):.1f} s after the loss")
    # d) One is added that has place for both: a gateway appears, and the host gets its part again.
    both = await cluster.add((GATEWAY, SHARD))
    print(f"{both} in service, shard host back after {await cluster.until_whole(SHARD_HOSTS):.1f} s")
    assert service.nodes[both].has("ShardHost")
    # c) The node with the collector is drained.
    (collector,) = service.where("CollectorHost")
    await cluster.drain(collector)
    print(f"whole {await cluster.until_whole(SHARD_HOSTS):.1f} s after {collector} left")
    assert service.where("CollectorHost") == [({"edge-a", "edge-b"} - {collector}).pop()]


async def rounds(cluster: Cluster, rng: random.Random) -> None:
    """Any node is lost, drained or told to end, and another one like it comes, again and again."""
    nodes = {await cluster.add(slots): slots for slots in (EDGE, SHARDS)}
    ways: list[Callable[[str], Awaitable[None]]] = [cluster.lose, cluster.drain, cluster.terminate]
    for number in range(_ROUNDS):
        await cluster.until_whole(SHARD_HOSTS)
        name = rng.choice(sorted(nodes))
        slots = nodes.pop(name)
        await ways[number % len(ways)](name)
        nodes[await cluster.add(slots)] = slots


async def test_nodes_are_lost_drained_and_added_and_every_number_is_right() -> None:
    make_bridge()
    with Postgres(HERE) as postgres:
        async with Prometheus(host=HERE) as prometheus:
            config: dict[str, Any] = {
                "remote_write": [{"url": prometheus.url}],
                "remote_write_targets": {"allowed_private": [NEIGHBOURS]},
                "store": {"url": postgres.new_database()},
                "metrics_generator": {
                    "metrics_ingestion_time_range_slack": "25m",
                    "registry": {"stale_duration": "24h"},
                    "processor": {"service_graphs": {"wait": f"{_WAIT_S}s", "max_items": MAX_ITEMS}},
                },
            }
            nodes = {"edge-a": EDGE, "edge-b": EDGE, "shard-a": SHARDS, "shard-b": SHARDS}
            began = time.monotonic()
            async with ServiceOnNodes(config, nodes, **dict.fromkeys(TENANTS, SPREAD)) as service:
                print(f"ready after {time.monotonic() - began:.1f} s")
                loads = [Load(service, tenant, SEED) for tenant in TENANTS]
                cluster = Cluster(service, loads)
                is_enough = asyncio.Event()
                async with asyncio.TaskGroup() as group:
                    for load in loads:
                        group.create_task(load.flow(is_enough))
                    try:
                        await cluster.until_whole(SHARD_HOSTS)
                        await first_moves(cluster)
                        if _ROUNDS:
                            await rounds(cluster, random.Random(SEED))
                    finally:
                        is_enough.set()
                for load in loads:
                    print(f"{load.tenant}: {load.acknowledged} requests, {load.attempts} calls, {load.longest_s:.1f} s")
                await all_edges_ended(service)
                for load in loads:
                    await assert_counted(service, prometheus, load, began)
                    # Some had to wait until the ranges of the lost host were taken over.
                    assert _NOTICED_AFTER_S < load.longest_s < _TAKEN_OVER_WITHIN_S
                assert prometheus.refusals == []
                assert [status for status in await prometheus.write_answers() if status.startswith("4")] == []
            print(f"all in {time.monotonic() - began:.1f} s; calls that made no sense to repeat would have failed")
