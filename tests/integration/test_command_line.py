"""Every command against a running service, as an operator types them, one after the other."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.integration.load import requests
from tests.integration.service import MillraceProcess
from tests.integration.waiting import eventually
from tests.lasting_ports import lasting_port
from tests.prometheus import Prometheus

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

HOUR_NS: Final = 3600 * 1_000_000_000
TRACES: Final = 60


class CommandLine:
    """What an operator types, with the service's configuration and a token."""

    def __init__(self, service: MillraceProcess, token: str) -> None:
        self.service = service
        self._environ = os.environ | {"MILLRACE_TOKEN": token, "COLUMNS": "250"}

    async def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command; return what it writes."""
        millrace = Path(sys.executable).with_name("millrace")
        command = [str(millrace), *arguments, "--config", str(self.service.config_file)]
        ended = await asyncio.to_thread(
            subprocess.run,
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=self._environ,
        )
        assert ended.returncode == code, f"{arguments}: {ended.stdout}\n{ended.stderr}\n{self.service.log}"
        return ended.stdout

    async def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command that answers in JSON."""
        return json.loads(await self.run(*arguments, "--json", code=code))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Callable[[], Awaitable[list[dict[str, Any]]]]]:
        """Watch tenants; the value waits for the next look. Ends with Ctrl-C, and well."""
        millrace = Path(sys.executable).with_name("millrace")
        command = [str(millrace), "top", "--json", "--interval", "1", "--config", str(self.service.config_file)]
        # Who runs the tests in the background has Ctrl-C ignored, and so would their children.
        watcher = await asyncio.create_subprocess_exec(
            *command,
            stdout=subprocess.PIPE,
            env=self._environ,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        lines = watcher.stdout
        assert lines is not None

        async def next_rows() -> list[dict[str, Any]]:
            async with asyncio.timeout(30):
                rows: list[dict[str, Any]] = json.loads(await lines.readline())
            return rows

        try:
            yield next_rows
            watcher.send_signal(signal.SIGINT)
            async with asyncio.timeout(30):
                await lines.read()
                assert await watcher.wait() == 0
        finally:
            if watcher.returncode is None:
                watcher.kill()
                await watcher.wait()


@pytest_asyncio.fixture(loop_scope="session")
async def typed(prometheus: Prometheus) -> AsyncIterator[CommandLine]:
    """A service of its own: others must not be blocked or rescaled."""
    grpc, http = lasting_port(), lasting_port()
    config = {
        "listen": {"otlp_grpc": f"127.0.0.1:{grpc}", "otlp_http": f"127.0.0.1:{http}"},
        "remote_write": [{"url": prometheus.url, "name": "main"}],
        "overrides": {"user_configurable_overrides": {"enabled": True}},
    }
    async with MillraceProcess(config) as running:
        yield CommandLine(running, await running.operator_token())


async def test_an_operators_day(typed: CommandLine, prometheus: Prometheus, tmp_path: Path) -> None:
    recording = tmp_path / "spans.pb"
    # Recorded an hour ago: the service would not take them as they are.
    bodies = requests(random.Random(7), time.time_ns() - HOUR_NS, traces=TRACES, spans_per_request=50)
    await asyncio.to_thread(recording.write_bytes, b"".join(len(body).to_bytes(4, "big") + body for body in bodies))

    checked = {found["check"]: found["verdict"] for found in await typed.json("doctor")}
    wanted = ("settings", "listen.http", "listen.otlp_grpc", "listen.otlp_http", "store", "journal", "clock")
    assert {check: checked[check] for check in wanted} == dict.fromkeys(wanted, "ok")
    assert checked["endpoint main of doctor"] == "ok"
    assert (await typed.json("config", "check", str(typed.service.runtime_file)))["kind"] == "runtime file"

    status = await typed.json("status")
    assert (status["is_ready"], status["problems"]) == (True, [])
    assert {"service", "gateway-0", "collector-0", "shard-host-0", "shard-host-1"} <= status["actors"].keys()
    assert "no problems" in await typed.run("status")

    assert await typed.run("tenants", "enable", "acme") == "acme generates span-metrics, service-graphs\n"
    async with typed.watching() as next_rows:
        # What was there before it began to look is not of this moment.
        await next_rows()
        sent = await typed.json("replay", str(recording), "--tenant", "acme", "--speed", "0")
        while not any(row["tenant"] == "acme" and row["spans_per_second"] > 0 for row in await next_rows()):
            pass
    assert (sent["requests"], sent["is_whole"]) == (len(bodies), True)
    accepted = sent["spans"] - sent["rejected_spans"]

    ledger: dict[str, Any] = {}

    async def is_generated() -> bool:
        shown = await typed.json("tenants", "show", "acme")
        ledger.update(shown["ledger"])
        discarded = sum(ledger["discarded"].values())
        return bool(ledger["processors"].get("span_metrics", {}).get("generated", 0) + discarded == sent["spans"])

    await eventually(is_generated, 30, lambda: f"not all of {sent['spans']} spans are accounted for: {ledger}")
    # A few have no ids, or are late, in the recording too.
    assert sum(ledger["discarded"].values()) < 5
    (listed,) = await typed.json("tenants", "list", "--search", "acme")
    assert (listed["state"], listed["accepted"]["spans_received"]) == ("active", accepted)
    assert listed["active_series"] > 0

    async def is_sent() -> bool:
        known = await typed.json("tenants", "endpoints", "acme")
        return bool(known["acme"][0]["samples_sent"])

    await eventually(is_sent, 30, lambda: f"nothing is sent:\n{typed.service.log}")
    assert "main" in await typed.run("tenants", "endpoints")

    for command, state in (("dry-run", "dry_run"), ("pause", "paused"), ("block", "blocked"), ("activate", "active")):
        changed = await typed.json("tenants", command, "acme", "--note", "by test")
        assert (changed["state"], changed["is_done"]) == (state, True)
        if state == "blocked":
            await typed.run("replay", str(recording), "--tenant", "acme", "--speed", "0", code=2)
    effective = await typed.json("config", "effective", "acme")
    assert effective["metrics_generator.processors"]["source"] == "api"

    assert (await typed.json("rescale", "--hosts", "1"))["running"] == ["shard-host-0"]
    assert (await typed.json("rescale", "acme", "--shards", "2"))["is_done"] is True

    made = await typed.json("tokens", "create", "--scope", "ingest", "--tenant", "acme")
    assert made["token"]
    tokens = await typed.json("tokens", "list", "--tenant", "acme")
    assert [token["scopes"] for token in tokens] == [["ingest"]]
    assert (await typed.json("tokens", "revoke", tokens[0]["id"]))["revoked"] is True
