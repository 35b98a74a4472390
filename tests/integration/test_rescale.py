"""Shards of a tenant, and shard hosts, become more and fewer under load: nothing is lost, doubled or going back."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from tests import traces
from tests.chaos.persistent_client import PersistentClient
from tests.integration.comparison import assert_has, assert_never_went_back
from tests.integration.load import SECOND_NS, requests
from tests.integration.service import MillraceProcess
from tests.integration.waiting import eventually
from tests.lasting_ports import lasting_port
from tests.prometheus import Prometheus
from tests.reference import ReferenceModel

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

# Longer than the halves of an edge can be apart here; edges without a second half end after it.
WAIT_S: Final = 90
ENTRY: Final[dict[str, Any]] = {"processors": ["span-metrics", "service-graphs"], "shards": 1}
# More than wait at any time: beyond it the model lets edges go, and the service drops spans.
MAX_ITEMS: Final = 1_000_000
PLAN: Final = traces.plan(traces.span_metrics_plan(), traces.service_graphs_plan(max_items=MAX_ITEMS))
_CLIENTS: Final = 2
_PAUSE_S: Final = 0.02
_IN_FORCE_WITHIN_S: Final = 90


@pytest_asyncio.fixture(loop_scope="session")
async def scaled(prometheus: Prometheus) -> AsyncIterator[MillraceProcess]:
    """A service of its own: the others must not lose their shard hosts."""
    grpc, http = lasting_port(), lasting_port()
    config = {
        # A gateway that is killed has to come back where clients look for it.
        "listen": {"otlp_grpc": f"127.0.0.1:{grpc}", "otlp_http": f"127.0.0.1:{http}"},
        "remote_write": [{"url": prometheus.url}],
        "metrics_generator": {
            "metrics_ingestion_time_range_slack": "10m",
            "processor": {"service_graphs": {"wait": f"{WAIT_S}s", "max_items": MAX_ITEMS}},
        },
    }
    async with MillraceProcess(config) as running:
        yield running


class Load:
    """Waves of traces for one tenant; what they should become is in the model."""

    def __init__(self, service: MillraceProcess, tenant: str, plan: Any = PLAN) -> None:
        self.tenant = tenant
        self.model = ReferenceModel(plan, strict_ids=True)
        self.waves = 0
        self.refused = 0
        self._service = service
        self._rng = random.Random(tenant)
        self._ended = asyncio.Event()
        self._task = asyncio.ensure_future(self._flow())

    async def until_waves(self, waves: int) -> None:
        """Wait until so many more waves have begun and ended."""
        wanted = self.waves + waves + 1
        await eventually(lambda: self._task.done() or self.waves >= wanted, 60, lambda: f"{self.waves} waves")
        if self._task.done():
            await self._task

    async def send(self, bodies: Sequence[bytes]) -> None:
        """Send requests until they are acknowledged, beside the waves."""
        for body in bodies:
            self.model.push(body, time.time_ns())
        await PersistentClient(self._service, self.tenant, random.Random(self._rng.random())).send_all(bodies, _PAUSE_S)

    async def end(self) -> None:
        """Send no further wave."""
        self._ended.set()
        await self._task

    async def _flow(self) -> None:
        while not self._ended.is_set():
            now_ns = time.time_ns()
            bodies = requests(self._rng, now_ns, traces=30, spans_per_request=30)
            for body in bodies:
                self.model.push(body, now_ns)
            rngs = [random.Random(self._rng.random()) for _ in range(_CLIENTS)]
            clients = [PersistentClient(self._service, self.tenant, rng) for rng in rngs]
            async with asyncio.TaskGroup() as group:
                for number, client in enumerate(clients):
                    group.create_task(client.send_all(bodies[number::_CLIENTS], _PAUSE_S))
            self.waves += 1
            self.refused += sum(client.refused for client in clients)


def halves(count: int) -> tuple[list[bytes], list[bytes]]:
    """Return the client's and the server's halves of so many calls, in requests of their own."""
    now_ns = time.time_ns()
    clients, servers = [], []
    for number in range(count):
        ids = {
            "trace_id": random.Random(now_ns + number).randbytes(16),
            "start_ns": now_ns - SECOND_NS,
            "end_ns": now_ns,
        }
        client = traces.span("call", kind=traces.CLIENT, span_id=b"client..", **ids)
        server = traces.span("work", kind=traces.SERVER, span_id=b"server..", parent=b"client..", **ids)
        clients.append(traces.request(traces.batch({"service.name": "shop"}, client)).SerializeToString())
        servers.append(traces.request(traces.batch({"service.name": "stock"}, server)).SerializeToString())
    return clients, servers


async def rescale(service: MillraceProcess, *arguments: str, token: str) -> tuple[int, str, str]:
    """Run ``millrace rescale`` beside the service, with an operator's token in the environment."""
    ended = await asyncio.to_thread(
        subprocess.run,
        [
            Path(sys.executable).with_name("millrace"),
            "rescale",
            *arguments,
            "--config",
            str(service.config_file),
            "--timeout",
            str(_IN_FORCE_WITHIN_S),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MILLRACE_TOKEN": token},
    )
    return ended.returncode, ended.stdout, ended.stderr


async def rescaled(service: MillraceProcess, *arguments: str, token: str) -> dict[str, Any]:
    code, output, errors = await rescale(service, *arguments, "--json", token=token)
    assert (code, errors) == (0, ""), (code, output, errors, service.log[-3000:])
    document: dict[str, Any] = json.loads(output)
    return document


async def test_more_and_fewer_shards_and_hosts_under_load_change_no_number(
    scaled: MillraceProcess, prometheus: Prometheus
) -> None:
    began, tenant = time.monotonic(), "scaled"
    await scaled.put_tenants(**{tenant: ENTRY})
    token = await scaled.operator_token()
    load = Load(scaled, tenant)
    await load.until_waves(1)
    steps = [
        ("shards", 4),
        ("hosts", 3),
        ("shards", 2),
        ("hosts", 1),
    ]
    for what, number in steps:
        clients, servers = halves(20)
        await load.send(clients)
        if what == "shards":
            said = await rescaled(scaled, tenant, "--shards", str(number), token=token)
            assert said == {"tenant": tenant, "shards": number, "is_done": True}
            assert await scaled.metric("millrace_tenant_shards", tenant=tenant) == number
        else:
            said = await rescaled(scaled, "--hosts", str(number), token=token)
            assert (said["running"], said["leaving"]) == ([f"shard-host-{index}" for index in range(number)], [])
            assert len(scaled.actors("ShardHost")) == number
        await load.send(servers)
        await load.until_waves(1)
    await load.end()
    # Of hosts that left nothing is said any more.
    for name, label in (
        ("millrace_actor_up", "actor"),
        ("millrace_retained_bytes", "host"),
        ("millrace_pull_failures_total", "host"),
    ):
        hosts = {dict(labels)[label] for labels in (await scaled.metrics())[name]}
        assert {host for host in hosts if host.startswith("shard-host")} == {"shard-host-0"}, name
    await edges_end(scaled)
    load.model.flush(0, close_edges=True)
    await assert_has(prometheus, tenant, load.model.series())
    await assert_never_went_back(prometheus, tenant, 60 + time.monotonic() - began)
    assert [line for line in scaled.events if line["level"] in {"error", "critical"}] == []
    print(f"{load.waves} waves, {load.refused} refused for now, {time.monotonic() - began:.0f} s")


async def edges_end(service: MillraceProcess) -> None:
    """Wait until no half edge waits, in shards or in ranges that wait for a host."""

    async def are_ended() -> bool:
        metrics, names = await service.metrics(), ("millrace_shard_open_edges", "millrace_mirror_open_edges")
        return all(name in metrics and not sum(metrics[name].values()) for name in names)

    await eventually(are_ended, WAIT_S + 60, lambda: f"half edges are left:\n{service.log[-2000:]}")


async def test_command_says_what_is_wrong(service: MillraceProcess) -> None:
    code, output, errors = await rescale(service, "--hosts", "2", token="wrong")
    assert (code, output) == (2, "")
    assert "the service refused (401)" in errors
    assert len(service.actors("ShardHost")) == 2


async def test_whoever_dies_while_hosts_come_and_go_no_number_changes(
    scaled: MillraceProcess, prometheus: Prometheus
) -> None:
    began, tenant = time.monotonic(), "disturbed"
    await scaled.put_tenants(**{tenant: {**ENTRY, "shards": 4}})
    token = await scaled.operator_token()
    load = Load(scaled, tenant)
    await load.until_waves(1)
    for hosts, victim in ((3, "Controller"), (1, "ShardHost"), (2, "CollectorHost"), (1, "Controller"), (2, "Gateway")):
        asked = {"shard_hosts": hosts}
        answer = await scaled.ask("PATCH", "/api/admin/cluster", token=token, body=asked)
        assert answer.status_code == 202
        # One after the other: more at the same instant is not promised.
        process = scaled.actors(victim)[-1]
        process.kill()
        await asyncio.to_thread(process.wait, 30)
        await until_spread(scaled, hosts, token)
        await load.until_waves(1)
    await load.end()
    await edges_end(scaled)
    load.model.flush(0, close_edges=True)
    await assert_has(prometheus, tenant, load.model.series())
    await assert_never_went_back(prometheus, tenant, 60 + time.monotonic() - began)
    print(f"{load.waves} waves, {load.refused} refused for now, {time.monotonic() - began:.0f} s")


async def until_spread(service: MillraceProcess, hosts: int, token: str) -> None:
    """Wait until tenants are spread over so many hosts and every actor is there."""

    async def is_spread() -> bool:
        scaled = (await service.ask("GET", "/api/admin/cluster", token=token)).json()["shard_hosts"]
        if not scaled["is_done"] or len(scaled["running"]) != hosts:
            return False
        up = (await service.metrics())["millrace_actor_up"]
        return set(up.values()) == {1.0} and (await service.get("/ready")).status_code == 200

    await eventually(is_spread, _IN_FORCE_WITHIN_S, lambda: f"not spread over {hosts}:\n{service.log[-4000:]}")


async def test_tenant_that_sends_more_than_a_shard_takes_is_divided_by_itself(prometheus: Prometheus) -> None:
    tenant = "growing"
    config = {"remote_write": [{"url": prometheus.url}], "cluster": {"shard_spans_per_second": 20}}
    entry = {"processors": ["span-metrics"], "ingestion_time_range_slack": "10m"}
    plan = traces.plan(traces.span_metrics_plan())
    async with MillraceProcess(config, **{tenant: entry}) as service:
        load = Load(service, tenant, plan)
        await load.until_waves(1)
        assert await service.metric("millrace_tenant_shards", tenant=tenant) == 1

        async def is_divided() -> bool:
            return await service.metric("millrace_tenant_shards", tenant=tenant) == 2

        await eventually(is_divided, _IN_FORCE_WITHIN_S, lambda: service.log[-2000:])
        await load.until_waves(2)
        assert await service.metric("millrace_shard_ranges_owned", tenant=tenant) == 2
        await load.end()
        load.model.flush(0, close_edges=False)
        await assert_has(prometheus, tenant, load.model.series())
        await assert_never_went_back(prometheus, tenant, 120)
