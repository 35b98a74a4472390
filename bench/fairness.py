"""Do other tenants notice one that sends ten times its share?

Runs ``millrace serve`` with 20 tenants, each with an endpoint of its own, that send the same, steadily, over OTLP/HTTP.
Then one of them sends ten times as much: once with room for it, and once with its rate limited to its share, when nine
requests of ten are refused. For the other 19 it prints how long it took from sending a span to the moment when a
receiver, in a process of its own, had the sample with that span in it; the collections of a tenant are a second apart.
The result counts only if every acknowledged span of these tenants arrived, each series in order.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bench.bulkheads import Arrival, quantile, receiver
from bench.report import print_result
from cluster.demo.memory import uncompress
from cluster.demo.write_request import read_write_request
from tests.integration.service import MillraceProcess

TENANTS = 20
FLOOD = 0
"""Which of them floods."""
TIMES = 10
EVERY_S = 0.2
"""Between two requests of a tenant that sends its share."""
TRACES = 30
"""In a request, each of a client's and a server's span."""
WARM_UP_S = 10
MEASURED_S = 60
DRAIN_S = 5
CALLS = b"traces_spanmetrics_calls_total"


@dataclass(frozen=True, slots=True)
class Body:
    """A request, and the spans in it."""

    content: bytes
    spans: int


class Sender:
    """One tenant that sends at its own pace, whatever the service answers."""

    def __init__(self, number: int, every_s: float) -> None:
        rng = random.Random(number)
        self.number = number
        self.counted: list[tuple[int, float]] = []
        """Spans acknowledged until then, and when the last of them were sent."""
        self.refused = 0
        self._every_s = every_s
        self._rng = rng

    async def run(self, client: httpx.AsyncClient, ends_at: float) -> None:
        """Send until then, one request after the other."""
        spans = 0
        at = time.monotonic() + self._rng.uniform(0, self._every_s)
        while time.time() < ends_at:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            at += self._every_s
            body = request(self._rng)
            sent_at = time.time()
            answer = await client.post(
                "/v1/traces",
                content=body.content,
                headers={"content-type": "application/x-protobuf", "x-scope-orgid": f"tenant-{self.number}"},
            )
            if answer.status_code == 200:
                spans += body.spans
                self.counted.append((spans, sent_at))
            else:
                self.refused += 1


def request(rng: random.Random) -> Body:
    """Return a request with new traces, of a call each: the same bytes would be counted once only."""
    built = ExportTraceServiceRequest()
    now_ns = time.time_ns()
    scopes = {}
    for service in ("web", "api"):
        group = built.resource_spans.add()
        group.resource.attributes.append(KeyValue(key="service.name", value=AnyValue(string_value=service)))
        scopes[service] = group.scope_spans.add()
    for _ in range(TRACES):
        trace_id, client_id = rng.randbytes(16), rng.randbytes(8)
        name = f"GET /{rng.randrange(10)}"
        sides = (
            ("web", Span.SPAN_KIND_CLIENT, client_id, b""),
            ("api", Span.SPAN_KIND_SERVER, rng.randbytes(8), client_id),
        )
        for service, kind, span_id, parent_id in sides:
            scopes[service].spans.append(
                Span(
                    name=name,
                    kind=kind,
                    trace_id=trace_id,
                    span_id=span_id,
                    parent_span_id=parent_id,
                    start_time_unix_nano=now_ns - rng.randrange(100_000_000),
                    end_time_unix_nano=now_ns,
                )
            )
    return Body(built.SerializeToString(), 2 * TRACES)


async def measure(times: int, limit_bytes: int = 0) -> Mapping[str, float]:
    """Run all tenants, one at so many times its share; return delays of the others."""
    with receiver() as (port, connection):
        config = {"cluster": {"shard_hosts": 0}, "metrics_generator": {"registry": {"collection_interval": "1s"}}}
        entries = {f"tenant-{number}": entry(number, port, limit_bytes) for number in range(TENANTS)}
        service = MillraceProcess(config)
        async with service:
            await service.put_entries(**entries)
            senders = [Sender(number, EVERY_S / (times if number == FLOOD else 1)) for number in range(TENANTS)]
            begun = time.time()
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{service.otlp_http_port}", trust_env=False, timeout=30
            ) as client:
                await asyncio.gather(*(sender.run(client, begun + WARM_UP_S + MEASURED_S) for sender in senders))
            await asyncio.sleep(DRAIN_S)
            connection.send("end")
            arrivals: list[Arrival] = await asyncio.to_thread(connection.recv)
    others = {sender.number: sender.counted for sender in senders if sender.number != FLOOD}
    assert not any(sender.refused for sender in senders if sender.number != FLOOD)
    found = delays(arrivals, others, begun + WARM_UP_S)
    flood = senders[FLOOD]
    return {
        "p50_s": quantile(found, 0.5),
        "p99_s": quantile(found, 0.99),
        "requests": len(found),
        "spans": sum(counted[-1][0] for counted in others.values()),
        "flood_spans": flood.counted[-1][0],
        "flood_refused_requests": flood.refused,
    }


def entry(number: int, port: int, limit_bytes: int) -> dict[str, Any]:
    """Return a tenant's settings."""
    made: dict[str, Any] = {
        "metrics_generator": {
            "processors": ["span-metrics", "service-graphs"],
            "remote_write": [
                {"url": f"http://127.0.0.1:{port}/{number}", "protobuf_message": "prometheus.WriteRequest"}
            ],
        }
    }
    if limit_bytes and number == FLOOD:
        made["ingestion"] = {"rate_limit_bytes": limit_bytes, "burst_size_bytes": 2 * limit_bytes}
    return made


def delays(arrivals: list[Arrival], counted: Mapping[int, list[tuple[int, float]]], since: float) -> list[float]:
    """Return, for each request sent after then, the time until a receiver had all spans of its tenant up to it."""
    newest: dict[tuple[int, bytes], tuple[int, float]] = {}
    totals = dict.fromkeys(counted, 0.0)
    seen: dict[int, list[tuple[float, float]]] = {number: [] for number in counted}
    for at, path, body in arrivals:
        number = int(path)
        if number not in counted:
            continue
        for series in read_write_request(uncompress(body)):
            if CALLS not in series.identity:
                continue
            for sample in series.samples:
                place = (number, series.identity)
                stamp, value = newest.get(place, (0, 0.0))
                assert sample.timestamp_ms > stamp, f"tenant {number}: out of order"
                newest[place] = (sample.timestamp_ms, sample.value)
                totals[number] += sample.value - value
        seen[number].append((totals[number], at))
    found = []
    for number, rounds in counted.items():
        assert totals[number] == rounds[-1][0], f"tenant {number}: {totals[number]} of {rounds[-1][0]} spans arrived"
        for spans, sent_at in rounds:
            if sent_at > since:
                found.append(next(at for total, at in seen[number] if total >= spans) - sent_at)
    return found


async def main() -> None:
    """Measure all three and print the differences."""
    share_bytes = round(len(request(random.Random(1)).content) / EVERY_S)
    cases = {"equal": (1, 0), "flood": (TIMES, 0), "limited_flood": (TIMES, share_bytes)}
    found = {}
    for name, (times, limit_bytes) in cases.items():
        found[name] = await measure(times, limit_bytes)
        figures = {key: round(value, 3) for key, value in found[name].items()}
        print_result(f"fairness.{name}.p99", found[name]["p99_s"], "s from span to receiver, other tenants", **figures)
    for name in ("flood", "limited_flood"):
        change = found[name]["p99_s"] / found["equal"]["p99_s"] - 1
        print_result(f"fairness.{name}.p99_change", 100 * change, "percent")


if __name__ == "__main__":
    asyncio.run(main())
