"""A service that stands in for Millrace in tests of the demo: OTLP/gRPC in, the model, remote write out.

Run as ``python -m tests.unit.demo_service --config FILE``. It reads the same files as the real one, collects
every second, and ends on SIGTERM with exit code 0 after a last collection. Slow, exact, and without Ray.
"""

import argparse
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import snappy
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from tenants.identity.tenant_id import TenantId
from tenants.processing.plan import plan_json
from tenants.settings.runtime_file import Loaded, RuntimeFile
from tenants.settings.service_config import load_service_config
from tenants.settings.tenant_settings import resolve
from tests.overrides_in_force import in_force
from tests.reference import ReferenceModel
from tests.unit.demo_bodies import Written, message

_COLLECT_S = 1.0


class Tenant:
    """One tenant's model, and what was collected of it."""

    def __init__(self, name: str, config: Any, overrides: Any) -> None:
        settings = resolve(config, in_force(overrides), TenantId(name))
        self._external = dict(settings.external_labels)
        self._url = str(settings.remote_write[0].url)
        self._model = ReferenceModel(json.loads(plan_json(settings)))
        self._lock = threading.Lock()
        self._seen: set[Any] = set()
        self._collected_ms = time.time_ns() // 1_000_000

    def push(self, request: Any) -> None:
        with self._lock:
            self._model.push(request, time.time_ns())

    def collect(self, client: httpx.Client) -> None:
        with self._lock:
            self._model.flush(time.time_ns())
            collection = self._model.collect()
        now_ms = time.time_ns() // 1_000_000
        series = []
        for key, value in collection.series.items():
            zero = [] if key in self._seen else [(self._collected_ms + 1, 0.0)]
            exemplars = [(trace_id, now_ms, seconds) for trace_id, seconds in collection.exemplars.get(key, [])]
            series.append(Written(dict(key) | self._external, [*zero, (now_ms, value)], exemplars))
        self._seen.update(collection.series)
        self._collected_ms = now_ms
        headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
        }
        if series:
            body = snappy.compress(message(series))
            client.post(self._url, content=body, headers=headers).raise_for_status()


class Servicer(TraceServiceServicer):
    def __init__(self, tenants: dict[str, Tenant]) -> None:
        self._tenants = tenants

    def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:  # noqa: N802 -- as gRPC calls it
        self._tenants[dict(context.invocation_metadata())["x-scope-orgid"]].push(request)
        return ExportTraceServiceResponse()


class Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        pass


def serve(config_file: Path) -> None:
    config = load_service_config(config_file, {})
    assert config.overrides.per_tenant_override_config is not None
    loaded = RuntimeFile(config.overrides.per_tenant_override_config, Path.read_bytes).poll()
    assert isinstance(loaded, Loaded), loaded
    tenants = {name: Tenant(name, config, loaded.overrides) for name in loaded.overrides}
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = grpc.server(ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(Servicer(tenants), server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(str(config.listen.otlp_grpc))
    server.start()
    http = ThreadingHTTPServer((config.listen.http.host, config.listen.http.port), Ready)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    with httpx.Client(trust_env=False) as client:
        while not stop.wait(_COLLECT_S):
            for tenant in tenants.values():
                tenant.collect(client)
        server.stop(grace=5).wait()
        for tenant in tenants.values():
            tenant.collect(client)
    http.shutdown()
    http.server_close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    serve(parser.parse_args().config)
