"""How the service starts and ends: what it refuses to start with, and that at its end nothing accepted is lost."""

import asyncio
import contextlib
import itertools
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from tests import traces
from tests.integration.comparison import differences, series_of
from tests.integration.load import SECOND_NS
from tests.integration.otlp_client import Answer, GrpcClient, HttpClient
from tests.integration.service import MillraceProcess
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus
from tests.reference import ReferenceModel
from tests.unit.receiver import Hold, Receiver

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

BUSY: Final = "busy"
SENDERS: Final = 3
FAILED_START: Final = 2


@pytest_asyncio.fixture(loop_scope="session")
async def unstarted() -> AsyncIterator[MillraceProcess]:
    process = MillraceProcess()
    yield process
    await process.stop()


def one_call(number: int) -> Any:
    """Return a customer's request to the shop; its span has a name of its own, so that each can be found."""
    now_ns = time.time_ns()
    span = traces.span(
        f"call-{number}",
        kind=traces.SERVER,
        trace_id=(number + 1).to_bytes(16),
        start_ns=now_ns - SECOND_NS // 3,
        end_ns=now_ns,
    )
    return traces.request(traces.batch({"service.name": "shop"}, span))


async def test_sigterm_under_load_loses_nothing_that_was_acknowledged(prometheus: Prometheus) -> None:
    # One collection in five minutes: what Prometheus has in the end was collected while draining.
    async with Receiver(otherwise=Hold()) as slow:
        endpoints = [{"url": prometheus.url}, {"url": slow.url}]
        entry = {
            "processors": ["span-metrics", "service-graphs"],
            "shards": 3,
            "collection_interval": "5m",
            "remote_write": endpoints,
        }
        async with MillraceProcess(None, **{BUSY: entry}) as service:
            model = ReferenceModel(traces.plan(traces.span_metrics_plan(), traces.service_graphs_plan()))
            refusals = await _load_until_refused(service, model)
            started = time.monotonic()

            # The slow endpoint keeps it from ending: time to look at a service that is draining.
            ports = (service.grpc_port, service.otlp_http_port)
            await eventually(lambda: not any(map(_is_open, ports)), 30, lambda: f"still accepting:\n{service.log}")
            await slow.wait_for_requests(1, timeout_s=30)
            assert (await service.get("/ready")).status_code == 503
            assert (await service.status())["state"] == "draining"
            assert service.is_running
            slow.release()

            assert await service.exit_code() == 0
            assert time.monotonic() - started < 30
            assert [line["everything_sent"] for line in service.events if line["event"] == "drained"] == [True]
            assert service.events[-1]["event"] == "stopped"
            assert service.processes() == []
            assert {answer.status for answer in refusals} <= {"UNAVAILABLE", "503", "connection closed"}
            assert model.received_spans > 100

        # Half edges are not cut short: they wait on after the next start.
        model.flush(0, close_edges=False)
        expected = model.series()
        seen = {key: value for key, value in (await series_of(prometheus, BUSY)).items() if key in expected}
        assert seen == expected, differences(expected, seen)


async def _load_until_refused(service: MillraceProcess, model: ReferenceModel) -> list[Answer]:
    """Send call after call by both protocols while the service is told to end; the model gets what it acknowledged."""
    numbers = itertools.count()
    refusals = []
    async with GrpcClient(service.grpc_port) as grpc, HttpClient(service.otlp_http_port) as http:

        async def sender(client: GrpcClient | HttpClient) -> None:
            while True:
                request = one_call(next(numbers))
                try:
                    answer = await client.export(request.SerializeToString(), BUSY)
                except httpx.TransportError:
                    answer = Answer("connection closed")
                if not answer.is_accepted:
                    refusals.append(answer)
                    return
                model.push(request, time.time_ns())

        async with asyncio.TaskGroup() as senders:
            for _ in range(SENDERS):
                senders.create_task(sender(grpc))
                senders.create_task(sender(http))
            await eventually(lambda: model.received_spans > 100, 30, lambda: "no load")
            service.terminate()
    return refusals


async def test_sigterm_during_the_start_ends_it_and_leaves_nothing(unstarted: MillraceProcess) -> None:
    unstarted.launch()

    async def is_starting() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return (await unstarted.get("/ready")).status_code == 503
        return False

    await eventually(is_starting, 60, lambda: unstarted.log)
    unstarted.terminate()
    assert await unstarted.exit_code() == 0
    assert unstarted.processes() == []


@pytest.fixture(params=["http", "otlp_grpc"])
def taken(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Listen on a port; return the setting that shall name it, and the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield request.param, f"127.0.0.1:{listener.getsockname()[1]}"


async def test_taken_port_is_named_and_nothing_is_left_running(taken: tuple[str, str]) -> None:
    setting, address = taken
    service = MillraceProcess({"listen": {setting: address}})
    try:
        service.launch()
        assert await service.exit_code(60) == FAILED_START
        assert f"millrace: cannot listen on {address}" in service.log
        assert "Traceback" not in service.log
        assert service.processes() == []
    finally:
        await service.stop()


async def test_bad_configuration_is_refused_with_the_path_of_every_fault(unstarted: MillraceProcess) -> None:
    path = unstarted.folder / "bad.yaml"
    path.write_text("lisen: {}\nremote_write: [{url: 'ftp://x'}]\ncluster: {flush_interval: fast}\n")
    unstarted.run("serve", "--config", str(path))
    assert await unstarted.exit_code() == FAILED_START
    assert f"{path}: 3 faults" in unstarted.log
    assert "lisen (line 1): unknown key; did you mean listen?" in unstarted.log
    assert "remote_write[0].url (line 2): should be http:// or https://" in unstarted.log
    assert "cluster.flush_interval (line 3): " in unstarted.log
    assert "Traceback" not in unstarted.log


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, r"runtime file refused \(read\).*No such file or directory; restore it"),
        ("overrides: {acme: {ingestion: {rate_limit_bytes: -5}}}", r"overrides\.acme\.ingestion\.rate_limit_bytes"),
    ],
)
async def test_runtime_file_that_is_missing_or_bad_at_start_is_refused(
    unstarted: MillraceProcess, text: str | None, says: str
) -> None:
    unstarted.runtime_file.unlink()
    if text is not None:
        unstarted.runtime_file.write_text(text)
    unstarted.launch()
    assert await unstarted.exit_code() == FAILED_START
    assert re.search(says, unstarted.log, re.DOTALL), unstarted.log
    assert unstarted.processes() == []


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
