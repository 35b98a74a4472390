"""``millrace replay``, against a real receiver of OTLP/HTTP."""

import asyncio
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rich.console import Console
from typer.testing import CliRunner, Result

from cluster.cli import app
from cluster.commands import replay
from cluster.commands.replay import Plan, Schedule, Sent, Timing
from cluster.commands.service_access import Reach
from cluster.demo.ports import free_port
from cluster.errors import CommandError
from cluster.gateway.intake import Accepted
from cluster.gateway.refusal import RefusalReason, Refused
from tenants.identity import TenantId
from tests.unit.export_requests import export_request
from tests.unit.test_otlp_http import Listening, listening

SECOND_NS = 1_000_000_000


class Passing:
    """Time that passes by sleeping alone."""

    def __init__(self, on_sleep: Callable[[], None] = lambda: None) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []
        self._on_sleep = on_sleep

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        self._on_sleep()

    @property
    def timing(self) -> Timing:
        return Timing(lambda: int(self.now_s * SECOND_NS), lambda: self.now_s, self.sleep)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three requests, framed: the second one second after the first, the third two seconds after that."""
    path = tmp_path / "spans.pb"
    content = b""
    for number, offset_s in enumerate((0, 1, 3), start=1):
        request = export_request(number)
        for span in request.resource_spans[0].scope_spans[0].spans:
            span.start_time_unix_nano += offset_s * SECOND_NS
            span.end_time_unix_nano += offset_s * SECOND_NS
        body = request.SerializeToString()
        content += len(body).to_bytes(4, "big") + body
    path.write_bytes(content)
    return path


def ends(service: Listening) -> list[int]:
    """When the last span of each request ended, in the order of arrival."""
    requests = map(ExportTraceServiceRequest.FromString, service.intake.bodies)
    return [
        max(span.end_time_unix_nano for r in request.resource_spans for s in r.scope_spans for span in s.spans)
        for request in requests
    ]


async def send(
    service: Listening, file: Path, passing: Passing, *, speed: float = 1.0, keeps_times: bool = False
) -> Sent:
    plan = Plan(file, TenantId("acme"), speed, keeps_times)
    reach = Reach(f"http://127.0.0.1:{service.port}")
    out = Console(file=io.StringIO())
    return await asyncio.to_thread(replay.replay, plan, reach, {}, out, as_json=False, timing=passing.timing)


@pytest.mark.parametrize(("speed", "slept"), [(1.0, [1.0, 2.0]), (4.0, [0.25, 0.5]), (0.0, [])])
async def test_requests_come_as_far_apart_as_they_were_and_end_now(
    file: Path, speed: float, slept: list[float]
) -> None:
    passing = Passing()
    async with listening() as service:
        sent = await send(service, file, passing, speed=speed)
        assert (sent.requests, sent.spans, sent.rejected_spans) == (3, 6, 0)
        assert {tenant for tenant, _ in service.intake.requests} == {"acme"}
        assert passing.slept == pytest.approx(slept)
        starts_at = 1000.0
        expected = [starts_at, *(starts_at := starts_at + pause for pause in slept or [0.0, 0.0])]
        assert [end / SECOND_NS for end in ends(service)] == pytest.approx(expected)


async def test_times_can_be_kept(file: Path) -> None:
    content = await asyncio.to_thread(file.read_bytes)
    async with listening() as service:
        await send(service, file, Passing(), speed=0, keeps_times=True)
        first = ends(service)[0]
        assert ends(service) == [first, first + SECOND_NS, first + 3 * SECOND_NS]
        assert b"".join(len(body).to_bytes(4, "big") + body for body in service.intake.bodies) == content


def test_what_is_out_of_order_is_due_at_once_and_a_second_recording_begins_anew() -> None:
    passing = Passing()
    schedule = Schedule(1.0, passing.timing)
    for time_s in (1000, 1010, 1009, 1012, 500, 503, 0):
        schedule.wait_for(time_s * SECOND_NS)
    assert passing.slept == [10.0, 2.0, 3.0]


def test_lost_time_is_not_made_up_for() -> None:
    passing = Passing()
    schedule = Schedule(1.0, passing.timing)
    schedule.wait_for(1 * SECOND_NS)
    passing.now_s += 60
    schedule.wait_for(2 * SECOND_NS)
    schedule.wait_for(4 * SECOND_NS)
    assert passing.slept == [2.0]


async def test_what_is_pushed_back_is_sent_again(file: Path) -> None:
    async with listening() as service:

        def admit() -> None:
            if len(passing.slept) == 2:
                service.intake.outcome = Accepted()

        passing = Passing(admit)
        service.intake.outcome = Refused(RefusalReason.OVERLOADED, "wait", retry_after_s=7)
        sent = await send(service, file, passing, speed=0)
        assert (sent.requests, sent.pushed_back, passing.slept) == (3, 2, [7.0, 7.0])


async def test_who_is_pushed_back_for_too_long_gives_up(file: Path) -> None:
    passing = Passing()
    async with listening() as service:
        service.intake.outcome = Refused(RefusalReason.OVERLOADED, "the shards are behind", retry_after_s=20)
        with pytest.raises(CommandError, match=r"took 0 requests of 0 spans; then .* the shards are behind .*; lower"):
            await send(service, file, passing, speed=0)
    assert 300 < sum(passing.slept) < 400


async def run(service: Listening, *arguments: str) -> Result:
    command = ["replay", *arguments, "--url", f"http://127.0.0.1:{service.port}"]
    return await asyncio.to_thread(CliRunner(env={"COLUMNS": "200"}).invoke, app, command)


async def test_what_was_sent_is_said(file: Path) -> None:
    async with listening() as service:
        shown = await run(service, str(file), "--tenant", "acme", "--speed", "100")
        assert shown.exit_code == 0, shown.output
        assert shown.stdout.startswith("3 requests of 6 spans in ")
        assert abs(ends(service)[-1] - time.time_ns()) < 30 * SECOND_NS
        shown = await run(service, str(file), "--tenant", "acme", "--speed", "0", "--json")
        said = json.loads(shown.stdout)
        assert (said["requests"], said["spans"], said["is_whole"]) == (3, 6, True)


async def test_rejected_spans_are_counted(file: Path) -> None:
    async with listening() as service:
        service.intake.outcome = Accepted(rejected_spans=1, message="ids")
        shown = await run(service, str(file), "--tenant", "acme", "--speed", "0")
        assert "; 3 spans rejected" in shown.stdout


@pytest.mark.parametrize(
    ("reason", "mend"),
    [
        (RefusalReason.BLOCKED, "the tenant is blocked"),
        (RefusalReason.TOO_LARGE, "cluster.max_request_bytes"),
        (RefusalReason.UNAUTHENTICATED, "put a token with the scope ingest into MILLRACE_TOKEN"),
    ],
)
async def test_refusal_ends_it_and_says_how_to_mend_it(file: Path, reason: RefusalReason, mend: str) -> None:
    async with listening() as service:
        service.intake.outcome = Refused(reason, "because so")
        shown = await run(service, str(file), "--tenant", "acme")
        assert shown.exit_code == 2
        assert "took 0 requests of 0 spans; then it refused one" in shown.stderr
        assert "because so" in shown.stderr
        assert mend in shown.stderr


async def test_missing_tenant_is_said(file: Path) -> None:
    async with listening() as service:
        shown = await run(service, str(file))
        assert shown.exit_code == 2
        assert "name the tenant with --tenant" in shown.stderr or "scope ingest" in shown.stderr


def test_gateway_that_is_not_there_is_said(file: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    environ = {"MILLRACE_TOKEN": "s3cret"}
    shown = CliRunner(env=environ).invoke(app, ["replay", str(file), "--url", url])
    assert shown.exit_code == 2
    assert f"no gateway answers at {url}" in shown.stderr
    assert "listen.otlp_http" in shown.stderr
    assert "s3cret" not in shown.output


async def test_interruption_ends_it_early_and_says_what_was_sent(file: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    out = Console(file=io.StringIO(), force_terminal=True, width=200, highlight=False)
    async with listening() as service:
        reach = Reach(f"http://127.0.0.1:{service.port}")
        plan, timing = Plan(file, TenantId("acme"), 1.0, False), Passing(interrupt).timing
        await asyncio.to_thread(replay.replay, plan, reach, {}, out, as_json=False, timing=timing)
    assert "interrupted; 1 requests of 1 spans" in out.file.getvalue()  # type: ignore[attr-defined]
