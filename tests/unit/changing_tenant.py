"""A tenant to whom time passes and whose settings change, and what became of each of its series in all that time."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tenants._engine import Plan
from tests.engine_driver import EngineDriver
from tests.remote_write import SeriesKey, is_stale_marker
from tests.traces import (
    CLIENT,
    SECOND_NS,
    SERVER,
    batch,
    host_info_plan,
    plan,
    request,
    service_graphs_plan,
    span,
    span_metrics_plan,
)

NOW_NS: Final = 1_700_000_000_000_000_000
STALE_S: Final = 10.0

Settings = Mapping[str, Any]


def settings(
    span_metrics: Settings | None = None, service_graphs: Settings | None = None, host_info: bool = True, **others: Any
) -> dict[str, Any]:
    """Return a plan with all processors; ``{"off": True}`` is a processor that is off."""
    spans, graphs = dict(span_metrics or {}), dict(service_graphs or {})
    return plan(
        None if spans.pop("off", False) else span_metrics_plan(**{"histogram_buckets": [0.5, 2.0]} | spans),
        None if graphs.pop("off", False) else service_graphs_plan(**{"histogram_buckets": [0.5, 2.0]} | graphs),
        host_info_plan() if host_info else None,
        **{"stale_duration_s": STALE_S} | others,
    )


class Changing(EngineDriver):
    """A tenant to whom time passes by the second, and whose parts hear of other settings one by one.

    Attributes:
        sent_spans: how many it was sent.
    """

    def __init__(self, first: dict[str, Any], shards: int = 2) -> None:
        super().__init__(first, shards=shards, strict_ids=True, started_at_ms=NOW_NS // 1_000_000)
        self.second = 0
        self.sent_spans = 0

    @property
    def now_ns(self) -> int:
        return NOW_NS + self.second * SECOND_NS + SECOND_NS // 2

    def call(self, count: int = 3, *, client: bool = True, server: bool = True) -> None:
        """Have the spans of a client and a server come, of ``count`` traces that took a second and end now."""
        common = {"start_ns": self.now_ns - SECOND_NS, "end_ns": self.now_ns}
        fronts, backs = [], []
        for number in range(count):
            trace = {"trace_id": (self.second * 1000 + number + 1).to_bytes(16), **common}
            at_client, at_server = {"zone": "z", "tier": "front"}, {"tier": "back"}
            fronts.append(span("call", kind=CLIENT, span_id=b"client..", attributes=at_client, **trace))
            backs.append(
                span("work", kind=SERVER, span_id=b"server..", parent=b"client..", attributes=at_server, **trace)
            )
        batches = []
        if client:
            batches.append(batch({"service.name": "web", "region": "r", "host.id": "h"}, *fronts))
        if server:
            batches.append(batch({"service.name": "shop", "region": "r", "host.id": "h"}, *backs))
        self.push(request(*batches), self.now_ns)
        self.sent_spans += count * len(batches)

    def collect_next(self) -> dict[str, Any]:
        """Merge and collect at the end of the second."""
        self.flush(self.now_ns)
        self.second += 1
        return self.collect_at(self._now_ms // 1000 * 1000 + 1000)

    def interval(self, count: int = 3) -> None:
        """Let a second pass in which spans come."""
        self.call(count)
        self.collect_next()

    def change(self, document: dict[str, Any]) -> None:
        """Change the settings everywhere at once."""
        self.set_plan(document, self.now_ns)

    def change_gateway(self, document: dict[str, Any]) -> None:
        self._plan = Plan(json.dumps(document))

    def change_shards(self, document: dict[str, Any]) -> None:
        for source, shard in enumerate(self.shards):
            for record in (shard.set_plan(Plan(json.dumps(document)), self.now_ns), shard.redefine()):
                if record:
                    self.registry.merge(source, record, self.now_ns)

    def change_registry(self, document: dict[str, Any]) -> None:
        self.registry.set_plan(Plan(json.dumps(document)))

    def histories(self, *names: str) -> dict[SeriesKey, list[float | None]]:
        """Return all values ever sent of each series of these metrics (all, if none is named); None is a marker."""
        found: defaultdict[SeriesKey, list[float | None]] = defaultdict(list)
        for collection in self.sent:
            for key, series in collection.items():
                if names and dict(key)["__name__"] not in names:
                    continue
                found[key] += [None if is_stale_marker(value) else value for _, value in series.samples]
                found[key] += [None if sample.is_stale else sample.count for sample in series.histograms]
        return dict(found)

    def total(self, name: str) -> float:
        """Return what a counter came to, over all label sets that it ever had and all its lives."""
        return sum(sum(increases(values)) for values in self.histories(name).values())

    def alive(self) -> set[SeriesKey]:
        """Return the series that have a value as of the last collection."""
        return {key for key, values in self.histories().items() if values[-1] is not None and key in self.sent[-1]}

    def names_alive(self) -> set[str]:
        return {dict(key)["__name__"] for key in self.alive()}


def increases(values: list[float | None]) -> Iterator[float]:
    """Yield by how much a counter grew from each value to the next; it began at zero, and begins there again."""
    before = 0.0
    for value in values:
        if value is not None:
            yield value - before if value >= before else value
            before = value


def assert_unbroken(values: list[float | None]) -> None:
    """See that a counter began once, at zero, and never fell or ended."""
    assert None not in values
    assert values[0] == 0
    assert values == sorted(values, key=lambda value: value or 0)
    assert values.count(0) == 1 or not any(values)
