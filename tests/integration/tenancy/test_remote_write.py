"""What requests to a tenant's endpoint carry: cases 114 to 120."""

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.integration.planted import TENANT_SECRET
from tests.integration.service import MillraceProcess
from tests.integration.tenancy.case import case
from tests.integration.tenancy.written import SPANS, histories, names, receiving, send, until_written
from tests.integration.waiting import eventually
from tests.remote_write import SeriesKey
from tests.unit.receiver import Receiver

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

ORG_ID: Final = "X-Scope-OrgID"
BOTH: Final = ["span-metrics", "service-graphs"]
HISTOGRAMS: Final = {
    "traces_spanmetrics_latency",
    "traces_service_graph_request_client_seconds",
    "traces_service_graph_request_server_seconds",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service() -> AsyncIterator[MillraceProcess]:
    """A service that puts the tenant into a label."""
    async with MillraceProcess({"metrics_generator": {"registry": {"inject_tenant_id_as": "org"}}}) as running:
        yield running


async def sent_headers(receiver: Receiver, name: str) -> set[str | None]:
    """Wait for requests; return the values of a header, which none may have twice."""
    await receiver.wait_for_requests(2, timeout_s=20)
    return {request.header(name) for request in receiver.requests}


@case(114)
async def test_114_requests_name_the_tenant(service: MillraceProcess) -> None:
    async with receiving(service, "named", processors=BOTH) as receiver:
        await send(service, "named")
        assert await sent_headers(receiver, ORG_ID) == {"named"}


@case(115)
async def test_115_a_header_of_the_tenant_maps_it_to_another(service: MillraceProcess) -> None:
    headers = {"x-scope-orgid": "mapped"}
    async with receiving(service, "traced", processors=BOTH, remote_write_headers=headers) as receiver:
        await send(service, "traced")
        assert await sent_headers(receiver, ORG_ID) == {"mapped"}


@case(116)
@pytest.mark.parametrize(
    ("config", "sender", "tenant"),
    [
        ({"remote_write_add_org_id_header": False}, "unnamed", "unnamed"),
        ({"multitenancy_enabled": False}, None, "single-tenant"),
    ],
)
async def test_116_requests_name_no_tenant(config: dict[str, Any], sender: str | None, tenant: str) -> None:
    async with (
        MillraceProcess(config) as service,
        receiving(service, tenant, processors=BOTH) as receiver,
    ):
        await send(service, sender)
        assert await sent_headers(receiver, ORG_ID) == {None}


@case(117)
async def test_117_authorization_is_sent_and_shown_nowhere(service: MillraceProcess) -> None:
    headers = {"Authorization": f"Bearer {TENANT_SECRET}"}
    async with receiving(service, "secretive", processors=BOTH, remote_write_headers=headers) as receiver:
        await send(service, "secretive")
        assert await sent_headers(receiver, "Authorization") == {f"Bearer {TENANT_SECRET}"}
        for path in (
            "/status",
            "/status/overrides",
            "/status/overrides/secretive",
            "/status/runtime_config",
            "/status/runtime_config?mode=diff",
        ):
            for accepted in ("application/json", "text/plain"):
                shown = await service.ask("GET", path, Accept=accepted)
                assert shown.status_code == 200
                assert TENANT_SECRET not in shown.text, path
        # It is seen that there is one.
        settings = (await service.ask("GET", "/status/overrides/secretive", Accept="application/json")).json()[
            "settings"
        ]
        assert settings["metrics_generator.remote_write_headers"]["value"] == {"Authorization": "<secret>"}


@case(118)
@pytest.mark.parametrize("name", ["Content-Type", "content-encoding", "User-Agent", "Host", "X-Prometheus-Anything"])
async def test_118_headers_of_the_protocol_are_refused_at_load(service: MillraceProcess, name: str) -> None:
    entry = {"metrics_generator": {"remote_write_headers": {"X-Own": "fine", name: "text/plain"}}}
    refused = await service.break_runtime_file(json.dumps({"overrides": {"meddling": entry}}))
    assert f"overrides.meddling.metrics_generator.remote_write_headers.{name}" in refused["problem"]
    assert await service.metric("millrace_settings_last_reload_successful") == 0
    await service.put_tenants(meddling={})


def labels_of(receiver: Receiver, name: str) -> set[SeriesKey]:
    """Return the label sets of a metric, without its name and bounds."""
    return {
        frozenset((label, value) for label, value in key if label not in {"__name__", "le"})
        for key in histories(receiver)
        if ("__name__", name) in key
    }


@case(119)
@pytest.mark.parametrize("mode", ["classic", "native", "both"])
async def test_119_histograms_have_the_form_of_the_mode(service: MillraceProcess, mode: str) -> None:
    tenant = f"form-{mode}"
    async with receiving(service, tenant, processors=BOTH, generate_native_histograms=mode) as receiver:
        await send(service, tenant)
        edges = "traces_service_graph_request_total"
        await eventually(lambda: edges in names(receiver), 60, lambda: f"written: {names(receiver)}")
        await until_written(receiver, SPANS)
        is_native = {
            dict(key)["__name__"]
            for key, written in histories(receiver).items()
            if any(series.histograms for series in written)
        }
        assert is_native == (set() if mode == "classic" else HISTOGRAMS)
        for name in HISTOGRAMS:
            classic = [labels_of(receiver, f"{name}{suffix}") for suffix in ("_bucket", "_sum", "_count")]
            native = labels_of(receiver, name)
            assert all(labels == classic[0] for labels in classic)
            assert bool(native) == (mode != "classic")
            assert bool(classic[0]) == (mode != "native")
            assert mode != "both" or native == classic[0]


@case(120)
async def test_120_every_series_carries_the_tenant(service: MillraceProcess) -> None:
    async with (
        receiving(service, "one", processors=[*BOTH, "host-info"]) as first,
        receiving(service, "two", processors=BOTH) as second,
    ):
        for tenant, receiver in (("one", first), ("two", second)):
            await send(service, tenant)
            await until_written(receiver, SPANS)
        for tenant, receiver in (("one", first), ("two", second)):
            assert {dict(key).get("org") for key in histories(receiver)} == {tenant}
