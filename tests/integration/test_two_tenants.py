"""Tenants side by side: each with its own settings, endpoint and identity, and nothing of one ever at another.

What a tenant's own settings do is compared with the reference model under the same settings.
"""

import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from tests import traces
from tests.integration.comparison import assert_has
from tests.integration.load import SECOND_NS
from tests.integration.otlp_client import GrpcClient
from tests.integration.planted import DEFAULTS_SECRET
from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import CALLS, until_counted
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus
from tests.reference import ReferenceModel
from tests.remote_write_v2 import decode_v2
from tests.unit.receiver import Receiver, stores_all

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

BOTH: Final = ["span-metrics", "service-graphs"]


@pytest_asyncio.fixture(loop_scope="session")
async def client(service: MillraceProcess) -> AsyncIterator[GrpcClient]:
    async with GrpcClient(service.grpc_port) as connected:
        yield connected


def calls(service: str, count: int = 1, name: str = "GET /") -> Any:
    """Return ``count`` requests of a customer to ``service``, and of the service to its backend, as one request."""
    now_ns = time.time_ns()
    front, back = [], []
    for number in range(count):
        # The same trace and span ids for every tenant: ids are no secret, and no boundary.
        common: dict[str, Any] = {"trace_id": (number + 1).to_bytes(16), "start_ns": now_ns - SECOND_NS}
        common["status"] = number % 3
        front.append(traces.span(name, kind=traces.SERVER, span_id=b"root....", end_ns=now_ns, **common))
        call: dict[str, Any] = {"parent": b"root....", "end_ns": now_ns - SECOND_NS // 2}
        front.append(traces.span("call", kind=traces.CLIENT, span_id=b"call....", **common, **call))
        back.append(traces.span("work", kind=traces.SERVER, parent=b"call....", end_ns=now_ns, **common))
    return traces.request(
        traces.batch({"service.name": service, "region": f"{service}-land", "team": f"{service}-team"}, *front),
        traces.batch({"service.name": f"{service}-backend", "region": f"{service}-land"}, *back),
    )


async def accepted(client: GrpcClient, tenant: str, request: Any) -> None:
    answer = await client.export(request.SerializeToString(), tenant)
    assert answer.is_accepted, answer


async def test_two_tenants_with_different_settings_never_meet(service: MillraceProcess, client: GrpcClient) -> None:
    async with Prometheus() as of_acme, Prometheus() as of_globex:
        await service.put_tenants(
            acme={
                "processors": BOTH,
                "remote_write": [{"url": of_acme.url}],
                "processor": {
                    "span_metrics": {
                        "dimensions": ["region", "team"],
                        "histogram_buckets": [0.1, 0.75, 1],
                        "intrinsic_dimensions": {"status_code": False},
                    },
                    "service_graphs": {"dimensions": ["region"], "enable_virtual_node_label": True},
                },
            },
            globex={
                "processors": ["span-metrics-count", "service-graphs-request"],
                "remote_write": [{"url": of_globex.url}],
                "collection_interval": "2s",
            },
        )
        plans = {
            "acme": traces.plan(
                traces.span_metrics_plan(
                    dimensions=["region", "team"],
                    histogram_buckets=[0.1, 0.75, 1],
                    intrinsic_dimensions={"status_code": False},
                ),
                traces.service_graphs_plan(dimensions=["region"], enable_virtual_node_label=True),
            ),
            "globex": traces.plan(
                traces.span_metrics_plan(latency=False, size=False), traces.service_graphs_plan(latency=False)
            ),
        }
        own = {"acme": of_acme, "globex": of_globex}
        models = {tenant: ReferenceModel(plan) for tenant, plan in plans.items()}
        for _ in range(5):
            for tenant, model in models.items():
                request = calls(tenant, count=20)
                model.push(request, time.time_ns())
                await accepted(client, tenant, request)

        for tenant, model in models.items():
            model.flush(0, close_edges=True)
            await assert_has(own[tenant], tenant, model.series())
            # Everything that this Prometheus ever heard of: of this tenant, and not a word of the other.
            other = "globex" if tenant == "acme" else "acme"
            series = await own[tenant].series('{__name__=~".+"}')
            assert {labels["tenant"] for labels in series} == {tenant}
            assert other not in str(series)
        assert [await _interval_s(own[tenant], tenant) for tenant in ("acme", "globex")] == [1, 2]
        await end_tenants(service, "acme", "globex")


async def test_requests_to_endpoints_carry_the_tenant_and_its_headers(
    service: MillraceProcess, client: GrpcClient
) -> None:
    async with Receiver(otherwise=stores_all) as receiver:
        endpoint = {"remote_write": [{"url": receiver.url}], "processors": BOTH}
        await service.put_tenants(
            **{"one-of-two": endpoint, "two-of-two": {**endpoint, "remote_write_headers": {"X-Own": "of-two"}}}
        )
        for tenant in ("one-of-two", "two-of-two"):
            await accepted(client, tenant, calls(tenant, count=3))

        def came_from() -> set[str | None]:
            return {request.header("X-Scope-OrgID") for request in receiver.requests}

        await eventually(lambda: len(came_from()) == 2, 60, lambda: f"requests came from {came_from()}")
        for request in receiver.requests:
            sender = str(request.header("X-Scope-OrgID"))
            assert {dict(key)["tenant"] for key in decode_v2(request.body).series} == {sender}
            own = {"one-of-two": (DEFAULTS_SECRET, None), "two-of-two": (None, "of-two")}
            assert (request.header("X-Defaults"), request.header("X-Own")) == own[sender]
            assert request.header("Content-Encoding") == "snappy"
            assert request.header("Content-Type") == "application/x-protobuf;proto=io.prometheus.write.v2.Request"
            assert request.header("X-Prometheus-Remote-Write-Version") == "2.0.0"
            assert str(request.header("User-Agent")).startswith("millrace/")
        await end_tenants(service, "one-of-two", "two-of-two")


async def test_tenant_without_processors_is_accepted_and_generates_nothing_until_it_has_one(
    service: MillraceProcess, client: GrpcClient, prometheus: Prometheus
) -> None:
    async with Receiver() as receiver:
        quiet = {"remote_write": [{"url": receiver.url}, {"url": prometheus.url}]}
        await service.put_tenants(quiet=quiet, loud={"processors": BOTH})
        for tenant in ("quiet", "loud", "never-heard-of"):
            await accepted(client, tenant, calls(tenant, count=10))
        await until_counted(prometheus, 30, tenant="loud")

        for tenant in ("quiet", "never-heard-of"):
            assert await service.metric("millrace_spans_received_total", tenant=tenant) == 30
            assert await service.metric("millrace_registry_active_series", tenant=tenant) == 0
            assert await prometheus.series(f'{{tenant="{tenant}"}}') == []
            assert tenant not in (await service.status())["tenants"]
        assert receiver.requests == []

        await service.put_tenants(quiet={**quiet, "processors": BOTH})
        await accepted(client, "quiet", calls("quiet", count=10))
        # Those before were accepted and are gone: what is counted begins with the processor.
        await until_counted(prometheus, 30, tenant="quiet")
        await end_tenants(service, "quiet")


async def test_runtime_file_takes_effect_while_running_and_a_broken_one_changes_nothing(
    service: MillraceProcess, client: GrpcClient, prometheus: Prometheus
) -> None:
    await service.put_tenants(edited={"processors": ["span-metrics"]})
    await accepted(client, "edited", calls("edited", count=10))
    await until_counted(prometheus, 30, tenant="edited")

    with_dimension = {"processors": ["span-metrics"], "processor": {"span_metrics": {"dimensions": ["region"]}}}
    await service.put_tenants(edited=with_dimension)
    await accepted(client, "edited", calls("edited", count=5))
    # Other labels are other series, which begin at zero.
    await until_counted(prometheus, 15, tenant="edited", region="edited-land")

    failures = await service.metric("millrace_settings_reload_failures_total", reason="validate")
    refused = await service.break_runtime_file(
        '{"overrides": {"edited": {"metrics_generator": {"colection_interval": "1s"}}}}'
    )
    assert (refused["level"], refused["process"]) == ("error", "service")
    assert "overrides.edited.metrics_generator.colection_interval" in refused["problem"]
    assert "did you mean collection_interval" in refused["problem"]

    async def is_reported() -> bool:
        return await service.metric("millrace_settings_reload_failures_total", reason="validate") > failures

    await eventually(is_reported, 60, lambda: "the broken file is not counted")
    assert await service.metric("millrace_settings_last_reload_successful") == 0
    assert (await service.get("/ready")).status_code == 200
    assert (await service.status())["overrides"]["last_reload_successful"] is False
    await accepted(client, "edited", calls("edited", count=1))
    await until_counted(prometheus, 18, tenant="edited", region="edited-land")

    await service.put_tenants(edited={**with_dimension, "collection_interval": "2s"})
    assert await service.metric("millrace_settings_last_reload_successful") == 1
    await accepted(client, "edited", calls("edited", count=1))
    await until_counted(prometheus, 21, tenant="edited", region="edited-land")


async def end_tenants(service: MillraceProcess, *tenants: str) -> None:
    """Take the tenants' processors away and wait until nothing is left of them: their endpoints are about to go."""
    await service.put_tenants(**{tenant: {} for tenant in tenants})

    async def have_ended() -> bool:
        return not (await service.status())["tenants"].keys() & set(tenants)

    await eventually(have_ended, 60, lambda: f"tenants that are still there:\n{service.log}")


async def _interval_s(prometheus: Prometheus, tenant: str) -> int:
    """Return the time between the samples of a series, from its first value on, in whole seconds."""
    times: list[float] = []

    async def are_enough() -> bool:
        (matrix, *_) = await prometheus.query(f'{CALLS}{{tenant="{tenant}"}}[1m]')
        times[:] = [time_s for time_s, value in matrix["values"] if float(value)]
        return len(times) >= 4

    await eventually(are_enough, 60, lambda: f"samples of {tenant}: {times}")
    return round((times[-1] - times[0]) / (len(times) - 1))
