"""A tenant that writes to a real receiver for a while: what arrives there is what the expectations are about."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from tenants import _engine
from tenants.settings.protobuf_message import ProtobufMessage
from tests import traces
from tests.remote_write import SeriesKey, TimeSeries, decode
from tests.remote_write_v2 import SeriesV2, decode_v2
from tests.unit.conditions import until
from tests.unit.fake_clock import START_MS
from tests.unit.journalled import journalled, merge
from tests.unit.receiver import Received, Receiver, stores_all
from tests.unit.tenant_work import ACME, NOW_NS, book, group, overrides

CALLS: Final = "traces_spanmetrics_calls_total"
LATENCY: Final = "traces_spanmetrics_latency"
CONNECTED: Final = "traces_service_graph_connection_info"

UNICODE: Final = "Größe ändern 日本 🚀"
SPECIAL: Final = 'a "quoted" \\ back\tslash\nand a line'
LONG: Final = "x" * 2000
LONG_NAME: Final = "dimension_" + "n" * 190
NAMES: Final = ("op", UNICODE, SPECIAL, LONG)
DIMENSIONS: Final = (LONG_NAME, "empty", *(f"dimension_{number}" for number in range(20)))

COLLECTIONS: Final = 4
"""Collections in which every operation was called once more."""
INTERVAL_S: Final = 15
DURATIONS_MS: Final = (3, 40, 1000)


@dataclass(frozen=True)
class Session:
    """What arrived: every request, and what it says; the last collection tells that all series end."""

    requests: list[Received]
    histories: dict[SeriesKey, list[TimeSeries]] = field(default_factory=dict)
    v2: list[SeriesV2] = field(default_factory=list)

    def series(self, metric: str, **labels: str) -> dict[SeriesKey, TimeSeries]:
        """Return the whole history of the series of a metric, of those with these labels."""
        wanted = {"__name__": metric, **labels}.items()
        return {
            key: TimeSeries(
                [sample for part in parts for sample in part.samples],
                [exemplar for part in parts for exemplar in part.exemplars],
                [histogram for part in parts for histogram in part.histograms],
            )
            for key, parts in self.histories.items()
            if wanted <= dict(key).items()
        }


@cache
def session(message: ProtobufMessage) -> Session:
    """Return what a tenant wrote in these messages; played once."""
    requests = asyncio.run(_play(message))
    played = Session(requests)
    for request in requests:
        if message is ProtobufMessage.V2:
            decoded = decode_v2(request.body).series
            played.v2.extend(decoded.values())
            series: Mapping[SeriesKey, TimeSeries] = {key: each.series for key, each in decoded.items()}
        else:
            series = decode(request.body)
        for key, each in series.items():
            played.histories.setdefault(key, []).append(each)
    return played


async def _play(message: ProtobufMessage) -> list[Received]:
    async with Receiver(otherwise=stores_all) as receiver, journalled() as bench:
        entry: dict[str, Any] = {
            "processors": ["span-metrics", "service-graphs", "service-graphs-connection-info"],
            "generate_native_histograms": "both",
            "collection_interval": "5m",
            "trace_id_label_name": "trace_id",
            "remote_write": [{"url": receiver.url, "protobuf_message": message.value}],
            "processor": {
                "span_metrics": {"dimensions": list(DIMENSIONS)},
            },
        }
        settings = book(overrides(acme=entry)).get(ACME)
        collector = bench.collector(settings)
        collector.start()
        shard = _engine.Shard(settings.plan)
        try:
            for round_number in range(COLLECTIONS):
                body = traces.request(*_batches(round_number)).SerializeToString()
                shard.apply(group(settings, count=1, body=body).payload, NOW_NS)
                assert await merge(collector, 0, shard.flush(NOW_NS))
                bench.clock.time_ms += INTERVAL_S * 1000
                await collector.collect()
            bench.clock.time_ms += 3_600_000
            await collector.collect()
            await until(lambda: not any(each.pending_batches for each in collector.snapshot().endpoint.endpoints))
            (counters,) = collector.snapshot().endpoint.endpoints
            assert counters.samples_sent == counters.samples_submitted > 0
        finally:
            await collector.close()
        assert receiver.most_at_once == 1
        return receiver.requests


def _batches(round_number: int) -> Iterable[Any]:
    attributes = {name: f"value {name[-2:]}" for name in DIMENSIONS} | {"empty": ""}
    spans = [
        traces.span(
            name,
            kind=traces.SERVER,
            trace_id=bytes([1 + round_number, number, place]) * 5 + b"\x01",
            span_id=bytes([number + 1]) * 8,
            start_ns=NOW_NS - duration_ms * 1_000_000,
            end_ns=NOW_NS,
            attributes=attributes,
        )
        for number, name in enumerate(NAMES)
        for place, duration_ms in enumerate(DURATIONS_MS)
    ]
    trace_id = bytes([200 + round_number]) * 16
    call = {"trace_id": trace_id, "start_ns": NOW_NS - 50_000_000, "end_ns": NOW_NS}
    client = traces.span("call", kind=traces.CLIENT, span_id=b"\xaa" * 8, **call)
    server = traces.span("serve", kind=traces.SERVER, span_id=b"\xbb" * 8, parent=b"\xaa" * 8, **call)
    yield traces.batch({"service.name": "shop"}, *spans, client)
    yield traces.batch({"service.name": "store"}, server)


def times_ms() -> list[int]:
    """Return when the collections were, the last one included."""
    each = [START_MS + INTERVAL_S * 1000 * number for number in range(1, COLLECTIONS + 1)]
    return [*each, each[-1] + 3_600_000]
