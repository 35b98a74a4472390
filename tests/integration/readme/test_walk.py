"""A newcomer's walk through README.md: every file as it is printed there, every command as it is written there."""

import json
import random
import re
import signal
import time
from pathlib import Path
from typing import Final

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.integration.load import requests
from tests.integration.otlp_client import HttpClient
from tests.integration.readme.demo_output import shown_console
from tests.integration.readme.document import README, Command, File, links, steps
from tests.integration.readme.terminal import Running, Terminal, clone
from tests.integration.waiting import eventually
from tests.unit.conditions import is_open
from tests.unit.export_requests import export_request, otlp_json

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SERVICE: Final = "http://127.0.0.1:8080"
PROMETHEUS: Final = "http://127.0.0.1:9090"
PORTS: Final = (4317, 4318, 8080, 9090)
READY_S: Final = 90
HOUR_NS: Final = 3600 * 1_000_000_000


def test_every_link_leads_somewhere() -> None:
    assert [link for link in links() if not (README.parent / link).exists()] == []


async def test_every_command_works_as_it_is_written(tmp_path: Path) -> None:
    taken = [port for port in PORTS if is_open(port)]
    assert not taken, f"README.md uses the usual ports: end what listens on {taken}"
    clone(tmp_path)
    _record_spans(tmp_path / "spans.jsonl")
    async with Terminal.open(tmp_path) as terminal, httpx.AsyncClient(trust_env=False, timeout=20) as client:
        walk = Walk(terminal, client)
        for step in steps():
            if isinstance(step, File):
                (tmp_path / step.name).write_text(step.text)
            else:
                await walk.follow(step)
        await walk.end()


def _record_spans(file: Path) -> None:
    """Write what the Collector's file exporter would have."""
    bodies = requests(random.Random(7), time.time_ns() - HOUR_NS, traces=20, spans_per_request=50)
    lines = [json.dumps(otlp_json(ExportTraceServiceRequest.FromString(body))) for body in bodies]
    file.write_text("\n".join(lines))


class Walk:
    """Follows the commands; those that go on are ended when others need their ports, or at the end."""

    def __init__(self, terminal: Terminal, client: httpx.AsyncClient) -> None:
        self._terminal = terminal
        self._client = client
        self._service: Running | None = None
        self._followed: list[str] = []

    async def follow(self, command: Command) -> None:
        """Type a command, and look whether it did what it is for."""
        typed = command.text.partition("#")[0].strip()
        self._followed.append(typed)
        match typed:
            case "make test":  # which has begun this test
                return
            case "make run":
                await self._run_demo(command)
            case ".venv/bin/millrace serve":
                await self._serve_with_every_default(command)
            case ".venv/bin/millrace serve --config service.yaml":
                self._service = await self._start(command, f"{SERVICE}/ready")
            case _ if typed.startswith("prometheus "):
                await self._start(command, f"{PROMETHEUS}/-/ready")
            case ".venv/bin/millrace top":
                code, output = await self._terminal.type(f"timeout --preserve-status --signal=INT 6 {command.text}")
                assert code == 0, output
                assert "acme" in output
            case _:
                if "api/v1/query" in typed:
                    await self._until_collected()
                code, output = await self._terminal.type(command.text)
                assert code == 0, f"{command.text}\n{output}"
                self._look_at(typed, output)

    async def end(self) -> None:
        """End the service as the reader would; it has sent everything."""
        assert self._service is not None
        assert await self._service.end() == 0, self._service.output
        assert len(self._followed) > 25

    async def _run_demo(self, command: Command) -> None:
        demo = await self._terminal.start(command.text)
        await eventually(lambda: shown_console(demo.output), READY_S, lambda: demo.output)
        await eventually(lambda: "checkout" in demo.output, READY_S, lambda: demo.output)
        shown = shown_console(demo.output)
        assert shown is not None
        address, token = shown
        answer = await self._client.post(
            f"{address}/console/sign-in", data={"token": token}, headers={"origin": address}
        )
        assert answer.status_code == 303, answer.text
        # make itself ends by the signal, when the demo has ended well.
        assert await demo.end() == -signal.SIGINT, demo.output
        counts = re.findall(r"(\d[\d\s]*) spans acknowledged, (\d[\d\s]*) counted", demo.output)
        assert len(counts) == 2, demo.output
        assert all(acknowledged == counted for acknowledged, counted in counts), demo.output

    async def _serve_with_every_default(self, command: Command) -> None:
        serving = await self._start(command, f"{SERVICE}/ready")
        assert is_open(4317)
        async with HttpClient(4318) as client:
            assert (await client.export(export_request().SerializeToString(), None)).is_accepted
        assert (self._terminal.folder / "millrace-data").is_dir()
        assert await serving.end() == 0, serving.output

    async def _start(self, command: Command, ready_url: str) -> Running:
        started = await self._terminal.start(command.text)

        async def is_ready() -> bool:
            try:
                return (await self._client.get(ready_url)).is_success
            except httpx.TransportError:
                return False

        await eventually(is_ready, READY_S, lambda: started.output)
        return started

    async def _until_collected(self) -> None:
        async def is_there() -> bool:
            query = {"query": 'traces_spanmetrics_calls_total{service="checkout"} > 0'}
            answer = await self._client.get(f"{PROMETHEUS}/api/v1/query", params=query)
            return bool(answer.json()["data"]["result"])

        await eventually(is_there, READY_S, lambda: self._service.output if self._service else "nothing runs")

    def _look_at(self, typed: str, output: str) -> None:
        for words, expected in {
            "v1/query": '"service":"checkout"',
            "config effective": "http.route",
            "/api/ledger": '"received"',
            "tenants list": "acme",
            "tenants show acme": "acme",
            "tenants enable initech": "initech generates",
            "tenants endpoints acme": "acme",
            "replay": " spans in ",
        }.items():
            if words in typed:
                assert expected in output, f"{typed}\n{output}"
