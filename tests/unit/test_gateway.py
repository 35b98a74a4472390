import asyncio
from collections.abc import AsyncIterator, Collection

import grpc
import httpx
import pytest

from cluster.gateway import gateway as gateway_module
from cluster.gateway.gateway import Gateway, Ports
from cluster.gateway.listen import CannotListenError
from cluster.measurements import families
from cluster.placement import Routes
from tenants.processing.flush_record import Place, ShardKey
from tenants.processing.frame_group import FrameGroup
from tenants.settings import ServiceConfig
from tests.overrides_in_force import whole_of
from tests.unit.actor_handle import ActorHandle
from tests.unit.conditions import is_open, until
from tests.unit.frame_taker import ledger_of
from tests.unit.tenant_work import NOW_NS, config, overrides, request, spans_on

LISTEN = 'listen: {otlp_grpc: "127.0.0.1:0", otlp_http: "127.0.0.1:0"}\nmultitenancy_enabled: true\n'
ROUTES = Routes(1, ("shard-host-0",), ("collector-0",))
TENANTS = overrides(acme=spans_on())
PROTOBUF = {"Content-Type": "application/x-protobuf", "X-Scope-OrgID": "acme"}
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Host:
    def __init__(self) -> None:
        self.groups: list[FrameGroup] = []
        self.journalled = 1

    async def ingest(self, group: FrameGroup) -> tuple[Place, ...]:
        self.groups.append(group)
        return tuple(Place(1, 1) for _ in group.heads)

    async def durable(self, keys: Collection[ShardKey]) -> dict[ShardKey, Place]:
        return {key: Place(1, self.journalled) for key in keys}

    async def adopt(self, keys: Collection[ShardKey]) -> Collection[ShardKey]:
        return keys


class Harness:
    def __init__(self) -> None:
        self.host = Host()
        self.gateway = Gateway("gateway-0")

    async def configure(self, text: str = "", version: int = 1) -> Ports:
        settings: ServiceConfig = config(LISTEN + text)
        hosts = {"shard-host-0": ActorHandle(self.host)}
        return await self.gateway.configure(settings, ROUTES, hosts, whole_of(version, TENANTS))


@pytest.fixture
async def harness(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    monkeypatch.setattr(gateway_module, "set_up_logging", lambda *_: None)
    monkeypatch.setattr("time.time_ns", lambda: NOW_NS)
    made = Harness()
    yield made
    await made.gateway.drain(0)


async def test_both_ports_lead_to_the_shard_host(harness: Harness) -> None:
    assert not await harness.gateway.is_configured()
    assert await harness.gateway.measure() == []
    ports = await harness.configure()
    assert await harness.gateway.is_configured()
    async with httpx.AsyncClient() as client, asyncio.timeout(10):
        answer = await client.post(
            f"http://127.0.0.1:{ports.otlp_http}/v1/traces", content=request("a"), headers=PROTOBUF
        )
        assert answer.status_code == 200
        refused = await client.post(f"http://127.0.0.1:{ports.otlp_http}/v1/traces", content=b"?", headers=PROTOBUF)
        assert refused.status_code == 400
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.otlp_grpc}") as channel:
        export = channel.unary_unary(EXPORT)
        assert await export(request("b"), metadata=(("x-scope-orgid", "acme"),), timeout=10) == b""
    assert [str(key) for group in harness.host.groups for key in (head.key for head in group.heads)] == [
        "acme/0of1"
    ] * 2
    measured = await harness.gateway.measure()
    assert len(list(families({"gateway-0": measured}))) >= 6
    figures = {(name, *labels): value for name, labels, value in measured}
    assert figures["millrace_requests_total", "grpc", "ok"] == 1
    assert figures["millrace_requests_total", "http", "ok"] == 1
    assert figures["millrace_requests_total", "http", "malformed"] == 1
    assert figures["millrace_spans_received_total", "acme"] == 2


async def test_request_marked_so_becomes_no_metrics_on_either_port(harness: Harness) -> None:
    ports = await harness.configure()
    async with httpx.AsyncClient() as client, asyncio.timeout(10):
        marked = {**PROTOBUF, "No-Generate-Metrics": "1"}
        url = f"http://127.0.0.1:{ports.otlp_http}/v1/traces"
        assert (await client.post(url, content=request("a"), headers=marked)).status_code == 200
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.otlp_grpc}") as channel:
        metadata = (("x-scope-orgid", "acme"), ("no-generate-metrics", ""))
        assert await channel.unary_unary(EXPORT)(request("b", "c"), metadata=metadata, timeout=10) == b""
    assert ledger_of(harness.host) == {("gateway", "received"): 3, ("gateway", "skipped"): 3}
    figures = {(name, *labels): value for name, labels, value in await harness.gateway.measure()}
    assert figures["millrace_spans_received_total", "acme"] == 3
    assert figures["millrace_metrics_generation_skipped_processor_pushes_total", "acme"] == 2


async def test_newer_overrides_are_shown_before_the_next_request(harness: Harness) -> None:
    ports = await harness.configure()
    async with httpx.AsyncClient() as client, asyncio.timeout(10):
        await client.post(f"http://127.0.0.1:{ports.otlp_http}/v1/traces", content=request("a"), headers=PROTOBUF)

    async def is_active() -> float:
        figures = {(name, *labels): value for name, labels, value in await harness.gateway.measure()}
        return figures["millrace_active_processors", "acme", "span-metrics"]

    assert await is_active() == 1
    await harness.gateway.put_overrides(whole_of(2, {}))
    assert await is_active() == 0


async def test_configuring_twice_at_once_listens_once(harness: Harness) -> None:
    first, second = await asyncio.gather(harness.configure(), harness.configure(version=2))
    assert first == second == await harness.configure(version=3)
    assert ("millrace_settings_version", (), 3) in await harness.gateway.measure()


async def test_nothing_listens_when_one_address_cannot_be_had(harness: Harness) -> None:
    other = Harness()
    taken = await other.configure()
    text = f"listen: {{otlp_grpc: '127.0.0.1:0', otlp_http: '127.0.0.1:{taken.otlp_http}'}}"
    hosts = {"shard-host-0": ActorHandle(harness.host)}
    with pytest.raises(CannotListenError):
        await harness.gateway.configure(config(text), ROUTES, hosts, whole_of(1, TENANTS))
    assert not await harness.gateway.is_configured()
    await other.gateway.drain(0)
    await harness.configure()
    assert await harness.gateway.is_configured()


async def test_request_whose_frames_wait_for_company_is_counted_and_answered_while_draining(harness: Harness) -> None:
    ports = await harness.configure("cluster: {group_wait: 200ms}")
    async with httpx.AsyncClient() as client, asyncio.timeout(10):
        url = f"http://127.0.0.1:{ports.otlp_http}/v1/traces"
        exporting = asyncio.ensure_future(client.post(url, content=request("a"), headers=PROTOBUF))

        async def is_waiting() -> bool:
            figures = {name: value for name, _, value in await harness.gateway.measure()}
            return figures["millrace_dispatch_queued_bytes"] > 0

        while not await is_waiting():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        draining = asyncio.ensure_future(harness.gateway.drain(5))
        await until(lambda: not is_open(ports.otlp_http))
        assert harness.host.groups == []
        await draining
        assert (await exporting).status_code == 200
    assert len(harness.host.groups) == 1


async def test_refused_spans_that_no_shard_takes_leave_the_drain_time_to_wait_for_the_journal(
    harness: Harness,
) -> None:
    ports = await harness.configure("cluster: {group_wait: 1ms, flush_interval: 10ms}")
    harness.host.journalled = 0
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{ports.otlp_http}/v1/traces"
        assert (await client.post(url, content=request("a"), headers=PROTOBUF)).status_code == 200
    assert harness.gateway._dispatcher is not None
    given_up = asyncio.Event()

    async def hanging() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    harness.gateway._dispatcher.tell_refused = hanging  # type: ignore[method-assign]
    draining = asyncio.ensure_future(harness.gateway.drain(2))
    await given_up.wait()
    harness.host.journalled = 1
    assert await draining


async def test_drain_waits_until_what_was_acknowledged_is_journalled(harness: Harness) -> None:
    ports = await harness.configure("cluster: {group_wait: 1ms, flush_interval: 10ms}")
    harness.host.journalled = 0
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{ports.otlp_http}/v1/traces"
        assert (await client.post(url, content=request("a"), headers=PROTOBUF)).status_code == 200
    assert not await harness.gateway.drain(0.1)
    draining = asyncio.ensure_future(harness.gateway.drain(10))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(draining), 0.1)
    harness.host.journalled = 1
    async with asyncio.timeout(20):
        assert await draining
