"""After any end, graceful or not, the service goes on from its journal: the same values, no counter back at zero."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import psutil
import pytest
import pytest_asyncio

from tests import traces
from tests.integration.comparison import assert_has, assert_never_went_back
from tests.integration.load import SECOND_NS
from tests.integration.otlp_client import GrpcClient
from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import until_counted
from tests.integration.waiting import eventually
from tests.lasting_ports import lasting_port
from tests.prometheus import Prometheus
from tests.reference import ReferenceModel

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

ENTRY: Final[dict[str, Any]] = {"processors": ["span-metrics", "service-graphs"], "shards": 2}
SLACK_S: Final = 240
PLAN: Final = traces.plan(traces.span_metrics_plan(), traces.service_graphs_plan()) | {
    "ingestion_time_range_slack_s": float(SLACK_S)
}
# Halves wait longer for each other than a start takes, on a busy machine too.
WAIT_S: Final = 240
FAILED_START: Final = 2


@pytest_asyncio.fixture(loop_scope="session")
async def lasting(prometheus: Prometheus) -> AsyncIterator[MillraceProcess]:
    """A service that can be started again on the same ports and data; not running yet."""
    grpc, http = lasting_port(), lasting_port()
    config = {
        "listen": {"otlp_grpc": f"127.0.0.1:{grpc}", "otlp_http": f"127.0.0.1:{http}"},
        "remote_write": [{"url": prometheus.url}],
        "metrics_generator": {
            "metrics_ingestion_time_range_slack": f"{SLACK_S}s",
            "processor": {"service_graphs": {"wait": f"{WAIT_S}s"}},
        },
    }
    service = MillraceProcess(config)
    try:
        yield service
    finally:
        await service.stop()


def calls(number: int) -> tuple[Any, Any]:
    """Return the client's and the server's half of a call, in requests of their own."""
    now_ns = time.time_ns()
    ids = {"trace_id": (now_ns + number).to_bytes(16), "start_ns": now_ns - SECOND_NS, "end_ns": now_ns}
    client = traces.span("call", kind=traces.CLIENT, span_id=b"client..", **ids)
    server = traces.span("work", kind=traces.SERVER, span_id=b"server..", parent=b"client..", **ids)
    return (
        traces.request(traces.batch({"service.name": "shop"}, client)),
        traces.request(traces.batch({"service.name": "stock"}, server)),
    )


async def send(service: MillraceProcess, tenant: str, model: ReferenceModel, *requests: Any) -> None:
    async with GrpcClient(service.grpc_port) as client:
        for request in requests:
            assert (await client.export(request.SerializeToString(), tenant)).is_accepted
            model.push(request, time.time_ns())


async def kill_everything(service: MillraceProcess) -> None:
    """What a power cut does to processes."""
    processes = service.processes()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    await asyncio.to_thread(psutil.wait_procs, processes, 20)
    assert service.processes() == []


@pytest.mark.parametrize("way", ["kill", "terminate"])
async def test_service_goes_on_after_it_ended(lasting: MillraceProcess, prometheus: Prometheus, way: str) -> None:
    tenant, model = f"lasting-{way}", ReferenceModel(PLAN)
    lasting.write_entry(tenant, ENTRY)
    await lasting.start()
    first, second = [calls(number) for number in range(10)], [calls(number) for number in range(10, 20)]
    # Of every other call one half comes before the end, and the other half after.
    for number, (client, server) in enumerate(first):
        await send(lasting, tenant, model, client, *([server] if number % 2 else []))
    await until_counted(prometheus, 15, tenant=tenant)
    if way == "kill":
        await kill_everything(lasting)
    else:
        lasting.terminate()
        assert await lasting.exit_code() == 0
    await lasting.start()
    for number, (_, server) in enumerate(first):
        await send(lasting, tenant, model, *([] if number % 2 else [server]))
    for pair in second:
        await send(lasting, tenant, model, *pair)
    model.flush(0, close_edges=False)
    await assert_has(prometheus, tenant, model.series())
    await assert_never_went_back(prometheus, tenant, 600)


async def test_what_was_acknowledged_as_durable_survives_the_end_of_everything(
    lasting: MillraceProcess, prometheus: Prometheus
) -> None:
    tenant, model = "durable", ReferenceModel(PLAN)
    lasting.write_entry(tenant, ENTRY, ingestion={"acknowledge": "durable"})
    await lasting.start()
    for number in range(5):
        await send(lasting, tenant, model, *calls(number))
    await kill_everything(lasting)
    await lasting.start()
    model.flush(0, close_edges=False)
    await assert_has(prometheus, tenant, model.series())


async def test_ledger_closes_and_goes_on_after_everything_was_killed(lasting: MillraceProcess) -> None:
    tenant = "ledger"
    lasting.write_entry(tenant, ENTRY)
    await lasting.start()
    (client, server), alone, now_ns = calls(1), calls(2)[0], time.time_ns()
    late = traces.span("late", end_ns=now_ns - 2 * SLACK_S * SECOND_NS)
    nobodys = traces.span("nobody's", trace_id=b"", end_ns=now_ns)
    odd = traces.request(traces.batch({"service.name": "odd"}, late, nobodys))
    whole = client.SerializeToString()
    bodies = [whole, server.SerializeToString(), whole, alone.SerializeToString(), odd.SerializeToString()]
    async with GrpcClient(lasting.grpc_port) as otlp:
        for body in [*bodies, whole + whole[:-1]]:
            await otlp.export(body, tenant)
    shop = {
        "received": 4,
        "discarded": {"duplicate": 1, "malformed": 1},
        "processors": {
            "span_metrics": {"received": 2, "generated": 2, "over_limit": 0, "waiting": 0, "discarded": {}},
            "service_graphs": {"received": 2, "generated": 1, "over_limit": 0, "waiting": 1, "discarded": {}},
        },
    }

    async def ledger() -> Any:
        return (await lasting.ask("GET", "/api/ledger", tenant=tenant)).json()

    async def is_told() -> bool:
        told = await ledger()
        assert told["closes"]
        return bool(told["received"] == 7)

    await eventually(is_told, 30, lambda: lasting.log[-2000:])
    told = await ledger()
    assert told["services"]["shop"] == shop
    assert told["services"]["odd"]["discarded"] == {"invalid_trace_id": 1, "outside_metrics_ingestion_slack": 1}
    assert told["discarded"] == {
        "duplicate": 1,
        "invalid_trace_id": 1,
        "malformed": 1,
        "outside_metrics_ingestion_slack": 1,
    }
    in_metrics = await lasting.metric("millrace_ledger_spans_total", tenant=tenant, stage="gateway", outcome="received")
    assert in_metrics == 7
    await kill_everything(lasting)
    await lasting.start()
    assert await ledger() == told
    async with GrpcClient(lasting.grpc_port) as otlp:
        # Known to the successors of all that died.
        await otlp.export(whole, tenant)

    async def is_told_again() -> bool:
        return bool((await ledger())["discarded"]["duplicate"] == 2)

    await eventually(is_told_again, 30, lambda: lasting.log[-2000:])
    assert (await ledger())["closes"]


async def test_damaged_journal_is_refused_and_not_taken_for_an_empty_one(lasting: MillraceProcess) -> None:
    await lasting.start()
    lasting.terminate()
    assert await lasting.exit_code() == 0
    journal = lasting.folder / "data" / "journal.db"
    journal.write_bytes(b"not a database" * 1000)
    lasting.launch()
    assert await lasting.exit_code(90) == FAILED_START
    assert str(journal) in lasting.log
    assert "Traceback" not in lasting.log
    assert journal.read_bytes() == b"not a database" * 1000
    await eventually(lambda: lasting.processes() == [], 60, lambda: lasting.log)
