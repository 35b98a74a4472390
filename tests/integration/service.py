"""The service as its operator runs it: ``millrace serve`` as a child process, with a folder and ports of its own.

Sees nothing but what an operator sees: exit code, log, HTTP port, processes. Every process of a service shares one
session, which tells them apart from those of other services on the machine.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.waiting import eventually
from tests.lasting_ports import lasting_port

READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 45.0
_SETTINGS_TIMEOUT_S = 60.0
# A connection that is kept may be closed by the server just when it is used again.
_UNKEPT = httpx.Limits(max_keepalive_connections=0)

Labels = frozenset[tuple[str, str]]

# Fast where the defaults would make tests wait. Halves of an edge stay apart for less than `wait`, even on a busy
# machine; edges that must expire make a test wait so long.
_QUICK: Mapping[str, Any] = {
    "multitenancy_enabled": True,
    "overrides": {"per_tenant_override_period": "100ms"},
    "metrics_generator": {
        "registry": {"collection_interval": "1s", "inject_tenant_id_as": "tenant"},
        "processor": {"service_graphs": {"wait": "4s"}},
    },
    "remote_write_targets": {"allowed_private": ["127.0.0.0/8"]},
    "cluster": {"shard_hosts": 2, "flush_interval": "200ms"},
    "log": {"format": "json"},
}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``over``, mapping by mapping."""
    both = {key: merged(base[key], over[key]) for key in over if isinstance(base.get(key), dict)}
    return {**base, **over, **both}


class MillraceProcess:
    """One ``millrace serve`` and everything that it starts. An asynchronous context manager; or call the methods.

    Attributes:
        ready_answers: statuses of ``/ready`` from the first answer to the first 200, without repeats.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, **tenants: Mapping[str, Any]) -> None:
        """Prepare; nothing runs yet.

        Args:
            config: over settings that make tests quick; addresses that are not given are free ones.
            tenants: their ``metrics_generator`` in the runtime file.
        """
        # Short: sockets below it have paths of at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="mr-"))
        self.config_file = self.folder / "millrace.yaml"
        self.runtime_file = self.folder / "runtime.yaml"
        self.http_port = lasting_port()
        self.ready_answers: list[int] = []
        self._entries = _entries(tenants)
        self._write_runtime_file(self._entries_text())
        own = {
            "data_dir": str(self.folder / "data"),
            "listen": {
                "otlp_grpc": "127.0.0.1:0",
                "otlp_http": "127.0.0.1:0",
                "http": f"127.0.0.1:{self.http_port}",
            },
            "overrides": {"per_tenant_override_config": str(self.runtime_file)},
        }
        self._config = merged(merged(_QUICK, own), config or {})
        self._child: subprocess.Popen[bytes] | None = None
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.http_port}", trust_env=False, timeout=20, limits=_UNKEPT
        )
        self._gateway_ports = {"otlp_grpc": 0, "otlp_http": 0}

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def grpc_port(self) -> int:
        """Where it takes OTLP/gRPC."""
        return self._gateway_ports["otlp_grpc"]

    @property
    def otlp_http_port(self) -> int:
        """Where it takes OTLP/HTTP."""
        return self._gateway_ports["otlp_http"]

    @property
    def otlp_hosts(self) -> Sequence[str]:
        """The addresses at which it takes both."""
        return ("127.0.0.1",)

    @property
    def is_running(self) -> bool:
        """Whether its main process has not ended."""
        return self._running().poll() is None

    @property
    def log(self) -> str:
        """Everything that it wrote to standard output and error."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        await eventually(self._is_ready, READY_TIMEOUT_S, lambda: f"the service is not ready:\n{self.log}")
        (ports,) = (await self.status())["gateways"].values()
        self._gateway_ports = ports

    def launch(self) -> None:
        """Start it and wait for nothing."""
        self.config_file.write_text(json.dumps(self._config))
        self.run("serve", "--config", str(self.config_file), *self.serve_arguments)

    @property
    def serve_arguments(self) -> Sequence[str]:
        """How it is started, beside the configuration."""
        return ()

    @property
    def environment(self) -> Mapping[str, str]:
        """Of all its processes."""
        return os.environ | {"RAY_TMPDIR": str(self.folder), "COLUMNS": "400"}

    @property
    def before_command(self) -> Sequence[str]:
        """What stands before the command line of its process."""
        return ()

    def run(self, *arguments: str, folder: Path | None = None) -> None:
        """Run the command line with these arguments, as any user would, from ``folder`` or from here."""
        with (self.folder / "log").open("ab") as log:
            self._child = subprocess.Popen(
                [*self.before_command, Path(sys.executable).with_name("millrace"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=folder,
                start_new_session=True,
            )

    def terminate(self) -> None:
        """Ask it to drain and end, and wait for nothing."""
        self._running().send_signal(signal.SIGTERM)

    async def exit_code(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait until it has ended by itself."""
        try:
            return await asyncio.to_thread(self._running().wait, timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the service did not end within {timeout_s} s:\n{self.log}") from None

    async def stop(self) -> None:
        """Drain and end it; kill what is left after a while, and remove its folder. Can be repeated."""
        if self._child is not None:
            if self._child.poll() is None:
                self.terminate()
                with contextlib.suppress(AssertionError):
                    await self.exit_code()
            for process in self.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            await asyncio.to_thread(self._child.wait)
        await self._client.aclose()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        """All its processes that are alive, those without a parent too."""
        session, alive = self._running().pid, []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        return alive

    def actors(self, class_name: str) -> list[psutil.Process]:
        """The processes of one class of actors; Ray gives them its name as title."""
        title = f"ray::{class_name}"
        return [process for process in self.processes() if _title(process).partition(".")[0].strip() == title]

    async def get(self, path: str) -> httpx.Response:
        """Ask its HTTP port."""
        return await self._client.get(path)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        tenant: str | None = None,
        token: str | None = None,
        body: object = None,
        content: bytes | None = None,
        **headers: str,
    ) -> httpx.Response:
        """Send its HTTP port one request; header names with underscores for dashes."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {} if tenant is None else {"X-Scope-OrgID": tenant}
        sent |= {} if token is None else {"Authorization": f"Bearer {token}"}
        if content is not None:
            return await self._client.request(method, path, headers=sent, content=content)
        return await self._client.request(method, path, headers=sent, json=body)

    async def command(self, *arguments: str) -> str:
        """Run a command on its configuration beside it; return what it writes."""
        millrace = Path(sys.executable).with_name("millrace")
        ended = await asyncio.to_thread(
            subprocess.run,
            [millrace, *arguments, "--config", str(self.config_file)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    async def operator_token(self) -> str:
        """Make an operator's token at the store, and wait until the service takes it."""
        token = (await self.command("tokens", "create", "--scope", "operator")).strip()

        async def is_taken() -> bool:
            return (await self.ask("GET", "/api/admin/audit", token=token)).status_code == 200

        await eventually(is_taken, _SETTINGS_TIMEOUT_S, lambda: f"the token is not in force:\n{self.log}")
        return token

    async def status(self) -> dict[str, Any]:
        """What ``/status`` says."""
        document: dict[str, Any] = (await self.get("/status")).raise_for_status().json()
        return document

    async def metrics(self) -> dict[str, dict[Labels, float]]:
        """The samples of ``/metrics``, by name."""
        text = (await self.get("/metrics")).raise_for_status().text
        samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return samples

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all series with these labels; 0 if there is none."""
        series = (await self.metrics()).get(name, {})
        return sum(value for key, value in series.items() if labels.items() <= dict(key).items())

    async def put_tenants(self, **tenants: Mapping[str, Any]) -> None:
        """Add or change tenants' ``metrics_generator`` in the runtime file; wait until every actor knows."""
        await self.put_entries(**_entries(tenants))

    async def put_entries(self, **entries: Mapping[str, Any]) -> None:
        """Add or change whole entries of the runtime file, ``*`` too; wait until every actor knows."""
        self._entries |= entries
        await self.put_runtime_text(self._entries_text())

    def write_entry(self, tenant: str, generator: Mapping[str, Any], **more: Mapping[str, Any]) -> None:
        """Add or change a tenant's ``metrics_generator``, and ``more``, in the runtime file; wait for nothing."""
        self._entries |= {tenant: {"metrics_generator": generator, **more}}
        self._write_runtime_file(self._entries_text())

    async def put_runtime_text(self, text: str) -> None:
        """Replace the runtime file as a whole; wait until every actor knows."""
        self._write_runtime_file(text)
        sha256 = hashlib.sha256(text.encode()).hexdigest()

        async def is_read() -> bool:
            overrides = (await self.status())["overrides"]
            return bool(overrides["last_reload_successful"] and overrides["sha256"] == sha256)

        await eventually(is_read, _SETTINGS_TIMEOUT_S, lambda: f"the runtime file is not read:\n{self.log}")
        await self.until_in_force()

    async def until_in_force(self) -> None:
        """Wait until every actor has the settings that the service has by now."""

        async def is_in_force() -> bool:
            version = (await self.status())["overrides"]["version"]
            versions = (await self.metrics())["millrace_settings_version"]
            return set(versions.values()) == {float(version)}

        await eventually(is_in_force, _SETTINGS_TIMEOUT_S, lambda: f"the settings are not in force:\n{self.log}")

    async def break_runtime_file(self, text: str) -> dict[str, Any]:
        """Replace a good runtime file by a bad one; return the line that says so. :meth:`put_tenants` repairs it."""
        event = "runtime file refused, the last good one stays"
        seen = len(self._lines(event))
        self._write_runtime_file(text)
        await eventually(lambda: len(self._lines(event)) > seen, 60, lambda: f"nobody minds:\n{self.log}")
        return self._lines(event)[-1]

    async def logged(self, event: str, **fields: str) -> dict[str, Any]:
        """Wait for a line of the log with these fields, and return the newest such."""

        await eventually(lambda: self._lines(event, **fields), 60, lambda: f"no line {event!r}:\n{self.log}")
        return self._lines(event, **fields)[-1]

    def _lines(self, event: str, **fields: str) -> list[dict[str, Any]]:
        return [line for line in self.events if line["event"] == event and fields.items() <= line.items()]

    async def _is_ready(self) -> bool:
        assert self._running().poll() is None, f"the service ended:\n{self.log}"
        try:
            status = (await self.get("/ready")).status_code
        except httpx.TransportError:
            return False
        if self.ready_answers[-1:] != [status]:
            self.ready_answers.append(status)
        return status == 200

    def _entries_text(self) -> str:
        return json.dumps({"overrides": self._entries})

    def _write_runtime_file(self, text: str) -> None:
        # By renaming, so that half a file is never read.
        draft = self.runtime_file.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.runtime_file)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._child is not None, "not started"
        return self._child


def _entries(tenants: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {tenant: {"metrics_generator": entry} for tenant, entry in tenants.items()}


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""
