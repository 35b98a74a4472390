"""Where a tenant's settings come from: cases 17 to 30, as requests and metrics show it.

Two services with the same layers; one inherits field by field, the other uses entries whole, as the reference does.
"""

import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest
import pytest_asyncio

from tests import traces
from tests.integration.comparison import series_of
from tests.integration.load import SECOND_NS
from tests.integration.otlp_client import GrpcClient, HttpClient
from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import CALLS, until_counted
from tests.integration.tenancy.case import case
from tests.integration.tenancy.running_api import DOCUMENTS, RunningApi
from tests.integration.tenancy.sized_request import sized_request
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

EDGES: Final = "traces_service_graph_request_total"
MESSAGING: Final = "traces_service_graph_request_messaging_system_seconds_count"
BOTH: Final = ["span-metrics", "service-graphs"]
DEFAULT_RATE: Final = 40_000
DEFAULT_BURST: Final = 20_000
DEFAULTS: Final[Mapping[str, Any]] = {
    "ingestion": {
        "rate_strategy": "local",
        "rate_limit_bytes": DEFAULT_RATE,
        "burst_size_bytes": DEFAULT_BURST,
        "retry_info_enabled": True,
    },
    "metrics_generator": {"max_cardinality_per_label": 500, "span_name_sanitization": "enabled"},
}
STATIC: Final[Mapping[str, Any]] = {
    "span_metrics": {"dimensions": ["region"]},
    "service_graphs": {"dimensions": ["region"], "enable_client_server_prefix": True},
}
# So that an entry that is used whole lets anything in.
AMPLE: Final = {"rate_limit_bytes": 1_000_000, "burst_size_bytes": 1_000_000}
_ANSWERED_IN_REQUESTS: Final = 100


@dataclass(frozen=True)
class Layered:
    """One of the services, and the ways in.

    Attributes:
        mode: its ``overrides.inheritance``.
    """

    mode: str
    service: MillraceProcess
    prometheus: Prometheus
    grpc: GrpcClient
    http: HttpClient

    async def in_force(self, tenant: str, key: str) -> tuple[Any, str]:
        """Return the value of a setting and the layer that it comes from."""
        shown = await self.service.ask("GET", f"/status/overrides/{tenant}", accept="application/json")
        found = shown.raise_for_status().json()["settings"][key]
        return found["value"], found["source"]

    async def rate_and_burst(self, tenant: str) -> tuple[int, int]:
        """Send until that is too much; return the limits that the answer names."""
        for _ in range(_ANSWERED_IN_REQUESTS):
            answer = await self.grpc.export(sized_request(3000), tenant)
            if not answer.is_accepted:
                break
        found = re.search(
            r"^RATE_LIMITED: .*\(local: (\d+) bytes/s, global: none, burst: (\d+) bytes\)", answer.message
        )
        assert answer.status == "RESOURCE_EXHAUSTED", answer
        assert found, answer
        return int(found[1]), int(found[2])

    async def send(self, tenant: str, *names: str, is_messaging: bool = False) -> None:
        """Send calls, each with both its halves; they are two spans."""
        answer = await self.grpc.export(calls(names or ("work",), is_messaging=is_messaging), tenant)
        assert answer.is_accepted, answer

    async def labels(self, tenant: str, name: str) -> set[str]:
        """Wait for a metric; return the names of its labels."""
        found: list[dict[str, Any]] = []

        async def is_there() -> bool:
            found[:] = await self.prometheus.query(f'{name}{{tenant="{tenant}"}}')
            return bool(found)

        await eventually(is_there, 30, lambda: f"no {name} of {tenant}")
        return {label for each in found for label in each["metric"]} - {"__name__", "tenant"}

    async def ever_had(self, tenant: str, prefix: str) -> bool:
        """Whether there was any metric with this beginning, until now."""
        return bool(await self.prometheus.series(f'{{__name__=~"{prefix}.*",tenant="{tenant}"}}'))

    @asynccontextmanager
    async def wildcard(self, entry: Mapping[str, Any]) -> AsyncIterator[None]:
        """Have an entry ``*`` for a while. Without a body it is an empty entry, or none if entries are used whole."""
        await self.service.put_entries(**{"*": entry})
        try:
            yield
        finally:
            await self.service.put_entries(**{"*": None})  # type: ignore[arg-type]


def calls(names: tuple[str, ...], *, is_messaging: bool) -> bytes:
    """Return calls from web to shop, by message or not."""
    now_ns = time.time_ns()
    fronts, backs = [], []
    ours, theirs = (traces.PRODUCER, traces.CONSUMER) if is_messaging else (traces.CLIENT, traces.SERVER)
    for number, name in enumerate(names):
        trace_id = (now_ns + number).to_bytes(16)
        sent: dict[str, Any] = {"start_ns": now_ns - SECOND_NS, "end_ns": now_ns - SECOND_NS // 2}
        fronts.append(traces.span("call", kind=ours, trace_id=trace_id, span_id=b"front...", **sent))
        came: dict[str, Any] = {"start_ns": now_ns - SECOND_NS // 4, "end_ns": now_ns, "parent": b"front..."}
        backs.append(traces.span(name, kind=theirs, trace_id=trace_id, span_id=b"back....", **came))
    request = traces.request(
        traces.batch({"service.name": "web", "region": "north"}, *fronts),
        traces.batch({"service.name": "shop", "region": "south"}, *backs),
    )
    body: bytes = request.SerializeToString()
    return body


def entry(**generator: Any) -> dict[str, Any]:
    return {"ingestion": AMPLE, "metrics_generator": {"processors": BOTH, **generator}}


async def started(mode: str, prometheus: Prometheus) -> AsyncIterator[Layered]:
    config = {
        "remote_write": [{"url": prometheus.url}],
        "overrides": {"inheritance": mode, "defaults": DEFAULTS, "user_configurable_overrides": DOCUMENTS},
        "metrics_generator": {"processor": STATIC},
    }
    async with (
        MillraceProcess(config) as running,
        GrpcClient(running.grpc_port) as grpc,
        HttpClient(running.otlp_http_port) as http,
    ):
        yield Layered(mode, running, prometheus, grpc, http)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def inheriting(prometheus: Prometheus) -> AsyncIterator[Layered]:
    """Entries inherit field by field."""
    async for layered in started("inherit", prometheus):
        yield layered


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def replacing(prometheus: Prometheus) -> AsyncIterator[Layered]:
    """Entries are used whole."""
    async for layered in started("replace", prometheus):
        yield layered


@pytest.fixture(params=["inheriting", "replacing"])
def either(request: pytest.FixtureRequest) -> Layered:
    """One after the other."""
    found: Layered = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def api(inheriting: Layered, request: pytest.FixtureRequest) -> RunningApi:
    """The API of documents, with tenants that end in the number of the test's case."""
    return RunningApi(inheriting.service, request.function.__name__.split("_")[1])


ONLY_PROCESSORS: Final = {"metrics_generator": {"processors": BOTH}}


@case(17)
async def test_17_an_entry_used_whole_has_no_rate_but_its_own(replacing: Layered) -> None:
    await replacing.service.put_entries(seventeen=ONLY_PROCESSORS)
    assert await replacing.rate_and_burst("seventeen") == (0, 0)
    answer = await replacing.http.export(sized_request(300), "seventeen")
    assert (answer.status, answer.code, answer.retry_after, answer.retry_delay_s) == ("429", 8, None, None)
    for key in ("ingestion.rate_limit_bytes", "ingestion.burst_size_bytes"):
        assert await replacing.in_force("seventeen", key) == (0, "tenant (unset)")


@case(18)
async def test_18_the_same_entry_inherits_the_rate(inheriting: Layered) -> None:
    await inheriting.service.put_entries(eighteen=ONLY_PROCESSORS)
    await inheriting.send("eighteen")
    await until_counted(inheriting.prometheus, 2, tenant="eighteen")
    assert await inheriting.rate_and_burst("eighteen") == (DEFAULT_RATE, DEFAULT_BURST)
    assert await inheriting.in_force("eighteen", "ingestion.rate_limit_bytes") == (DEFAULT_RATE, "defaults")


@case(19)
async def test_19_the_entry_goes_before_the_wildcard(either: Layered) -> None:
    wildcard = {"ingestion": {"rate_limit_bytes": 5000, "burst_size_bytes": 7000}}
    await either.service.put_entries(nineteen={"ingestion": {"rate_limit_bytes": 9000}})
    async with either.wildcard(wildcard):
        # Of the wildcard it has the burst, or nothing.
        burst = 7000 if either.mode == "inherit" else 0
        assert await either.rate_and_burst("nineteen") == (9000, burst)
        assert await either.rate_and_burst("nobody-19") == (5000, 7000)


@case(20)
async def test_20_who_has_no_entry_has_the_wildcard(either: Layered) -> None:
    wildcard = {
        "ingestion": {"rate_limit_bytes": 5000, "burst_size_bytes": 7000},
        "metrics_generator": {"processors": ["span-metrics-count"]},
    }
    key, nobody = "metrics_generator.max_cardinality_per_label", f"nobody-{either.mode}"
    assert await either.in_force(nobody, key) == (500, "defaults")
    async with either.wildcard(wildcard):
        await either.send(nobody)
        await until_counted(either.prometheus, 2, tenant=nobody)
        assert await either.rate_and_burst(nobody) == (5000, 7000)
        left_out = (500, "defaults") if either.mode == "inherit" else (0, "wildcard (unset)")
        assert await either.in_force(nobody, key) == left_out


STRATEGY: Final = {"ingestion": {**AMPLE, "rate_strategy": "global", "rate_limit_bytes": 1000}}


@case(21)
async def test_21_an_entry_used_whole_does_not_choose_the_strategy(replacing: Layered) -> None:
    await replacing.service.put_entries(strategist=STRATEGY)
    assert await replacing.in_force("strategist", "ingestion.rate_strategy") == ("local", "defaults")
    # The answer would name a rate of all gateways.
    await replacing.service.put_entries(
        strategist={"ingestion": {**STRATEGY["ingestion"], "burst_size_bytes": 3000}},
    )
    assert await replacing.rate_and_burst("strategist") == (1000, 3000)


@case(21)
async def test_21_an_entry_that_inherits_and_wants_to_choose_the_strategy_is_refused(inheriting: Layered) -> None:
    bad = await inheriting.service.break_runtime_file(json.dumps({"overrides": {"strategist": STRATEGY}}))
    assert "overrides.strategist.ingestion.rate_strategy (line 1): is one for all tenants" in bad["problem"]
    await inheriting.service.put_entries()


@case(22)
async def test_22_retry_info_is_inherited(either: Layered) -> None:
    limits = {"rate_limit_bytes": 1000, "burst_size_bytes": 2000}
    entries = {"told": {"ingestion": limits}, "untold": {"ingestion": {**limits, "retry_info_enabled": False}}}
    await either.service.put_entries(**entries)
    for tenant, is_told in (("told", True), ("untold", False)):
        for way, refused in ((either.grpc, "RESOURCE_EXHAUSTED"), (either.http, "429")):
            answers = [await way.export(sized_request(1500), tenant) for _ in range(3)]
            (first, *_) = (answer for answer in answers if not answer.is_accepted)
            assert (first.status, first.code, first.retry_delay_s is not None) == (refused, 8, is_told), first
            assert (first.retry_after is not None) == (is_told and way is either.http)


@case(23)
async def test_23_sanitization_of_span_names_is_inherited(either: Layered) -> None:
    tenant = f"orders-{either.mode}"
    await either.service.put_entries(**{tenant: entry()})
    await either.send(tenant, *(f"GET /orders/{number}" for number in range(20)))
    await until_counted(either.prometheus, 40, tenant=tenant)
    names = {dict(key)["span_name"] for key in await series_of(either.prometheus, tenant) if _name(key) == CALLS}
    # The first one was not known to be one of many.
    assert "GET /orders/<_>" in names
    assert len(names) <= 3
    assert await either.in_force(tenant, "metrics_generator.span_name_sanitization") == ("enabled", "defaults")


def _name(key: frozenset[tuple[str, str]]) -> str:
    return dict(key)["__name__"]


@case(24)
async def test_24_processors_of_the_document_replace_those_of_the_file(inheriting: Layered, api: RunningApi) -> None:
    tenant = api.name("acme")
    await inheriting.service.put_entries(**{tenant: entry()})
    await api.written("POST", {"metrics_generator": {"processors": ["service-graphs"]}}, If_Match="0")
    await inheriting.send(tenant)
    await inheriting.labels(tenant, EDGES)
    assert not await inheriting.ever_had(tenant, "traces_spanmetrics")
    assert await inheriting.in_force(tenant, "metrics_generator.processors") == (["service-graphs"], "api")


@case(25, 26)
async def test_25_an_empty_list_switches_off_and_26_null_goes_back_to_the_file(
    inheriting: Layered, api: RunningApi
) -> None:
    tenant, other = api.name("acme"), api.name("other")
    await inheriting.service.put_entries(**{tenant: entry(), other: entry()})
    await inheriting.send(tenant)
    await until_counted(inheriting.prometheus, 2, tenant=tenant)

    await api.written("PATCH", {"metrics_generator": {"processors": []}})
    assert await api.merged("processors") == []

    async def is_over() -> bool:
        return not await series_of(inheriting.prometheus, tenant)

    await eventually(is_over, 60, lambda: "series go on")
    await inheriting.send(tenant)
    await inheriting.send(other)
    await until_counted(inheriting.prometheus, 2, tenant=other)
    assert await is_over()

    await api.written("PATCH", {"metrics_generator": {"processors": None}})
    assert await api.merged("processors") == BOTH
    assert await inheriting.in_force(tenant, "metrics_generator.processors") == (BOTH, "tenant")
    await inheriting.send(tenant, "one", "two")
    await until_counted(inheriting.prometheus, 4, tenant=tenant)


@case(27)
async def test_27_an_empty_list_of_dimensions_is_empty(either: Layered) -> None:
    of, without = f"dimensions-of-{either.mode}", f"dimensions-without-{either.mode}"
    nothing = {"span_metrics": {"dimensions": []}}
    await either.service.put_entries(**{of: entry(), without: entry(processor=nothing)})
    intrinsic = {"service", "span_name", "span_kind", "status_code"}
    for tenant, labels in ((of, {*intrinsic, "region"}), (without, intrinsic)):
        await either.send(tenant)
        assert await either.labels(tenant, CALLS) == labels


@case(28)
async def test_28_intrinsic_dimensions_that_are_not_named_stay(either: Layered) -> None:
    tenant = f"intrinsic-{either.mode}"
    without_kind = {"span_metrics": {"intrinsic_dimensions": {"span_kind": False}}}
    await either.service.put_entries(**{tenant: entry(processor=without_kind)})
    await either.send(tenant)
    assert await either.labels(tenant, CALLS) == {"service", "span_name", "status_code", "region"}


@case(29)
async def test_29_the_document_switches_the_messaging_histogram_on(inheriting: Layered, api: RunningApi) -> None:
    on, off = api.name("on"), api.name("off")
    await inheriting.service.put_entries(**{on: entry(), off: entry()})
    switch = {"service_graphs": {"enable_messaging_system_latency_histogram": True}}
    await api.written("POST", {"metrics_generator": {"processor": switch}}, tenant="on", If_Match="0")
    for tenant in (off, on):
        await inheriting.send(tenant, is_messaging=True)
    await inheriting.labels(on, MESSAGING)
    await inheriting.labels(off, EDGES)
    assert not await inheriting.ever_had(off, MESSAGING)


@case(30)
async def test_30_the_document_switches_the_prefix_off(inheriting: Layered, api: RunningApi) -> None:
    on, off = api.name("on"), api.name("off")
    await inheriting.service.put_entries(**{on: entry(), off: entry()})
    switch = {"service_graphs": {"enable_client_server_prefix": False}}
    await api.written("POST", {"metrics_generator": {"processor": switch}}, tenant="off", If_Match="0")
    edge = {"client", "server"}
    for tenant, labels in ((on, {*edge, "client_region", "server_region"}), (off, {*edge, "region"})):
        await inheriting.send(tenant)
        assert await inheriting.labels(tenant, EDGES) == labels
