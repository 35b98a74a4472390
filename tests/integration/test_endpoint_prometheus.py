"""A real Prometheus takes what the sender sends, and refuses what the sender must not send again."""

import random
import shutil
import struct
import time
from collections.abc import AsyncIterator

import pytest
import snappy

from tenants.endpoint import Batch, EndpointConfig, EndpointSender, HttpClients, Surroundings, SystemClock
from tests.prometheus import Prometheus

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
