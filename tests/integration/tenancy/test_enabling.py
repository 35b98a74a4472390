"""Tenants that are switched on and off on a running service: cases 108 to 113."""

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import CALLS
from tests.integration.tenancy.case import case
from tests.integration.tenancy.running_api import DOCUMENTS, OVERRIDES
from tests.integration.tenancy.written import (
    SPANS,
    collections_pass,
    histories,
    names,
    receiving,
    send,
    total,
    until_ended,
    until_written,
)
from tests.integration.waiting import eventually
from tests.remote_write import is_stale_marker
from tests.unit.receiver import Receiver

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

BOTH: Final = ["service-graphs", "span-metrics"]
EDGES: Final = "traces_service_graph_request_total"
BUCKETS: Final = "traces_spanmetrics_latency_bucket"
COLLECTION_S: Final = 1.0
APPLY_S: Final = 5.0
"""How long a change may take to be in force everywhere."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service() -> AsyncIterator[MillraceProcess]:
    """A service whose tenants may have documents, with one that is always collected, to tell time by."""
    config = {"overrides": {"user_configurable_overrides": DOCUMENTS}}
    async with (
        MillraceProcess(config) as running,
        receiving(running, "clock", processors=["span-metrics"]) as clock,
    ):
        await send(running, "clock")
        await until_written(clock, SPANS)
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def operator(service: MillraceProcess) -> str:
    """An operator's token that is in force."""
    return await service.operator_token()


async def patch(service: MillraceProcess, tenant: str, **generator: Any) -> None:
    """Change a tenant's document, and wait until that is in force everywhere."""
    answer = await service.ask("PATCH", OVERRIDES, tenant=tenant, body={"metrics_generator": generator})
    assert answer.status_code == 200, answer.text
    revision = answer.headers["x-overrides-revision"]
    waited = await service.ask("GET", f"{OVERRIDES}?min_revision={revision}&wait=10s", tenant=tenant)
    assert waited.status_code == 200, waited.text


@asynccontextmanager
async def switched_on(service: MillraceProcess, tenant: str, **settings: Any) -> AsyncIterator[Receiver]:
    """Give a tenant an endpoint, and processors through the API; afterwards end it."""
    async with receiving(service, tenant, **settings) as receiver:
        await patch(service, tenant, processors=BOTH)
        try:
            yield receiver
        finally:
            await patch(service, tenant, processors=[])


@case(108)
async def test_108_without_processors_nothing_is_generated(service: MillraceProcess) -> None:
    async with receiving(service, "off") as receiver:
        await send(service, "off")
        await collections_pass(service, "clock")
        assert receiver.requests == []
        assert await service.metric("millrace_spans_received_total", tenant="off") == SPANS
        assert "off" not in (await service.status())["tenants"]
        assert {path.name.partition("-")[0] for path in (service.folder / "data").iterdir()} == {
            "journal.db",
            "millrace.db",
        }


@case(109)
async def test_109_first_write_comes_soon_after_the_switch(service: MillraceProcess) -> None:
    async with receiving(service, "soon") as receiver:
        await send(service, "soon")
        started = time.monotonic()
        await patch(service, "soon", processors=BOTH)
        applied = time.monotonic()
        await send(service, "soon")
        await receiver.wait_for_requests(1, timeout_s=COLLECTION_S + 5)
        assert applied - started < APPLY_S
        # Spans from before the switch are not made up for.
        await until_written(receiver, SPANS)
        await patch(service, "soon", processors=[])


@case(110)
async def test_110_every_series_ends_with_one_marker(service: MillraceProcess) -> None:
    async with switched_on(service, "ends") as receiver:
        await send(service, "ends")
        await eventually(lambda: total(receiver, EDGES) == 1, 60, lambda: f"written: {names(receiver)}")
        live = set(histories(receiver))
        assert {CALLS, EDGES} <= names(receiver)
        before = len(receiver.requests)
        started = time.monotonic()
        await patch(service, "ends", processors=[])
        await until_ended(service, "ends")
        assert time.monotonic() - started < APPLY_S + COLLECTION_S + 5

        written = histories(receiver)
        assert set(written) == live
        for key, series in written.items():
            values = [value for one in series for _, value in one.samples]
            assert [is_stale_marker(value) for value in values].index(True) == len(values) - 1, (key, values)
        assert len(receiver.requests) > before
        silent_since = len(receiver.requests)
        await send(service, "ends")
        await collections_pass(service, "clock")
        assert len(receiver.requests) == silent_since
        for held in ("registry_active_series", "registry_state_bytes", "shard_entities", "shards"):
            assert await service.metric(f"millrace_{held}", tenant="ends") == 0, held


@case(111, difference="D-23: collections go on being counted in a dry run, because stale series end in them")
@pytest.mark.parametrize("by", ["document", "operator"])
async def test_111_a_dry_run_counts_and_writes_nothing(service: MillraceProcess, operator: str, by: str) -> None:
    tenant = f"dry-{by}"
    async with switched_on(service, tenant) as receiver:
        if by == "document":
            await patch(service, tenant, disable_collection=True)
        else:
            await set_state(service, operator, tenant, "dry_run")
        await send(service, tenant)

        async def are_counted() -> bool:
            return await service.metric("millrace_registry_active_series", tenant=tenant) > 0

        await eventually(are_counted, 60, lambda: "no series are counted")
        await collections_pass(service, tenant)
        assert receiver.requests == []
        assert await service.metric("millrace_remote_write_samples_total", tenant=tenant) == 0
        if by == "document":
            await patch(service, tenant, disable_collection=None)
        else:
            await set_state(service, operator, tenant, "active")
        # What was counted meanwhile is not lost.
        await until_written(receiver, SPANS)


async def set_state(service: MillraceProcess, operator: str, tenant: str, state: str) -> None:
    """Set a tenant's state, and wait until that is in force everywhere."""
    path = f"/api/admin/tenants/{tenant}"
    answer = await service.ask("PATCH", path, token=operator, body={"state": state})
    assert answer.json()["state"] == state, answer.text
    await service.until_in_force()


def has_bucket(receiver: Receiver, bound: str) -> bool:
    return any({("__name__", BUCKETS), ("le", bound)} <= key for key in histories(receiver))


@case(112)
async def test_112_other_buckets_reset_no_edges(service: MillraceProcess) -> None:
    async with switched_on(service, "buckets") as receiver:
        await send(service, "buckets")
        await eventually(lambda: total(receiver, EDGES) == 1, 60, lambda: f"written: {names(receiver)}")
        await patch(service, "buckets", processor={"span_metrics": {"histogram_buckets": [0.1, 7]}})
        await send(service, "buckets")
        await eventually(lambda: total(receiver, EDGES) == 2, 60, lambda: f"written: {total(receiver, EDGES)}")
        edges = [series for key, series in histories(receiver).items() if ("__name__", EDGES) in key]
        for series in edges:
            values = [value for one in series for _, value in one.samples]
            assert values == sorted(values)
            assert not any(map(math.isnan, values))
        # The new ones begin once everything that was counted in the old ones is written.
        await eventually(lambda: has_bucket(receiver, "7"), 60, lambda: "the buckets are the old ones")


@case(113, difference="D-24: both layers are valid, and only together are they not; a document alone cannot get so far")
async def test_113_a_refused_change_leaves_the_processor_running(service: MillraceProcess, operator: str) -> None:
    async with switched_on(service, "refused") as receiver:
        mapping = {"name": "shop", "source_labels": ["http.route"]}
        await patch(service, "refused", processor={"span_metrics": {"dimension_mappings": [mapping]}})
        await send(service, "refused")
        await until_written(receiver, SPANS)
        path = "/api/admin/tenants/refused"
        assert (await service.ask("GET", path, token=operator)).json()["problems"] == []

        endpoint = {"remote_write": [{"url": receiver.url}]}
        collides = {"processor": {"span_metrics": {"dimensions": ["shop"]}}}
        await service.put_tenants(refused={**endpoint, **collides})
        await send(service, "refused")
        await until_written(receiver, 2 * SPANS)
        assert await service.metric("millrace_active_processors", tenant="refused") == len(BOTH)
        assert await service.metric("millrace_active_processors_update_failed_total", tenant="refused") == 1
        (problem,) = (await service.ask("GET", path, token=operator)).json()["problems"]
        assert "dimension_mappings" in problem

        await service.put_tenants(refused=endpoint)
        assert (await service.ask("GET", path, token=operator)).json()["problems"] == []
