"""How many spans does the whole service take in a CPU-second of all its processes, from OTLP/gRPC to remote write?

Starts ``millrace serve`` as a user would, sends requests of 1 000 spans over gRPC from this process for a fixed time,
waits until this process's receiver has been sent what was acknowledged, and divides the spans by the CPU time that all
Millrace and Ray processes took since the service was ready. The result counts only if the received counters equal the
spans and edges that were acknowledged.
"""

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from bench.report import print_result
from bench.shapes import SHAPES, SPANS_PER_REQUEST, Shape
from cluster.demo.memory import uncompress
from cluster.demo.ports import free_ports
from cluster.demo.write_request import read_write_request

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
REQUESTS = 40
IN_FLIGHT = 32
START_TIMEOUT_S = 60
ARRIVAL_TIMEOUT_S = 60
UNLIMITED = 2**62
AGAIN_S = 0.1


class Receiver:
    """Accepts remote writes and keeps them as they are; they are read when the load is over."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/api/v1/write"

    def totals(self) -> dict[str, float]:
        """Return the sum of the newest samples of all series by metric name, and how many series there are."""
        newest: dict[bytes, float] = {}
        for body in self.bodies:
            for series in read_write_request(uncompress(body)):
                newest[series.identity] = series.samples[-1].value
        totals: dict[str, float] = {"series": len(newest)}
        for identity, value in newest.items():
            for name in (b"traces_spanmetrics_calls_total", b"traces_service_graph_request_total"):
                if name in identity:
                    totals[name.decode()] = totals.get(name.decode(), 0.0) + value
        return totals


class Service:
    """`millrace serve` as a child, and the CPU time of all processes below it."""

    def __init__(self, directory: Path, shape: Shape, receiver: Receiver, shards: int) -> None:
        self.grpc_port, http_port, self.face_port = free_ports([0, 0, 0])
        config = {
            "data_dir": str(directory / "data"),
            "listen": {
                "otlp_grpc": f"127.0.0.1:{self.grpc_port}",
                "otlp_http": f"127.0.0.1:{http_port}",
                "http": f"127.0.0.1:{self.face_port}",
            },
            "metrics_generator": {"processor": {"service_graphs": {"max_items": 1_000_000}}},
            "overrides": {
                "defaults": {
                    # No limit: one tenant sends what the machine can take.
                    "ingestion": {"rate_limit_bytes": UNLIMITED, "burst_size_bytes": UNLIMITED},
                    "metrics_generator": {
                        "processors": ["span-metrics", "service-graphs"],
                        "shards": shards,
                        "ingestion_time_range_slack": "12h",
                        "processor": {"span_metrics": {"dimensions": list(shape.dimensions)}},
                    },
                }
            },
            "remote_write": [{"url": receiver.url}],
        }
        path = directory / "millrace.yaml"
        path.write_text(json.dumps(config))
        self._log = (directory / "millrace.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", "serve", "--config", str(path)], stderr=self._log
        )
        self._wait_until_ready(directory)

    def _wait_until_ready(self, directory: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.face_port}/ready", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"the service did not start:\n{(directory / 'millrace.log').read_text()}")

    def cpu_s(self) -> dict[str, float]:
        """Return user and system seconds of every process of the service, by what it is."""
        spent: dict[str, float] = {}
        root = psutil.Process(self._process.pid)
        for process in (root, *root.children(recursive=True)):
            try:
                times, words = process.cpu_times(), process.cmdline() or [process.name()]
            except psutil.NoSuchProcess:
                continue
            name = words[0].split("/")[-1] if process is not root else "driver"
            spent[name] = spent.get(name, 0.0) + times.user + times.system
        return spent

    def stop(self) -> int:
        """Stop the service as an operator would; return its exit code."""
        self._process.terminate()
        code = self._process.wait(60)
        self._log.close()
        return code


async def send(port: int, requests: list[bytes], seconds: float) -> tuple[int, int]:
    """Send requests for so many seconds; return how many were acknowledged, and how often one was refused for now.

    Who is refused for now sends again a little later, as exporters do.
    """
    acknowledged = refused = 0
    numbers = itertools.count()
    options = [("grpc.max_send_message_length", 64 << 20)]
    ends_at = time.monotonic() + seconds
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        export: Any = channel.unary_unary(EXPORT)

        async def worker(index: int) -> None:
            nonlocal acknowledged, refused
            while time.monotonic() < ends_at:
                for request in requests[index::IN_FLIGHT]:
                    # What is sent twice is counted once: an empty resource makes it another request.
                    apart = ResourceSpans(schema_url=f"{next(numbers):08x}")
                    body = request + ExportTraceServiceRequest(resource_spans=[apart]).SerializeToString()
                    try:
                        await export(body, timeout=30)
                    except grpc.aio.AioRpcError as error:
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        refused += 1
                        await asyncio.sleep(AGAIN_S)
                    else:
                        acknowledged += 1

        await asyncio.gather(*(worker(index) for index in range(IN_FLIGHT)))
    return acknowledged, refused


def run(shape: Shape, seconds: float, shards: int) -> None:
    """Measure one shape."""
    receiver = Receiver()
    requests = shape.requests(REQUESTS, time.time_ns())
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as directory:
        service = Service(Path(directory), shape, receiver, shards)
        try:
            before = service.cpu_s()
            started = time.monotonic()
            acknowledged, refused = asyncio.run(send(service.grpc_port, requests, seconds))
            wall_s = time.monotonic() - started
            totals = _wait_for(receiver, acknowledged * SPANS_PER_REQUEST)
            spent = {name: cpu - before.get(name, 0.0) for name, cpu in service.cpu_s().items()}
        finally:
            code = service.stop()
    spans, edges = acknowledged * SPANS_PER_REQUEST, acknowledged * shape.edges_per_request
    if (code, totals.get("traces_spanmetrics_calls_total"), totals.get("traces_service_graph_request_total")) != (
        0,
        spans,
        edges,
    ):
        raise SystemExit(f"{shape.name}: exit code {code}, {spans} spans and {edges} edges became {totals}")
    print_result(
        f"end_to_end_{shape.name}",
        spans / sum(spent.values()),
        "spans per CPU-second of all processes",
        bytes_per_span=round(sum(map(len, requests)) / REQUESTS / SPANS_PER_REQUEST),
        shards=shards,
        spans=spans,
        edges=edges,
        series=totals["series"],
        refused_for_now=refused,
        spans_per_second=round(spans / wall_s),
        **{f"cpu_s_{name}": round(cpu, 2) for name, cpu in sorted(spent.items()) if cpu >= 0.05},
    )


def _wait_for(receiver: Receiver, spans: int) -> dict[str, float]:
    deadline = time.monotonic() + ARRIVAL_TIMEOUT_S
    totals: dict[str, float] = {}
    seen = 0
    while time.monotonic() < deadline:
        if len(receiver.bodies) != seen:
            seen = len(receiver.bodies)
            time.sleep(0.5)
            continue
        totals = receiver.totals() if seen else {}
        if totals.get("traces_spanmetrics_calls_total") == spans:
            break
        time.sleep(0.5)
    return totals


def main() -> None:
    """Run both shapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of the load for each shape")
    parser.add_argument("--shards", type=int, default=0, help="of the tenant; 0: as many as its rate needs")
    arguments = parser.parse_args()
    for shape in SHAPES:
        run(shape, arguments.seconds, arguments.shards)


if __name__ == "__main__":
    main()
