"""Drives the engine along the whole way of a span: split, shard, flush, merge, collect, Remote-Write bytes.

It has the methods of :class:`tests.reference.ReferenceModel`, so that one test reads for both, and it plays
gateway, shard hosts and collector for one tenant in one thread. It adds no rule: what comes out is what the
engine encoded, read back by ``tests.remote_write``. Every collection is encoded as Remote-Write 1.0 and 2.0, and has
to say the same in both.
"""

import json
from collections import Counter as Tally
from typing import Any

from google.protobuf.message import Message

from tenants._engine import Plan, Registry, Relabel, Shard, split
from tenants.processing.ledger import Ledger
from tenants.settings.protobuf_message import ProtobufMessage
from tests.both_protocols import assert_same
from tests.reference import Collection
from tests.reference_native import NativeHistogram
from tests.remote_write import SeriesKey, TimeSeries, decode, is_stale_marker

COLLECTION_INTERVAL_MS = 1_000
_EXPIRED = "expired_edges_"


class EngineDriver:
    """One tenant on ``shards`` shards; the clock is what :meth:`push`, :meth:`flush` and collections say.

    Every body the registry makes is kept in ``sent``, one dictionary of series per collection.
    """

    def __init__(
        self,
        plan: dict[str, Any],
        *,
        shards: int = 1,
        strict_ids: bool = False,
        started_at_ms: int = 0,
        max_samples: int = 2000,
    ) -> None:
        self._plan = Plan(json.dumps(plan))
        self._strict_ids = strict_ids
        self.counts_every_receiver = counts_every_receiver(plan)
        self._trace_id_label: str = plan["trace_id_label_name"]
        self._max_samples = max_samples
        self.shards = [Shard(self._plan) for _ in range(shards)]
        self.registry = Registry(self._plan, started_at_ms)
        self.sent: list[dict[SeriesKey, TimeSeries]] = []
        self.received_spans = 0
        self.rejected: Tally[str] = Tally()
        self.discarded: Tally[tuple[str, str]] = Tally()
        self.attributes_truncated: Tally[str] = Tally()
        self.ignored_multipliers = 0
        self.skipped_processor_pushes = 0
        self._now_ms = started_at_ms

    @property
    def now_ns(self) -> int:
        """The time that it is."""
        return self._now_ms * 1_000_000

    @property
    def edges(self) -> int:
        """Edges that were opened, as far as the registry has heard of them."""
        return self.registry.stats()["edges"]

    @property
    def expired_edges(self) -> dict[str, int]:
        """Edges that expired and produced nothing, by the kind of the last span."""
        counts = self.registry.stats().items()
        kinds = {name.removeprefix(_EXPIRED): count for name, count in counts if name.startswith(_EXPIRED)}
        return {f"SPAN_KIND_{kind.upper()}": count for kind, count in kinds.items() if count}

    @property
    def dropped_spans(self) -> int:
        """Spans that found the edge buffer of their shard full."""
        return self.registry.stats()["dropped_spans"]

    @property
    def dropped_edges(self) -> int:
        """Edges given up because one of their sides is filtered."""
        return self.registry.stats()["dropped_edges"]

    @property
    def dropped_span_side_cache_overflow(self) -> int:
        """Filtered spans for which there was no room to remember them."""
        return self.registry.stats()["dropped_span_side_cache_overflow"]

    @property
    def invalid_edges(self) -> int:
        """Edges lost because a label is not UTF-8."""
        return self.registry.stats()["invalid_utf8_edges"]

    @property
    def ledger(self) -> Ledger:
        """What became of the spans, as far as the registry has heard of them."""
        return Ledger.of(self.registry.ledger_totals())

    def push(self, request: Message | bytes, now_ns: int, *, skip_generation: bool = False) -> None:
        """Split one request as a gateway does, and have every shard concerned apply its frame."""
        self._advance(now_ns)
        body = request if isinstance(request, bytes) else request.SerializeToString()
        parts = split(
            body,
            self._plan,
            len(self.shards),
            now_ns,
            strict_ids=self._strict_ids,
            skip_generation=skip_generation,
        )
        self.received_spans += parts.received_spans
        self.attributes_truncated += Tally(parts.attributes_truncated)
        self.ignored_multipliers += parts.ignored_multipliers
        self.skipped_processor_pushes += parts.skipped_processor_pushes
        self.rejected = +(self.rejected + Tally(parts.rejected))  # "+" leaves reasons without spans out
        self.discarded = +(self.discarded + Tally(parts.discarded))
        self.apply(body, parts.frames, now_ns)

    def apply(self, body: bytes, frames: list[tuple[int, bytes]], now_ns: int) -> None:
        """Have every shard concerned apply its frame of a request."""
        for index, frame in frames:
            self.shards[index].apply(frame, now_ns)

    def flush(self, now_ns: int, *, close_edges: bool = False) -> None:
        """Flush every shard and merge its record, as a collector does."""
        self._advance(now_ns)
        for index, shard in enumerate(self.shards):
            record = shard.flush(now_ns, close_edges=close_edges)
            if record:
                self.merge(index, record, now_ns)

    def merge(self, index: int, record: bytes, now_ns: int) -> None:
        """Add the record of a shard to the registry."""
        self.registry.merge(index, record, now_ns)

    def set_plan(self, plan: dict[str, Any], now_ns: int) -> None:
        """Go on with other settings everywhere at once."""
        self._advance(now_ns)
        self._plan = Plan(json.dumps(plan))
        self.counts_every_receiver |= counts_every_receiver(plan)
        self._trace_id_label = plan["trace_id_label_name"]
        for index, shard in enumerate(self.shards):
            for record in (shard.set_plan(self._plan, now_ns), shard.redefine()):
                if record:
                    self.merge(index, record, now_ns)
        self.registry.set_plan(self._plan)

    def collect_at(
        self,
        now_ms: int,
        external_labels: list[tuple[str, str]] | None = None,
        *,
        counter_exemplars: bool = False,
    ) -> dict[SeriesKey, TimeSeries]:
        """Return all series the registry encodes at ``now_ms``, from however many messages."""
        outputs: list[tuple[Relabel | None, str]] = [(None, message.value) for message in ProtobufMessage]
        (batches, _), (in_v2, _) = self.registry.collect_each(
            now_ms, external_labels or [], self._max_samples, outputs, counter_exemplars=counter_exemplars
        )
        assert_same(batches, in_v2, counter_exemplars=counter_exemplars)
        self._now_ms = now_ms
        collected: dict[SeriesKey, TimeSeries] = {}
        for batch in batches:
            decoded = decode(batch.body)
            assert not collected.keys() & decoded.keys(), "a series was sent in two messages"
            assert batch.series >= len(decoded)
            assert batch.histograms == sum(len(series.histograms) for series in decoded.values())
            assert batch.samples == sum(len(series.samples) for series in decoded.values())
            assert batch.exemplars == sum(len(series.exemplars) for series in decoded.values())
            collected |= decoded
        self.sent.append(collected)
        return collected

    def collect(self) -> Collection:
        """Collect one interval later; return the newest value of every series, and the exemplars."""
        before_ms = self._now_ms
        collected = self.collect_at(self._now_ms + COLLECTION_INTERVAL_MS)
        series: dict[SeriesKey, float] = {}
        exemplars: dict[SeriesKey, list[tuple[str, float]]] = {}
        histograms: dict[SeriesKey, NativeHistogram] = {}
        for key, sent in collected.items():
            if sent.samples:
                timestamp_ms, value = sent.samples[-1]
                assert timestamp_ms == self._now_ms
                if not is_stale_marker(value):
                    series[key] = value
            if sent.histograms and not (newest := sent.histograms[-1]).is_stale:
                assert newest.timestamp_ms == self._now_ms
                histograms[key] = NativeHistogram(
                    newest.schema, newest.zero_count, newest.buckets, newest.count, newest.sum
                )
            if sent.exemplars:
                exemplars[key] = self._exemplars(sent, before_ms)
        return Collection(series, exemplars, histograms)

    def _exemplars(self, sent: TimeSeries, before_ms: int) -> list[tuple[str, float]]:
        """Return what the exemplars of a series say; their times ascend, so that a receiver takes them all."""
        times = [exemplar.timestamp_ms for exemplar in sent.exemplars]
        assert times == sorted(set(times))
        assert before_ms < times[0]
        assert times[-1] == self._now_ms
        for exemplar in sent.exemplars:
            assert exemplar.labels.keys() == {self._trace_id_label}
        return [(exemplar.labels[self._trace_id_label], exemplar.value) for exemplar in sent.exemplars]

    def _advance(self, now_ns: int) -> None:
        self._now_ms = max(self._now_ms, now_ns // 1_000_000)


def counts_every_receiver(plan: dict[str, Any]) -> bool:
    """Return whether what is left of a counted edge may stay open (Q13)."""
    return bool(plan["service_graphs"]) and plan["service_graphs"]["count_every_receiver"]
