"""The service's own port: readiness, metrics of every actor, status; and no secret there, nor in any log."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from cluster.declarations import DECLARED
from tests.integration.otlp_client import GrpcClient
from tests.integration.planted import DEFAULTS_SECRET, MARK, STATIC_SECRET, TENANT_SECRET
from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import full_request, until_counted
from tests.prometheus import Prometheus
from tests.unit.receiver import Answer, Receiver

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

OWN = re.compile(r"millrace_\w+")


@pytest_asyncio.fixture(loop_scope="session")
async def seen(service: MillraceProcess, prometheus: Prometheus) -> AsyncIterator[str]:
    """A tenant with series."""
    await service.put_tenants(seen={"processors": ["span-metrics", "service-graphs"]})
    before = await service.metric("millrace_spans_received_total", tenant="seen")
    async with GrpcClient(service.grpc_port) as client:
        assert (await client.export(full_request().SerializeToString(), "seen")).is_accepted
    await until_counted(prometheus, before + 2, tenant="seen")
    yield "seen"


async def test_service_is_not_ready_before_it_accepts_spans(service: MillraceProcess) -> None:
    assert service.ready_answers == [503, 200]


async def test_metrics_are_those_declared_and_cover_every_actor(service: MillraceProcess, seen: str) -> None:
    response = await service.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    own = {name: family for name, family in families.items() if OWN.fullmatch(name)}
    for name, family in own.items():
        declared = DECLARED[f"{name}_total" if family.type == "counter" else name]
        assert (family.type, family.documentation) == (declared.kind, declared.text)
        for sample in family.samples:
            of_bucket = {"le"} if sample.name.endswith("_bucket") else set()
            assert sample.labels.keys() == {*declared.labels, "actor"} | of_bucket
            assert sample.value >= 0

    up = {sample.labels["actor"]: sample.value for sample in own["millrace_actor_up"].samples}
    assert up == dict.fromkeys(["gateway-0", "shard-host-0", "shard-host-1", "collector-0"], 1)
    answered = {sample.labels["actor"] for family in own.values() for sample in family.samples}
    assert answered == {*up, "service"}
    of_tenant = {name for name, family in own.items() if any(s.labels.get("tenant") == seen for s in family.samples)}
    assert of_tenant >= {
        "millrace_spans_received",
        "millrace_bytes_received",
        "millrace_shard_entities",
        "millrace_records_merged",
        "millrace_registry_active_series",
        "millrace_processor_service_graphs_edges",
        "millrace_registry_collections",
        "millrace_remote_write_samples",
    }
    # Of this process itself, from the client library.
    assert families["process_resident_memory_bytes"].samples[0].value > 0


async def test_status_tells_ports_settings_and_how_each_tenant_is_doing(service: MillraceProcess, seen: str) -> None:
    status = await service.status()
    assert status["state"] == "running"
    assert status["gateways"] == {"gateway-0": {"otlp_grpc": service.grpc_port, "otlp_http": service.otlp_http_port}}
    assert status["overrides"]["last_reload_successful"] is True
    tenant = status["tenants"][seen]
    assert tenant["active_series"] > 0
    (endpoint,) = tenant["endpoints"]
    assert endpoint["url"].startswith("http://127.0.0.1:")
    assert (endpoint["samples_sent"] > 0, endpoint["samples_failed"], endpoint["last_error"]) == (True, {}, "")


async def test_secrets_reach_their_endpoint_and_nothing_else(service: MillraceProcess) -> None:
    told = {"with-defaults": (STATIC_SECRET, DEFAULTS_SECRET, None), "with-own": (STATIC_SECRET, None, TENANT_SECRET)}
    async with AsyncExitStack() as stack:
        receivers = {}
        for tenant, secrets in told.items():
            # It refuses, and repeats what it was told, as some do; refusals are logged and shown.
            refusal = Answer(400, body=f"bad token: {secrets}".encode())
            receivers[tenant] = await stack.enter_async_context(Receiver(otherwise=refusal))
        entries = {
            tenant: {
                "processors": ["span-metrics"],
                "remote_write": [{"url": receiver.url, "headers": {"X-Endpoint": STATIC_SECRET}}],
            }
            for tenant, receiver in receivers.items()
        }
        entries["with-own"]["remote_write_headers"] = {"X-Own": TENANT_SECRET}
        await service.put_tenants(**entries)
        async with GrpcClient(service.grpc_port) as client:
            for tenant, receiver in receivers.items():
                assert (await client.export(full_request().SerializeToString(), tenant)).is_accepted
                await receiver.wait_for_requests(1, timeout_s=30)
                (request, *_) = receiver.requests
                assert tuple(map(request.header, ("X-Endpoint", "X-Defaults", "X-Own"))) == told[tenant]
                await service.logged("endpoint refused samples, they are dropped", tenant=tenant)
        headers = {"Host": TENANT_SECRET, "X": f"{TENANT_SECRET}\n"}
        refused = await service.break_runtime_file(
            json.dumps({"overrides": {"with-own": {"metrics_generator": {"remote_write_headers": headers}}}})
        )
        assert "remote_write_headers.Host" in refused["problem"]
        shown = {path: (await service.get(path)).text for path in ("/status", "/metrics")}
        await service.put_tenants(**{tenant: {} for tenant in told})

    assert "bad token" in service.log
    assert "bad token" in shown["/status"]
    for where, text in {**shown, "log": service.log, **_ray_logs(service)}.items():
        assert MARK not in text, where
    for process in service.processes():
        assert MARK not in " ".join(process.cmdline())


def _ray_logs(service: MillraceProcess) -> dict[str, str]:
    files = [path for path in (service.folder / "ray").rglob("*") if path.is_file()]
    assert any(path.name.startswith("gcs_server") for path in files)
    return {str(path): path.read_text(errors="replace") for path in files}
