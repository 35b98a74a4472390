"""Settings that change under load: in force within a collection, what stays goes on, what goes ends, nothing is lost.

What a change does inside is tested beside the engine; here a receiver judges what a running service makes of it.
"""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from tests import traces
from tests.integration.load import SECOND_NS
from tests.integration.otlp_client import GrpcClient
from tests.integration.service import MillraceProcess, merged
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

CALLS: Final = "traces_spanmetrics_calls_total"
SIZE: Final = "traces_spanmetrics_size_total"
LATENCY: Final = "traces_spanmetrics_latency"
EDGES: Final = "traces_service_graph_request_total"
INFO: Final = "traces_target_info"
# One collection interval, a flush of the shards before it, and the way to Prometheus on a busy machine.
IN_EFFECT_S: Final = 1.0 + 0.2 + 2.0
TRACES_PER_REQUEST: Final = 4

Settings = Mapping[str, Any]
FIRST: Final[Settings] = {
    "processors": ["span-metrics", "service-graphs", "host-info"],
    "shards": 2,
    "processor": {
        "span_metrics": {"histogram_buckets": [0.1, 0.3, 1]},
        "service_graphs": {"histogram_buckets": [0.1, 0.3, 1]},
    },
}


def first_with(**span_metrics: Any) -> Settings:
    return merged(FIRST, {"processor": {"span_metrics": span_metrics}})


class Shop:
    """A shop under load, and what a receiver has of its tenant.

    Selectors are as in PromQL, without the tenant.

    Attributes:
        tenant: its tenant, who has no other.
        acknowledged: spans that were.
    """

    def __init__(self, tenant: str, service: MillraceProcess, prometheus: Prometheus, client: GrpcClient) -> None:
        self.tenant = tenant
        self.acknowledged = 0
        self._service = service
        self._prometheus = prometheus
        self._client = client
        self._numbers = itertools.count(1)
        self._ids = time.time_ns()

    def _calls(self) -> Any:
        now_ns = time.time_ns()
        fronts, backs = [], []
        for number in itertools.islice(self._numbers, TRACES_PER_REQUEST):
            common: dict[str, Any] = {
                "trace_id": (self._ids + number).to_bytes(16),
                "start_ns": now_ns - SECOND_NS // 4,
                "end_ns": now_ns,
            }
            fronts.append(traces.span("call", kind=traces.CLIENT, span_id=b"client..", **common))
            backs.append(traces.span("work", kind=traces.SERVER, span_id=b"server..", parent=b"client..", **common))
        resource = {"region": "north", "host.id": "h1"}
        return traces.request(
            traces.batch({"service.name": "web", **resource}, *fronts),
            traces.batch({"service.name": "shop", **resource}, *backs),
        )

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        """Send one request after the other; the last one is finished."""
        is_over = asyncio.Event()

        async def send() -> None:
            while not is_over.is_set():
                answer = await self._client.export(self._calls().SerializeToString(), self.tenant)
                assert answer.is_accepted, answer
                self.acknowledged += 2 * TRACES_PER_REQUEST
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            try:
                yield
            finally:
                is_over.set()

    async def change(self, settings: Settings, **expected: bool) -> None:
        """Change the settings; see that each selector soon has series, or none, as is expected of it."""
        await self._service.put_tenants(**{self.tenant: settings})
        await self.has(**expected)

    async def has(self, **expected: bool) -> None:
        """Wait at most one collection until each selector has series, or none."""
        seen: dict[str, list[Any]] = {}

        async def is_so() -> bool:
            seen.update({selector: await self.now(selector) for selector in expected})
            return all(bool(seen[selector]) == is_there for selector, is_there in expected.items())

        await eventually(is_so, IN_EFFECT_S, lambda: f"expected {expected}, got {seen}")

    async def now(self, selector: str) -> list[dict[str, Any]]:
        """Return the tenant's series that have a value right now."""
        return await self._prometheus.query(self._own(selector))

    async def history(self, selector: str) -> dict[frozenset[tuple[str, str]], list[float]]:
        """Return every value that the series ever had; staleness markers are not among them."""
        found = await self._prometheus.query(f"{self._own(selector)}[30m]")
        return {frozenset(each["metric"].items()): [float(value) for _, value in each["values"]] for each in found}

    async def total(self, name: str) -> float:
        """Return what a counter came to, over all label sets that it ever had and all their lives."""
        return sum(sum(increases(values)) for values in (await self.history(name)).values())

    async def assert_unbroken(self, since: float, *selectors: str) -> None:
        """See that series never ended, fell or began anew since then: by Prometheus' judgement, and by their values."""
        for selector in selectors:
            window = f"{self._own(selector)}[{math.ceil(time.time() - since)}s]"
            resets = await self._prometheus.query(f"resets({window})")
            assert {each["value"][1] for each in resets} == {"0"}, (selector, resets)
            for each in await self._prometheus.query(window):
                values = [float(value) for _, value in each["values"]]
                assert values == sorted(values), each
                # A series that begins has a zero sample: one that goes on has none.
                assert values[0] > 0 or not any(values), each

    async def exemplar_labels(self, since: float) -> set[str]:
        """Return the names of the labels of all exemplars since then."""
        selector = self._own(f"{LATENCY}_bucket")
        found = await self._prometheus.query_exemplars(selector, start=since, end=time.time() + 1)
        return {name for each in found for exemplar in each["exemplars"] for name in exemplar["labels"]}

    async def until_all_counted(self, uncounted: int = 0) -> None:
        """Wait until exactly what was acknowledged and not filtered is counted, over all label sets ever.

        Args:
            uncounted: spans that came while nothing was generated.
        """
        seen: list[float] = []

        async def are_counted() -> bool:
            filtered = await self._service.metric(
                "millrace_spans_discarded_total",
                tenant=self.tenant,
                stage="span_metrics",
                reason="span_metrics_filtered",
            )
            seen[:] = [await self.total(CALLS), self.acknowledged - filtered - uncounted]
            return seen[0] == seen[1]

        await eventually(are_counted, 30, lambda: f"counted and expected: {seen}")

    def _own(self, selector: str) -> str:
        name, _, labels = selector.partition("{")
        return f'{name}{{tenant="{self.tenant}",{labels or "}"}'


def increases(values: list[float]) -> list[float]:
    """Return by how much a counter grew from each value to the next; it begins at zero each time that it begins."""
    return [after - before if after >= before else after for before, after in itertools.pairwise([0.0, *values])]


@asynccontextmanager
async def opened(tenant: str, service: MillraceProcess, prometheus: Prometheus) -> AsyncIterator[Shop]:
    async with GrpcClient(service.grpc_port) as client:
        shop = Shop(tenant, service, prometheus, client)
        await shop.change(FIRST)
        yield shop


Step = Callable[[Shop, float], Awaitable[None]]


async def change_dimensions(shop: Shop, since: float) -> None:
    with_region = f'{CALLS}{{region="north"}}'
    await shop.change(first_with(dimensions=["region"]), **{with_region: True})
    # Spans without the attribute could still become these: they stay until they are stale.
    assert await shop.now(f'{CALLS}{{region=""}}')
    await shop.change(FIRST, **{with_region: False})
    await shop.assert_unbroken(since, f'{CALLS}{{region="",job=""}}', f'{SIZE}{{region="",job=""}}', EDGES)


async def change_buckets(shop: Shop, since: float) -> None:
    bucket = f"{LATENCY}_bucket"
    await shop.change(
        first_with(histogram_buckets=[0.1, 0.5, 1]),
        **{f'{bucket}{{le="0.5"}}': True, f'{bucket}{{le="0.3"}}': False},
    )
    await shop.change(FIRST, **{f'{bucket}{{le="0.5"}}': False, f'{bucket}{{le="0.3"}}': True})
    await shop.assert_unbroken(since, *(f'{bucket}{{le="{le}",region="",job=""}}' for le in ("0.1", "1", "+Inf")))
    await shop.assert_unbroken(since, f'{LATENCY}_count{{region="",job=""}}', f'{LATENCY}_sum{{region="",job=""}}')


async def change_form_of_histograms(shop: Shop, since: float) -> None:
    server_seconds = "traces_service_graph_request_server_seconds"
    for mode, has_classic, has_native in (
        ("native", False, True),
        ("both", True, True),
        ("classic", True, False),
    ):
        await shop.change(
            {**FIRST, "generate_native_histograms": mode},
            **{
                f"{LATENCY}_count": has_classic,
                f"{LATENCY}_bucket": has_classic,
                f"{server_seconds}_sum": has_classic,
                LATENCY: has_native,
                server_seconds: has_native,
            },
        )
    await shop.assert_unbroken(since, f'{CALLS}{{region="",job=""}}', f'{SIZE}{{region="",job=""}}', EDGES)


async def change_filter_policies(shop: Shop, since: float) -> None:
    of_clients = f'{CALLS}{{span_kind="SPAN_KIND_CLIENT"}}'
    block = {"match_type": "strict", "attributes": [{"key": "kind", "value": "SPAN_KIND_CLIENT"}]}
    await shop.change(first_with(filter_policies=[{"exclude": block}]))
    await asyncio.sleep(1.5)
    before = await shop.now(of_clients)
    servers_before = await shop.now(f'{CALLS}{{span_kind="SPAN_KIND_SERVER"}}')
    await asyncio.sleep(1.5)
    assert _values(await shop.now(of_clients)) == _values(before)
    assert _values(await shop.now(f'{CALLS}{{span_kind="SPAN_KIND_SERVER"}}')) != _values(servers_before)
    await shop.change(FIRST)

    async def are_counted_again() -> bool:
        return _values(await shop.now(of_clients)) != _values(before)

    await eventually(are_counted_again, IN_EFFECT_S, lambda: "clients are still filtered")
    await shop.assert_unbroken(since, f'{CALLS}{{region="",job=""}}', f'{LATENCY}_count{{region="",job=""}}', EDGES)


async def switch_processors_off_and_on(shop: Shop, since: float) -> None:
    only_calls = {**FIRST, "processors": ["span-metrics-count", "span-metrics-latency"]}
    gone = {SIZE: False, EDGES: False, "traces_host_info": False}
    await shop.change(only_calls, **gone, **{CALLS: True, f"{LATENCY}_count": True})
    await shop.change(FIRST, **dict.fromkeys(gone, True))
    await shop.assert_unbroken(since, f'{CALLS}{{region="",job=""}}', f'{LATENCY}_count{{region="",job=""}}')


async def switch_target_info_on_and_off(shop: Shop, since: float) -> None:
    plain, with_job = f'{CALLS}{{job=""}}', f'{CALLS}{{job!=""}}'
    await shop.change(first_with(enable_target_info=True), **{INFO: True, with_job: True, plain: False})
    assert {each["value"][1] for each in await shop.now(INFO)} == {"1"}
    await shop.change(FIRST, **{INFO: False, with_job: False, plain: True})
    await shop.assert_unbroken(since, EDGES)


async def change_trace_id_label(shop: Shop, since: float) -> None:
    await shop.change({**FIRST, "trace_id_label_name": "tid"})

    seen: set[str] = set()

    async def is_used() -> bool:
        seen.update(await shop.exemplar_labels(since))
        return "tid" in seen

    await eventually(is_used, IN_EFFECT_S, lambda: f"labels of exemplars: {seen}")
    assert seen <= {"tid", "traceID"}
    await shop.change(FIRST)


def _values(found: list[dict[str, Any]]) -> list[str]:
    return [each["value"][1] for each in found]


STEPS: Final[tuple[Step, ...]] = (
    change_trace_id_label,
    change_dimensions,
    change_buckets,
    change_filter_policies,
    switch_processors_off_and_on,
    change_form_of_histograms,
    switch_target_info_on_and_off,
)


async def test_settings_that_change_under_load_take_effect_and_lose_no_span(
    service: MillraceProcess, prometheus: Prometheus
) -> None:
    async with opened("changing", service, prometheus) as shop:
        async with shop.under_load():
            await shop.has(**{CALLS: True, SIZE: True, EDGES: True, f"{LATENCY}_count": True, "traces_host_info": True})
            for step in STEPS:
                await asyncio.sleep(2)  # samples that are no beginnings
                await step(shop, time.time())
        await shop.until_all_counted()
        # Nothing is there twice, and nothing is left of what was there for a while.
        assert len(await shop.now(CALLS)) == 2 + len(await shop.now(f'{CALLS}{{region="north"}}'))


async def test_tenant_whose_processors_are_all_taken_away_ends_and_begins_anew(
    service: MillraceProcess, prometheus: Prometheus
) -> None:
    async with opened("on-and-off", service, prometheus) as shop:
        async with shop.under_load():
            await shop.has(**{CALLS: True, EDGES: True})
        await shop.until_all_counted()
        before_off = shop.acknowledged
        await shop.change({**FIRST, "processors": []}, **{CALLS: False, EDGES: False, "traces_host_info": False})
        async with shop.under_load():
            await asyncio.sleep(1)
        while_off = shop.acknowledged - before_off
        assert while_off > 0
        assert await shop.now('{__name__=~".+"}') == []
        await shop.change(FIRST)
        async with shop.under_load():
            await shop.has(**{CALLS: True, EDGES: True})
        await shop.until_all_counted(while_off)
        assert shop.acknowledged > before_off + while_off
