"""``millrace tenants endpoints``, as an operator types it, against a service's own port."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from typer.testing import CliRunner, Result

from cluster.cli import app
from cluster.face_server import FaceServer
from tenants.endpoint import EndpointCounters, EndpointState, TenantEndpointSnapshot
from tenants.endpoint.tenant_collector import TenantCollectorSnapshot
from tenants.identity import TenantId
from tests.unit.test_service_face import Service, application

FIGURES = {"active_series": 7, "series_limited": 1, "edges": 3, "state_bytes": 9}


def service() -> Service:
    main = EndpointCounters(
        "main",
        "http://h/",
        state=EndpointState.PAUSED_UNAUTHORIZED,
        samples_sent=5000,
        samples_failed={"http_400": 7, "too_old": 1},
        samples_dropped=3,
        pending_samples=1234,
        stored_bytes=3 << 20,
        lag_s=3725.4,
        last_error="http_401: [bold]no[/bold]",
    )
    retiring = EndpointCounters("old", "http://o/")
    made = Service()
    for name, endpoints in (
        ("acme", ((main,), (retiring,))),
        ("globex", ((EndpointCounters("other", "http://x/"),), ())),
    ):
        way_out = TenantEndpointSnapshot(*endpoints, {"no_endpoint": 0})
        made.snapshots[TenantId(name)] = TenantCollectorSnapshot(FIGURES, way_out, 2, 0.1, 4)
    return made


async def run(face: FastAPI, *arguments: str, environ: Mapping[str, str] | None = None) -> Result:
    server = FaceServer(face, "127.0.0.1:0")
    port = await server.start()
    try:
        runner = CliRunner(env={"COLUMNS": "250", **(environ or {})})
        command = ["tenants", "endpoints", *arguments, "--url", f"http://127.0.0.1:{port}"]
        return await asyncio.to_thread(runner.invoke, app, command)
    finally:
        await server.stop()


async def test_a_line_for_each_endpoint_says_how_it_is_doing() -> None:
    shown = await run(application(service()))
    assert shown.exit_code == 0, shown.output
    lines = {line.split()[1]: " ".join(line.split()) for line in shown.stdout.splitlines()[3:] if line.strip()}
    assert lines["main"] == (
        "acme main paused_unauthorized io.prometheus.write.v2.Request 1:02:05 1,234 3.0 MiB 5,000 "
        "7 http_400, 1 too_old, 3 dropped http_401: [bold]no[/bold]"
    )
    assert lines["old"].startswith("acme old idle")
    assert lines["other"].startswith("globex other idle")


async def test_one_tenant_as_json_with_all_that_is_known() -> None:
    shown = await run(application(service()), "acme", "--json")
    found = json.loads(shown.stdout)
    assert list(found) == ["acme"]
    main, old = found["acme"]
    assert (main["endpoint"], main["lag_s"], main["state"]) == ("main", 3725.4, "paused_unauthorized")
    assert old["endpoint"] == "old"


async def test_tenant_that_is_not_there_is_said() -> None:
    shown = await run(application(service()), "nobody")
    assert shown.exit_code == 2
    assert "no series of tenant 'nobody'" in shown.stderr


async def test_token_is_sent_and_asked_for() -> None:
    refused = await run(application(service(), inspect_is_open=False))
    assert refused.exit_code == 2
    assert "MILLRACE_TOKEN" in refused.stderr
    seen: list[str | None] = []
    face = FastAPI()

    @face.get("/status")
    async def status(request: Request) -> dict[str, Any]:
        seen.append(request.headers.get("Authorization"))
        return {"tenants": {}}

    assert (await run(face, environ={"MILLRACE_TOKEN": "s3cret"})).exit_code == 0
    assert seen == ["Bearer s3cret"]


@pytest.mark.parametrize("body", [b"<html>", b"[1"])
async def test_port_that_is_not_the_services_is_said(body: bytes) -> None:
    face = FastAPI()

    @face.get("/status")
    async def status() -> Response:
        return Response(body)

    shown = await run(face)
    assert shown.exit_code == 2
    assert "is not the service's own port" in shown.stderr
