"""A real Prometheus takes what the sender sends, and refuses what the sender must not send again."""

import random
import shutil
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import snappy

from tenants import _engine
from tenants.endpoint import Batch, EndpointConfig, EndpointSender, HttpClients, Surroundings, SystemClock, suspicion
from tenants.endpoint.collection_encoder import CollectionEncoder
from tenants.endpoint.encoding import Encoding
from tenants.settings.protobuf_message import ProtobufMessage
from tests import traces
from tests.engine_driver import EngineDriver
from tests.prometheus import Prometheus
from tests.remote_write import SeriesKey, decode
from tests.remote_write_v2 import decode_v2
from tests.unit.fake_clock import FakeClock
from tests.unit.tenant_work import ACME, book, group, overrides

pytestmark = pytest.mark.integration

TRACE_ID = "463ac35c9f6413ad48485a3953bb6124"


@pytest.fixture
async def prometheus() -> AsyncIterator[Prometheus]:
    async with Prometheus() as server:
        yield server


@pytest.fixture
async def around() -> AsyncIterator[Surroundings]:
    async with HttpClients() as clients:
        yield Surroundings(clients, SystemClock(), random.Random(), "1.2.3")


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def part(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def labels(number: int, **pairs: str) -> bytes:
    return b"".join(part(number, part(1, name.encode()) + part(2, value.encode())) for name, value in pairs.items())


def point(value: float, timestamp_ms: int, *, first_field: int) -> bytes:
    """A double and an int64, as in Sample (fields 1, 2) and Exemplar (fields 2, 3)."""
    return (
        varint(first_field << 3 | 1) + struct.pack("<d", value) + varint((first_field + 1) << 3) + varint(timestamp_ms)
    )


def counter(value: float, timestamp_ms: int, *, trace_id: str = "") -> Batch:
    """A WriteRequest with one series, written out by hand (remote-write §1.1)."""
    series = labels(1, __name__="shop_calls_total", service="cart")
    series += part(2, point(value, timestamp_ms, first_field=1))
    if trace_id:
        series += part(3, labels(1, traceID=trace_id) + point(0.25, timestamp_ms, first_field=2))
    body = snappy.compress(part(1, series))
    return Batch(body, samples=1, exemplars=1 if trace_id else 0, series=1, timestamp_ms=timestamp_ms)


async def test_prometheus_stores_what_is_sent_and_returns_it(prometheus: Prometheus, around: Surroundings) -> None:
    now_ms = around.clock.now_ms()
    sender = EndpointSender("acme", EndpointConfig(prometheus.url), around)
    sender.start()
    sender.submit([counter(0, now_ms - 1000), counter(42, now_ms, trace_id=TRACE_ID)])
    assert await sender.drain(10)
    await sender.close()

    counters = sender.snapshot()
    assert (counters.samples_sent, counters.exemplars_sent, counters.samples_failed) == (2, 1, {})
    (found,) = await prometheus.query("shop_calls_total", time=now_ms / 1000)
    assert found["metric"] == {"__name__": "shop_calls_total", "service": "cart"}
    assert found["value"][1] == "42"
    (before,) = await prometheus.query("shop_calls_total", time=now_ms / 1000 - 0.5)
    assert before["value"][1] == "0"
    assert await prometheus.series('{service="cart"}') == [found["metric"]]
    (exemplars,) = await prometheus.query_exemplars(
        "shop_calls_total", start=now_ms / 1000 - 60, end=now_ms / 1000 + 60
    )
    assert exemplars["seriesLabels"] == found["metric"]
    (exemplar,) = exemplars["exemplars"]
    assert (exemplar["labels"], exemplar["value"]) == ({"traceID": TRACE_ID}, "0.25")


async def test_prometheus_takes_a_repeat_and_its_refusal_is_counted(
    prometheus: Prometheus, around: Surroundings
) -> None:
    now_ms = around.clock.now_ms()
    sender = EndpointSender("acme", EndpointConfig(prometheus.url), around)
    sender.start()
    sender.submit([counter(1, now_ms), counter(1, now_ms)])  # as after a lost 204
    assert await sender.drain(10)
    sender.submit([counter(0, now_ms - 1000), counter(2, now_ms + 1)])
    assert await sender.drain(10)
    await sender.close()

    counters = sender.snapshot()
    assert (counters.samples_sent, counters.samples_failed, counters.retries) == (3, {"http_400": 1}, 0)
    (found,) = await prometheus.query("shop_calls_total", time=now_ms / 1000 + 1)
    assert found["value"][1] == "2"


async def test_prometheus_that_knows_only_1_0_gets_everything_that_was_made_as_2_0(
    prometheus: Prometheus, around: Surroundings
) -> None:
    started_ms = around.clock.now_ms() - 60_000
    tenant = EngineDriver(
        traces.plan(span_metrics=traces.span_metrics_plan(), histograms=traces.histograms_plan("both")),
        started_at_ms=started_ms,
    )
    expected: dict[SeriesKey, list[tuple[int, float]]] = {}
    batches = []
    for round_number in range(1, 4):
        now_ms = started_ms + round_number * 15_000
        start_ns = now_ms * 1_000_000
        span = traces.span("op", trace_id=bytes([round_number]) * 16, start_ns=start_ns, end_ns=start_ns + 40_000_000)
        tenant.push(traces.request(traces.batch({"service.name": "shop"}, span)), start_ns)
        tenant.flush(start_ns)
        (made,) = tenant.registry.collect(now_ms, [], 2000, ProtobufMessage.V2.value)
        samples = made.samples + made.histograms
        batches.append(Batch(made.body, samples, made.exemplars, made.series, now_ms, ProtobufMessage.V2))
        for key, each in decode_v2(made.body).series.items():
            expected.setdefault(key, []).extend(each.series.samples)

    sender = EndpointSender("acme", EndpointConfig(prometheus.url), around)
    sender.start()
    sender.submit(batches)
    assert await sender.drain(10)
    await sender.close()

    counters = sender.snapshot()
    assert (counters.samples_sent, counters.samples_failed) == (sum(batch.samples for batch in batches), {})
    assert (counters.message, counters.fallbacks) == (ProtobufMessage.V1, 1)
    for key, samples in expected.items():
        if not samples:
            continue
        selector = ",".join(f'{name}="{value}"' for name, value in key if name != "__name__")
        metric = dict(key)["__name__"]
        (found,) = await prometheus.query(f"{metric}{{{selector}}}[5m]", time=started_ms / 1000 + 60)
        assert [(round(at_s * 1000), float(value)) for at_s, value in found["values"]] == samples
    native = "traces_spanmetrics_latency"
    (increase,) = await prometheus.query(f"histogram_count(increase({native}[1m]))", time=started_ms / 1000 + 46)
    assert float(increase["value"][1]) > 2.9
    exemplars = await prometheus.query_exemplars(native, start=started_ms / 1000, end=started_ms / 1000 + 60)
    assert exemplars == []
    exemplars = await prometheus.query_exemplars(f"{native}_bucket", started_ms / 1000, started_ms / 1000 + 60)
    assert [len(each["exemplars"]) for each in exemplars] == [3]


async def test_missing_prometheus_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="need a real Prometheus"):
        await Prometheus().start()


async def test_stopped_prometheus_leaves_no_process_and_no_data(prometheus: Prometheus) -> None:
    started = time.monotonic()
    process, folder = prometheus._process, prometheus._folder
    assert process is not None
    assert folder is not None
    assert process.poll() is None
    await prometheus.stop()
    assert process.poll() is not None
    assert not folder.exists()
    assert time.monotonic() - started < 15


async def test_native_histograms_where_they_are_switched_off_do_not_keep_the_rest_away(around: Surroundings) -> None:
    # So many that a batch may not be divided until each of their histograms is found.
    entities = suspicion.MAX_DIVISIONS + 36
    generator = {"processors": ["span-metrics-latency"], "generate_native_histograms": "both"}
    settings = book(overrides(acme=generator)).get(ACME)
    shard = _engine.Shard(settings.plan)
    clock = FakeClock()
    clock.time_ms = now_ms = int(time.time() * 1000)
    registry = _engine.Registry(settings.plan, now_ms - 60_000, seed=7)
    names = (f"operation {number}" for number in range(entities))
    shard.apply(group(settings, *names, count=1).payload, now_ms * 1_000_000)
    registry.merge(1, shard.flush(now_ms * 1_000_000), now_ms * 1_000_000)
    encoder = CollectionEncoder()
    v1 = [Encoding(message=ProtobufMessage.V1)]
    async with Prometheus(features="exemplar-storage") as prometheus:
        sender = EndpointSender("acme", EndpointConfig(prometheus.url), replace(around, clock=clock))
        sender.start()
        natives = classics = 0
        for second in range(3):
            (batches,) = encoder.encode(registry, settings.settings, now_ms + 1000 * second, v1).values()
            for batch in batches:
                histograms = sum(len(series.histograms) for series in decode(batch.body).values())
                natives += histograms
                classics += batch.samples - histograms
            sender.submit(batches)
            assert await sender.drain(60)
        counters = sender.snapshot()
        await sender.close()
        # It answers 500 to a request with one of them, as often as it is sent (remote-write §0 point 5).
        assert counters.attempts_failed.keys() == {"http_500"}
        assert (counters.samples_failed, counters.samples_sent) == ({"http_500": natives}, classics)
        (count,) = await prometheus.query("count(traces_spanmetrics_latency_count)", (now_ms + 2000) / 1000)
        assert count["value"][1] == str(entities)
