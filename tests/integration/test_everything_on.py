"""Every setting of a tenant in force at once, on real load: what Prometheus then holds is what the model says.

A setting that comes anew must be added to ``every_setting``, and the load must show it.
"""

import asyncio
import math
import random
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import pytest
import pytest_asyncio
from pydantic import BaseModel

from tenants.settings.overrides import GeneratorOverrides
from tenants.settings.processors import ProcessorOverrides
from tests import traces
from tests.integration.comparison import PART, assert_has, assert_has_exemplars, flat, series_of, with_labels
from tests.integration.every_setting import (
    AS_TEMPO,
    DATABASE_NAMES,
    EACH_SPAN_ONCE,
    EXTERNAL,
    MAX_LABEL_NAME,
    MAX_LABEL_VALUE,
    PROCESSOR,
    TRACE_ID_LABEL,
    WAIT_S,
    Plan,
    entry,
    plan,
)
from tests.integration.otlp_client import GrpcClient
from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import CALLS, until_counted
from tests.integration.varied_load import streams
from tests.integration.waiting import eventually
from tests.prometheus import Prometheus
from tests.reference import Collection, ReferenceModel
from tests.reference_metrics import SeriesKey

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

Requests = Sequence[Sequence[Any]]

STREAMS: Final = 4
TENANTS: Final = {"everything-on": PROCESSOR, "everything-as-tempo": AS_TEMPO}
NATIVE: Final = (
    *("traces_spanmetrics_latency", "traces_service_graph_request_client_seconds"),
    *("traces_service_graph_request_server_seconds", "traces_service_graph_request_messaging_system_seconds"),
)
EDGES: Final = "traces_service_graph_request_total"
LATENCY: Final = "traces_spanmetrics_latency"
INFO: Final = {"traces_target_info", "shop:hosts", "traces_service_graph_connection_info"}
METRICS: Final = {
    *(CALLS, "traces_spanmetrics_size_total", EDGES, "traces_service_graph_request_failed_total"),
    *INFO,
    *(f"{name}{suffix}" for name in NATIVE for suffix in ("", "_bucket", "_count", "_sum")),
}


def counted(plan: Plan, requests: Requests, now_ns: int) -> ReferenceModel:
    """Return the model that has seen all requests, stream by stream, and every wait of an edge over."""
    model = ReferenceModel(plan, strict_ids=True)
    for request in (request for stream in requests for request in stream):
        model.push(request, now_ns)
    model.flush(now_ns, close_edges=True)
    return model


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service() -> AsyncIterator[MillraceProcess]:
    """A service whose own settings are not the tenants', where those can differ."""
    generator = {
        "registry": {
            "collection_interval": "1m",
            "external_labels": EXTERNAL,
            "max_label_name_length": MAX_LABEL_NAME,
            "max_label_value_length": MAX_LABEL_VALUE,
        },
        "processor": {"service_graphs": {"wait": f"{WAIT_S:.0f}s", "database_name_attributes": DATABASE_NAMES}},
    }
    async with MillraceProcess({"metrics_generator": generator}) as running:
        yield running


async def send(client: GrpcClient, tenant: str, requests: Requests) -> int:
    """Send the streams side by side, each in its order; return how many spans were rejected.

    Within a stream order matters: what an edge becomes depends on which of its spans came first.
    """
    started = time.monotonic()

    async def send_one(stream: Sequence[Any]) -> int:
        rejected = 0
        for request in stream:
            answer = await client.export(request.SerializeToString(), tenant)
            assert answer.is_accepted, answer
            rejected += answer.rejected_spans
        return rejected

    rejected = sum(await asyncio.gather(*map(send_one, requests)))
    assert time.monotonic() - started < WAIT_S, "edges may have expired while they were sent: the machine is busy"
    return rejected


async def test_every_setting_there_is_is_set() -> None:
    of_processors = ProcessorOverrides.model_fields.keys()
    assert entry(Prometheus(), PROCESSOR).keys() == GeneratorOverrides.model_fields.keys()
    assert PROCESSOR.keys() == of_processors
    for name in of_processors:
        fields = ProcessorOverrides.model_fields[name].annotation
        assert fields is not None
        assert issubclass(fields, BaseModel)
        assert PROCESSOR[name].keys() == fields.model_fields.keys()


EVERYTHING: Final = plan(PROCESSOR)
DEFAULTS: Final = traces.plan(traces.span_metrics_plan(), traces.service_graphs_plan(), traces.host_info_plan())
# Limits are not met, times pass differently, and the model's exemplars have no label.
UNSHOWN: Final = {
    *("stale_duration_s", "limiter_type", "max_active_series", "max_active_entities", "max_cardinality_per_label"),
    *("trace_id_label_name", "span_name_sanitization", "native_min_reset_duration_s", "wait_s", "max_items"),
    *("request", "latency", "count", "size"),
    # Of ingestion, not of the processors: tenancy case 100 shows it.
    "max_attribute_bytes",
}


async def test_load_shows_every_setting() -> None:
    now_ns = time.time_ns()
    requests = streams(random.Random(3), now_ns, count=1, traces_each=60, spans_per_request=60)
    everything = counted(EVERYTHING, requests, now_ns).collect()

    def shows(changed: Plan) -> bool:
        return counted(changed, requests, now_ns).collect() != everything

    hidden = []
    for name, value in EVERYTHING.items():
        if not isinstance(value, dict):
            if name not in UNSHOWN and not shows(EVERYTHING | {name: DEFAULTS[name]}):
                hidden.append(name)
            continue
        for setting in value.keys() - UNSHOWN:
            changed = {**EVERYTHING, name: value | {setting: DEFAULTS[name][setting]}}
            if not shows(changed):
                hidden.append(f"{name}.{setting}")
    assert hidden == []


async def test_everything_on_is_counted_as_the_model_counts(service: MillraceProcess, prometheus: Prometheus) -> None:
    await service.put_tenants(**{tenant: entry(prometheus, processor) for tenant, processor in TENANTS.items()})
    now_ns = time.time_ns()
    requests = streams(random.Random(5), now_ns, count=STREAMS, traces_each=120, spans_per_request=50)
    models = {tenant: counted(plan(processor), requests, now_ns) for tenant, processor in TENANTS.items()}
    async with GrpcClient(service.grpc_port) as client:
        rejected = await asyncio.gather(*(send(client, tenant, requests) for tenant in models))
    for (tenant, model), spans in zip(models.items(), rejected, strict=True):
        assert spans == sum(model.rejected.values()) > 0
        collected = model.collect()
        assert_is_varied(collected)
        expected = with_labels(collected.series | flat(collected.histograms), EXTERNAL)
        await assert_has(prometheus, tenant, expected, is_weighted=True)
        await assert_counters_alike(service, tenant, model)
        exemplars = counted(plan(TENANTS[tenant]), requests, now_ns)
        sent = [request for stream in requests for request in stream]
        await assert_has_exemplars(
            prometheus, tenant, exemplars, sent, trace_id_label=TRACE_ID_LABEL, external=EXTERNAL
        )


def assert_is_varied(collected: Collection) -> None:
    """See that no metric and no kind of edge is missing from the load."""
    series = [dict(key) for key in collected.series.keys() | collected.histograms.keys()]
    assert {labels["__name__"] for labels in series} == METRICS
    edges = [labels for labels in series if labels["__name__"] == EDGES]
    assert {labels.get("connection_type", "") for labels in edges} == {
        *("", "virtual_node", "database", "messaging_system")
    }
    assert {labels.get("virtual_node", "") for labels in edges} >= {"", "client", "server"}
    schemas = {histogram.schema for histogram in collected.histograms.values()}
    assert len(schemas) > 2, "native histograms keep their resolution"
    assert any(histogram.zero_count for histogram in collected.histograms.values())


async def assert_counters_alike(service: MillraceProcess, tenant: str, model: ReferenceModel) -> None:
    """See that the service says of the tenant what the model does: received, set aside, edges and names."""
    processor = "millrace_processor_service_graphs_"
    expected: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {
        ("millrace_spans_received_total", ()): model.received_spans - sum(model.rejected.values()),
        ("millrace_ignored_span_multipliers_total", ()): model.ignored_multipliers,
        (f"{processor}edges_total", ()): model.edges,
        (f"{processor}dropped_spans_total", ()): model.dropped_spans,
        (f"{processor}dropped_edges_total", ()): model.dropped_edges,
        ("millrace_registry_series_limited_total", ()): 0,
        ("millrace_registry_label_values_limited_total", ()): 0,
    }
    more = {("service_graphs", "invalid_utf8"): model.invalid_edges}
    more |= {("gateway", reason): spans for reason, spans in model.rejected.items()}
    for (stage, reason), spans in (model.discarded | more).items():
        assert spans, (stage, reason)
        expected["millrace_spans_discarded_total", (("stage", stage), ("reason", reason))] = spans
    for kind, edges in model.expired_edges.items():
        expected[f"{processor}expired_edges_total", (("unmatched_span_kind", kind),)] = edges
    seen = {(name, labels): await service.metric(name, tenant=tenant, **dict(labels)) for name, labels in expected}
    assert seen == expected
    assert await service.metric("millrace_registry_spans_sanitized_total", tenant=tenant) > 0, "no dry run"


MAX_SERIES: Final = 3_000
MAX_USERS: Final = 20
LABEL_LIMITED: Final = "millrace_registry_label_values_limited_total"
NAMES: Final = re.compile(r"GET /user/\d+/cart")


def crowd(rng: random.Random, users: str, *, traces_each: int) -> Requests:
    """Return varied load of many users, each span of which has a name of its own."""
    requests = streams(rng, time.time_ns(), count=STREAMS, traces_each=traces_each, spans_per_request=50)
    for group in (group for stream in requests for request in stream for group in request.resource_spans):
        for span in group.scope_spans[0].spans:
            span.name = f"GET /user/{rng.randrange(10_000)}/cart".encode()
            user = f"{users}-{rng.randrange(3 * MAX_USERS)}"
            span.attributes.extend(traces.key_values({"enduser.id": user}))
    return requests


async def test_limits_leave_every_total_as_it_is(service: MillraceProcess, prometheus: Prometheus) -> None:
    tenant, rng = "everything-limited", random.Random(7)
    limits = {
        "max_active_series": MAX_SERIES,
        "max_cardinality_per_label": MAX_USERS,
        "span_name_sanitization": "enabled",
    }
    await service.put_tenants(**{tenant: entry(prometheus, EACH_SPAN_ONCE, **limits)})
    unlimited = ReferenceModel(plan(EACH_SPAN_ONCE), strict_ids=True)
    async with GrpcClient(service.grpc_port) as client:

        async def send_and_count(requests: Requests) -> None:
            now_ns = time.time_ns()
            for request in (request for stream in requests for request in stream):
                unlimited.push(request, now_ns)
            await send(client, tenant, requests)

        await send_and_count(crowd(rng, "early", traces_each=4))

        async def is_label_limited() -> bool:
            # A label is only looked at when another label set comes (processors §4.8).
            now_ns = time.time_ns()
            times = {"start_ns": now_ns, "end_ns": now_ns}
            span = traces.span(trace_id=rng.randbytes(16), attributes={"enduser.id": "early-0"}, **times)
            await send_and_count([[traces.request(traces.batch({}, span))]])
            return await service.metric(LABEL_LIMITED, tenant=tenant, label_name="enduser_id") > 0

        await eventually(is_label_limited, 40, lambda: "enduser_id has too many values and is not limited")
        await send_and_count(crowd(rng, "late", traces_each=100))
    unlimited.flush(time.time_ns(), close_edges=True)
    collected = unlimited.collect()
    expected = totals(collected.series | flat(collected.histograms))
    series = await until_summed(prometheus, tenant, expected)
    seen = totals(series)
    spans = unlimited.received_spans - sum(unlimited.rejected.values())
    spans -= unlimited.discarded["gateway", "outside_metrics_ingestion_slack"]
    spans -= unlimited.discarded["span_metrics", "invalid_utf8"]
    assert seen[CALLS, "", ""] == seen[f"{LATENCY}_count", "", ""] == seen[LATENCY, "", "count"] == spans

    overflow = {dict(key)["__name__"] for key in series if dict(key).get("metric_overflow") == "true"}
    assert overflow >= {CALLS, LATENCY, f"{LATENCY}_bucket", f"{LATENCY}_sum", EDGES}
    assert await service.metric("millrace_registry_series_limited_total", tenant=tenant) > 0
    within = await prometheus.query(f'count({{tenant="{tenant}",metric_overflow=""}})')
    active = await service.metric("millrace_registry_active_series", tenant=tenant)
    assert float(within[0]["value"][1]) == active
    assert MAX_SERIES - 20 < active <= MAX_SERIES

    users = {dict(key).get("enduser_id", "") for key in series}
    assert "__cardinality_overflow__" in users
    assert any(user.startswith("early") for user in users)
    assert not any(user.startswith("late") for user in users)
    names = {dict(key).get("span_name", "") for key in series}
    assert "GET /user/<_>/cart" in names
    assert len([name for name in names if NAMES.fullmatch(name)]) <= 1


def totals(series: Mapping[SeriesKey, float]) -> dict[tuple[str, str, str], float]:
    """Return the sums of counters, bucket by bucket, and of counts and sums of native histograms, by name."""
    terms: dict[tuple[str, str, str], list[float]] = {}
    for key, value in series.items():
        labels = dict(key)
        name, part = labels["__name__"], labels.get(PART, "")
        if name not in INFO and part in ("", "count", "sum"):
            terms.setdefault((name, labels.get("le", ""), part), []).append(value)
    return {key: math.fsum(values) for key, values in terms.items()}


async def until_summed(
    prometheus: Prometheus, tenant: str, expected: Mapping[tuple[str, str, str], float]
) -> dict[SeriesKey, float]:
    """Wait until the series have these totals, and return them."""
    calls = expected[CALLS, "", ""]
    await until_counted(prometheus, calls, tenant=tenant)
    series: dict[SeriesKey, float] = {}
    differing: dict[tuple[str, str, str], tuple[float | None, float | None]] = {}

    async def have_them() -> bool:
        series.clear()
        series.update(await series_of(prometheus, tenant))
        seen = totals(series)
        both = {key: (expected.get(key), seen.get(key)) for key in expected.keys() | seen.keys()}
        differing.clear()
        differing.update((key, pair) for key, pair in both.items() if None in pair or not math.isclose(*pair))
        return not differing

    await eventually(have_them, 3 * WAIT_S, lambda: f"expected totals and those seen: {differing}")
    return series
