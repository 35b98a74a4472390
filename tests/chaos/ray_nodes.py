"""A Ray cluster of several nodes on one machine: each has an address and processes of its own, as a pod has.

A node is a network namespace on one bridge and, except for the head, a process namespace, so that one signal to its
first process loses all of it at once. Only for tests with a network of their own (:mod:`tests.chaos.private_network`):
the bridge is made in there.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import psutil

from tests.integration.service import MillraceProcess
from tests.integration.waiting import eventually

GATEWAY: Final = "gateway_slot"
SHARD: Final = "shard_slot"
COLLECTOR: Final = "collector_slot"
CONTROLLER: Final = "controller_slot"

HERE: Final = "10.77.0.1"
"""The address of the test itself, as nodes reach it."""

NEIGHBOURS: Final = "10.77.0.0/24"
_HEAD: Final = "10.77.0.2"
_FIRST_NODE: Final = 11
_GCS_PORT: Final = 6379
_GRPC_PORT: Final = 4317
_HTTP_PORT: Final = 4318
_OBJECT_STORE_BYTES: Final = 80 << 20
_START_TIMEOUT_S: Final = 120
_END_TIMEOUT_S: Final = 90

_BEGIN: Final = """
read -r go
ip link set lo up
ip address add "$1/24" dev eth0
ip link set eth0 up
shift
exec "$@"
"""
"""What a node does first: wait until it is plugged in, take its address, and become Ray."""


class RayNode:
    """One node of the cluster.

    Attributes:
        name: for people.
        address: its own.
    """

    def __init__(self, name: str, address: str, log: Path, environment: Mapping[str, str], *, is_head: bool) -> None:
        """Prepare; nothing runs yet."""
        self.name = name
        self.address = address
        self._log = log
        self._environment = environment
        self._is_head = is_head
        self._process: subprocess.Popen[bytes] | None = None
        self._first: psutil.Process | None = None

    @property
    def pid(self) -> int:
        """Of its first process."""
        assert self._first is not None, "not started"
        return self._first.pid

    @property
    def log(self) -> str:
        """What all its processes wrote."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it is left."""
        return self._process is not None and self._process.poll() is not None

    async def start(self, slots: Sequence[str]) -> None:
        """Start Ray with these slots; return when its processes begin, not when the cluster knows it."""
        self._process = self._launch(slots)
        self._first = await self._find_first(self._process)
        # Not before it is in its own network: the cable would be plugged in here.
        await eventually(
            lambda: _network_of(self.pid) != _network_of(os.getpid()), 60, lambda: "it has no network of its own"
        )
        port = f"to-{self.name}"
        _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        _ip("link", "set", port, "master", "bridge", "up")
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.close()

    def _launch(self, slots: Sequence[str]) -> subprocess.Popen[bytes]:
        # The head without a process namespace: a driver has to see the raylet that it talks to.
        own = () if self._is_head else ("--pid", "--fork", "--kill-child", "--mount-proc")
        head = ("--head", f"--port={_GCS_PORT}", "--include-dashboard=false")
        place = head if self._is_head else (f"--address={_HEAD}:{_GCS_PORT}",)
        resources = "{" + ", ".join(f'"{slot}": 1' for slot in slots) + "}"
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [
                    *("unshare", "--net", *own),
                    *("sh", "-c", _BEGIN, "sh", self.address),
                    *(Path(sys.executable).with_name("ray"), "start", "--block", *place),
                    f"--node-ip-address={self.address}",
                    "--num-cpus=1",
                    f"--resources={resources}",
                    f"--object-store-memory={_OBJECT_STORE_BYTES}",
                    # Its own: Ray would share one between all nodes of a machine.
                    f"--temp-dir={self._log.with_suffix('')}",
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )

    async def _find_first(self, process: subprocess.Popen[bytes]) -> psutil.Process:
        started = psutil.Process(process.pid)
        if self._is_head:
            return started
        await eventually(started.children, 60, lambda: f"{self.name} does not start: {self.log}")
        return started.children()[0]

    def processes(self) -> list[psutil.Process]:
        """All its processes that are alive."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.pid)
            return [first, *first.children(recursive=True)]
        return []

    def has(self, actor: str) -> bool:
        """Whether an actor of this class lives here; Ray gives its process the name as title."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).partition(".")[0].strip() == f"ray::{actor}":
                    return True
        return False

    async def lose(self) -> None:
        """Kill all its processes at one blow, as a power cut would."""
        os.kill(self.pid, signal.SIGKILL)
        await self.until_ended()

    async def terminate(self) -> None:
        """Ask it to end, as the kubelet does."""
        os.kill(self.pid, signal.SIGTERM)

    async def until_ended(self) -> None:
        """Wait until nothing is left of it."""
        await eventually(
            lambda: self.has_ended, _END_TIMEOUT_S, lambda: f"{self.name} does not end: {self.log[-4000:]}"
        )

    async def stop(self) -> None:
        """Kill what is left. Can be repeated."""
        if self._process is None or self.has_ended:
            return
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await asyncio.to_thread(self._process.wait)

    async def accepts(self) -> bool:
        """Whether its OTLP ports take connections."""
        for port in (_GRPC_PORT, _HTTP_PORT):
            try:
                async with asyncio.timeout(1):
                    _, writer = await asyncio.open_connection(self.address, port)
            except (OSError, TimeoutError):
                return False
            writer.close()
        return True


class ServiceOnNodes(MillraceProcess):
    """``millrace serve`` on a cluster: its process and the controller on the head, everything else on other nodes.

    Attributes:
        nodes: those that were started, by name, the head too.
        entrances: the nodes that clients send to, as a load balancer would choose them.
        operator: a token.
    """

    def __init__(
        self, config: Mapping[str, Any], nodes: Mapping[str, Sequence[str]], **tenants: Mapping[str, Any]
    ) -> None:
        """Prepare; ``nodes`` are slots by name of the node."""
        super().__init__(config, **tenants)
        # What a pod listens on; the port of the service is the one that was found free.
        self._config["listen"] = {
            "otlp_grpc": f"0.0.0.0:{_GRPC_PORT}",
            "otlp_http": f"0.0.0.0:{_HTTP_PORT}",
            "http": f"0.0.0.0:{self.http_port}",
        }
        self._client.base_url = httpx.URL(f"http://{_HEAD}:{self.http_port}")
        self.nodes: dict[str, RayNode] = {}
        self.entrances: set[str] = set()
        self.operator = ""
        self._slots = nodes
        self._environment = dict(super().environment) | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_LOG_TO_STDERR": "1",
            "RAY_BACKEND_LOG_LEVEL": "warning",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "50",
        }

    async def __aenter__(self) -> Self:
        try:
            await self._start_head()
            async with asyncio.TaskGroup() as group:
                for name, slots in self._slots.items():
                    group.create_task(self.add(name, slots))
            await super().__aenter__()
        except BaseException:
            await self._stop_nodes()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            await self._stop_nodes()

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        await eventually(self._is_up, _START_TIMEOUT_S, lambda: f"the service is not ready:\n{self.logs}")
        self._gateway_ports = {"otlp_grpc": _GRPC_PORT, "otlp_http": _HTTP_PORT}
        self.entrances = {name for name, slots in self._slots.items() if GATEWAY in slots}
        self.operator = await self.operator_token()

    async def _is_up(self) -> bool:
        ended = [name for name, node in self.nodes.items() if node.has_ended]
        assert not ended, f"{', '.join(ended)} ended:\n{self.logs}"
        return await self._is_ready()

    @property
    def serve_arguments(self) -> Sequence[str]:
        """Started on the cluster."""
        return ("--ray-address", f"{_HEAD}:{_GCS_PORT}")

    @property
    def before_command(self) -> Sequence[str]:
        """It runs in the network of the head, where its raylet is."""
        return ("nsenter", f"--net=/proc/{self.nodes['head'].pid}/ns/net")

    @property
    def environment(self) -> Mapping[str, str]:
        """Of all its processes."""
        return self._environment

    @property
    def otlp_hosts(self) -> Sequence[str]:
        """The addresses of the entrances."""
        return [self.nodes[name].address for name in sorted(self.entrances)]

    @property
    def logs(self) -> str:
        """The ends of all logs."""
        logs = {"serve": self.log} | {name: node.log for name, node in self.nodes.items()}
        return "\n".join(f"--- {name}\n{text[-3000:]}" for name, text in logs.items())

    def where(self, actor: str) -> list[str]:
        """The names of the nodes where actors of a class live."""
        return [name for name, node in self.nodes.items() if node.has(actor)]

    async def add(self, name: str, slots: Sequence[str]) -> RayNode:
        """Start one more node and wait until the cluster knows it."""
        number = _FIRST_NODE + len(self.nodes)
        node = self.nodes[name] = self._new_node(name, f"10.77.0.{number}")
        await node.start(slots)
        return node

    async def drain(self, name: str, within_s: int) -> None:
        """Tell the cluster that a node will be gone after so many seconds, as an autoscaler does."""
        (node_id,) = [node["id"] for node in await self.node_rows() if node["address"] == self.nodes[name].address]
        ray = Path(sys.executable).with_name("ray")
        drained = await asyncio.to_thread(
            subprocess.run,
            [
                *(ray, "drain-node", f"--address={_HEAD}:{_GCS_PORT}", f"--node-id={node_id}"),
                *("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=there are too many nodes"),
                f"--deadline-remaining-seconds={within_s}",
            ],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert drained.returncode == 0, drained.stdout + drained.stderr

    async def node_rows(self) -> list[dict[str, Any]]:
        """What the service says of the nodes."""
        answer = await self.ask("GET", "/api/admin/actors", token=self.operator)
        rows: list[dict[str, Any]] = answer.raise_for_status().json()["nodes"]
        return rows

    async def _start_head(self) -> None:
        head = self.nodes["head"] = self._new_node("head", _HEAD, is_head=True)
        await head.start([CONTROLLER])

        async def is_up() -> bool:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(_HEAD, _GCS_PORT)
                writer.close()
                return True
            return False

        await eventually(is_up, _START_TIMEOUT_S, lambda: f"the head does not start:\n{head.log}")

    def _new_node(self, name: str, address: str, *, is_head: bool = False) -> RayNode:
        return RayNode(name, address, self.folder / f"{name}.log", self._environment, is_head=is_head)

    async def _stop_nodes(self) -> None:
        for node in self.nodes.values():
            await node.stop()


def make_bridge() -> None:
    """Make what nodes are plugged in to; afterwards :data:`HERE` is an address of this process."""
    _ip("link", "set", "lo", "up")
    _ip("link", "add", "bridge", "type", "bridge")
    _ip("address", "add", f"{HERE}/24", "dev", "bridge")
    _ip("link", "set", "bridge", "up")


def _network_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, stdin=subprocess.DEVNULL)
