"""Python face of the native engine (the Rust crate in ``tenants/engine``).

The engine holds all per-span and per-series work and nothing else: no I/O, no clock of its own (time is
passed in), no tenancy policy. Every call releases the GIL while it works. Objects are safe to share between
threads; calls on one object are serialised inside it.

Bytes named *frame* (gateway to shard), *record* (shard to collector), *state* (collector to a shard's next owner) and
*checkpoint* are private to the engine: versioned, checked on reading, carried by Python as opaque buffers.
"""

from typing import final

from typing_extensions import Buffer

class EngineError(Exception):
    """Root of everything the engine raises; by itself a bug in the engine: the object it happened in is unusable."""

class MalformedRequest(EngineError):
    """The bytes are not an OTLP ExportTraceServiceRequest. Raised by :func:`split`; nothing was counted."""

    @property
    def offset(self) -> int:
        """Offset in the request body, in bytes, of the element that could not be read."""
    @property
    def field(self) -> str:
        """Path of the field being read, such as ``resource_spans.scope_spans.spans.name``.

        Attributes occur in many places: their paths begin at ``attributes``.
        """

class MalformedFrame(EngineError):
    """A frame, record, state or checkpoint was not made by this version of the engine, or was damaged on the way."""

class InvalidPlan(EngineError):
    """The processing settings cannot be compiled; the message starts with the path of the setting."""

@final
class RefusedSpans:
    """Counts the spans of requests that are refused unread, by service, for the ledger."""

    def __new__(cls) -> RefusedSpans: ...
    def add(self, body: Buffer, reason: str) -> int:
        """Return how many spans an export request has, and count them; if it is damaged, those before the damage.

        As fast as memory is walked, span by span; nothing inside them is looked at.

        Args:
            body: the request.
            reason: ``rate_limited``, ``too_large``, ``malformed`` or ``blocked``.

        Raises:
            ValueError: another reason.
        """
    def take(self) -> bytes | None:
        """Return the frame that tells a shard of them, and begin anew; None if there are none."""

def check_regex(pattern: str) -> None:
    """Check the regular expression of a filter policy: RE2 syntax, bounded in length and in what it compiles to.

    Raises:
        InvalidPlan: it is not one; the message says why.
    """

def trace_hash(trace_id: bytes) -> int:
    """Return the unsigned 64-bit hash (XXH3, seed 0) of the trace id's bytes: what shards are ranges of."""

def fingerprint(body: Buffer) -> bytes:
    """Return the 16 bytes that a request is known by if it comes again: XXH3-128 of the body, big-endian."""

def durable_part(record: Buffer) -> bytes:
    """Return a record without its exemplars, for the journal.

    :class:`Registry` and :class:`Mirror` take it as they take the record.

    Raises:
        MalformedFrame: the record is damaged.
    """

@final
class Plan:
    """A tenant's processing settings, compiled once and shared by gateways, shards and the collector.

    The argument is the JSON text that ``tenants.processing.plan.plan_json`` writes; unknown keys are refused.

    Raises:
        InvalidPlan: the text is not such a document.
    """

    def __new__(cls, settings_json: str) -> Plan: ...
    def workspace_bytes(self) -> int:
        """Return the bytes that :func:`split` keeps between requests: resources it has read, memory for frames.

        Bounded: at 4 MiB of resources all are forgotten, and memory for frames beyond 4 MiB is given back.
        """

@final
class Split:
    """What one export request became."""

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """``(shard index, frame)`` for every shard that has something to do, ascending by index."""
    @property
    def received_spans(self) -> int:
        """Spans in the request, before any was set aside."""
    @property
    def rejected(self) -> dict[str, int]:
        """Spans refused to the client, by reason: ``invalid_trace_id``, ``invalid_span_id``."""
    @property
    def discarded(self) -> dict[tuple[str, str], int]:
        """What was accepted and is not generated, by stage and reason; reasons without any are left out.

        ``gateway``: ``outside_metrics_ingestion_slack``. ``span_metrics``: ``span_metrics_filtered``, ``invalid_utf8``
        (also once for each span whose resource is not UTF-8, where target info is on), ``label_set_too_large``.
        ``service_graphs``: ``service_graphs_filtered``, ``label_set_too_large`` (spans with an edge's kind).
        ``host_info``: ``invalid_utf8``, ``label_set_too_large`` (resources).
        """
    @property
    def attributes_truncated(self) -> dict[str, int]:
        """Attributes with a key or a string value beyond ``max_attribute_bytes``, cut at a UTF-8 character.

        By where they stand: ``resource``, ``scope``, ``span``, ``event``, ``link``; where none is, it is left out. Of
        all spans, also those that are then rejected or discarded. Of events and links only the size of a span tells,
        and of scopes nothing.
        """
    @property
    def ignored_multipliers(self) -> int:
        """Spans whose sampling ratio cannot be used: not a double above 0. They count for one."""
    @property
    def skipped_processor_pushes(self) -> int:
        """With ``skip_generation`` how many processors were passed over, else 0."""

def split(
    body: Buffer,
    plan: Plan,
    shard_count: int,
    now_ns: int,
    *,
    strict_ids: bool = True,
    skip_generation: bool = False,
) -> Split:
    """Walk one OTLP ExportTraceServiceRequest (protobuf) and project it onto the shards of its tenant.

    A span goes to shard ``trace_hash(trace_id) * shard_count >> 64``. With ``strict_ids`` a trace id that is
    not 16 bytes or is zero, and a span id that is not 8 bytes or is zero, is set aside as rejected; without it
    ids of 0 to 16 and 0 to 8 bytes are taken as they are (longer ones are malformed). With ``skip_generation``
    spans are counted as received, and against the slack, and nothing more is done (processors §5.2).

    Raises:
        MalformedRequest: truncated or damaged protobuf, wrong wire type, too deep nesting.
    """

@final
class Shard:
    """One hash range of one tenant: all processors for the traces that fall into it.

    Args:
        plan: the settings.
        index: which of the ranges.
        count: into how many equal ranges the hash of trace ids is cut.
        deduplication_window_ns: how long a request is known at least; where others come steadily, hardly longer. Of the
            time between two requests no more counts than a tenth of it.
        state: what :meth:`Mirror.claim` gave for the range; nothing: it has no former owner.

    Raises:
        MalformedFrame: the state is damaged, or of another range.
        ValueError: there is no such range.
    """

    def __new__(
        cls,
        plan: Plan,
        *,
        index: int = 0,
        count: int = 1,
        deduplication_window_ns: int = 600_000_000_000,
        state: Buffer | None = None,
    ) -> Shard: ...
    def set_plan(self, plan: Plan, now_ns: int) -> bytes:
        """Go on with other settings; half edges stay.

        Returns:
            The record of what was counted under the old settings since the last flush (empty if nothing).
        """
    def apply(
        self,
        frame: Buffer,
        now_ns: int,
        *,
        fingerprint: Buffer | None = None,
        made_for: tuple[int, int] | None = None,
    ) -> bool:
        """Count what a frame tells of the shard's range, unless the request was applied there before.

        A frame that was made for another range may be given to every shard whose range has a part in that: each counts
        the rows of its own range that this request has not been applied to. Info metrics, which only say that something
        is there, are told again with any part. This needs trace ids of 16 bytes (``strict_ids`` of :func:`split`).

        Args:
            frame: of :func:`split`.
            now_ns: starts the waiting time of half edges, and the time for which the request is known.
            fingerprint: of the request; without one it is not remembered.
            made_for: index and count of the range that the request was split for; None: the shard's own.

        Returns:
            Whether there is something to flush: what was left to count, or that the rest came again.

        Raises:
            MalformedFrame: nothing was counted, and nothing is remembered.
            ValueError: a fingerprint that has not 16 bytes, or no such range.
        """
    def hold_fingerprints(self, from_ns: int, until_ns: int) -> None:
        """Let the time between these not count for how long requests are known."""
    def flush(self, now_ns: int, *, close_edges: bool = False) -> bytes:
        """Expire half edges and requests, then return everything counted since the last flush (empty if nothing).

        The record also tells what a successor needs to go on: half edges that were opened, changed or closed, sides of
        edges that a filter keeps out, requests that were applied. Records of a shard must reach registry and mirror in
        order, each once.

        Args:
            now_ns: the time against which they expire.
            close_edges: expire every half edge, however young: the shard is being drained for good.
        """
    def redefine(self) -> bytes:
        """Return the record that defines every entity and counts nothing.

        For a collector that has lost what it knew: to be merged before any record made before or after it.
        """
    def stats(self) -> dict[str, int]:
        """Return ``entities``, ``open_edges``, ``fingerprints``, ``fingerprints_dropped`` and ``state_bytes``.

        At 1 048 576 fingerprints the oldest are dropped before their time.
        """

@final
class Mirror:
    """What the shards of one tenant would need to go on, kept by the collector and fed by the registry's records.

    ``index`` and ``count`` name a range as they do for :class:`Shard`; ValueError if there is no such range. The same
    calls give the same bytes.
    """

    def __new__(cls, deduplication_window_ns: int) -> Mirror: ...
    @staticmethod
    def check(index: int, count: int, record: Buffer) -> None:
        """Check that :meth:`apply` would take the record.

        Raises:
            MalformedFrame: it would not.
        """
    def apply(self, index: int, count: int, record: Buffer, now_ns: int) -> None:
        """Take over what a record, or its durable part, tells of its shard; forget what has had its time.

        Raises:
            MalformedFrame: the record is damaged; nothing was changed.
        """
    def claim(self, index: int, count: int, now_ns: int) -> bytes:
        """Give a range to a new owner: return the state that it begins with.

        It is cut out of everything known of the range, also where shards were cut otherwise; what lies outside stays
        for others. From then on records of the new owner fit. To claim again gives the same, but for what has had its
        time.
        """
    def ranges(self) -> list[tuple[int, int, int]]:
        """Return index, count and waiting half edges of every shard that something is known of, ascending.

        A shard that others have claimed a part of is there until they have claimed all.
        """
    def checkpoint(self) -> bytes:
        """Return everything, to go on from with :meth:`restore`."""
    @staticmethod
    def restore(checkpoint: Buffer) -> Mirror:
        """Return the mirror of a checkpoint.

        Raises:
            MalformedFrame: made by another version of the engine, or damaged.
        """
    def stats(self) -> dict[str, int]:
        """Return ``open_edges``, ``fingerprints``, ``markers``, ``ranges`` (see :meth:`ranges`) and ``state_bytes``."""

@final
class WriteBatch:
    """One Remote-Write message, compressed (snappy block format), ready to POST."""

    @property
    def body(self) -> bytes: ...
    @property
    def series(self) -> int: ...
    @property
    def samples(self) -> int:
        """Float samples, zero samples and staleness markers included."""
    @property
    def histograms(self) -> int:
        """Samples of native histograms, empty ones and staleness markers included."""
    @property
    def exemplars(self) -> int: ...
    @property
    def ahead(self) -> int:
        """Of the samples, those with a later one of their series behind them; 0 of a batch that was read back."""
    @property
    def lane(self) -> int:
        """Which part of the series it is of."""
    @property
    def lanes(self) -> int:
        """How many parts there are."""

def as_remote_write_1(body: Buffer) -> WriteBatch:
    """Say a 2.0 batch in 1.0: the same but for start timestamps, which cannot be said there.

    Raises:
        MalformedFrame: not the body of a 2.0 batch that this engine encoded.
    """

def split_batch(body: Buffer, message: str) -> list[WriteBatch]:
    """Divide a batch by its series, to be sent in the order returned; one of a single series stays whole.

    One that has both kinds becomes the series with samples and those with native histograms; any other is halved.

    Raises:
        MalformedFrame: not the body of a batch that this engine encoded as this message.
        ValueError: there is no such message.
    """

def batch_steps(body: Buffer, message: str) -> tuple[list[WriteBatch], WriteBatch | None, WriteBatch | None]:
    """Divide a batch into the steps that it has to be sent in, each with one sample of a series at most.

    Returns:
        What precedes the last samples, such as zeros, oldest first; the series that have no more than one sample; the
        last samples of the others.

    Raises:
        MalformedFrame: not the body of a batch that this engine encoded as this message.
        ValueError: there is no such message.
    """

@final
class Relabel:
    """The write relabelling rules of one endpoint, compiled once.

    The argument is the JSON text that ``tenants.settings.write_relabel.rules_json`` writes; unknown keys are refused.

    Raises:
        InvalidPlan: a rule cannot be compiled; the message starts with its path, such as ``[0].regex``.
    """

    def __new__(cls, rules_json: str) -> Relabel: ...
    def apply(self, labels: dict[str, str]) -> dict[str, str] | None:
        """Return the labels that the rules leave of a series, sorted; None if it is not sent."""

@final
class Registry:
    """The cumulative series of one tenant, merged from the records of all its shards."""

    def __new__(cls, plan: Plan, started_at_ms: int, *, seed: int | None = None) -> Registry:
        """Make an empty registry.

        Args:
            plan: the settings that it begins under.
            started_at_ms: no sample, not even a zero sample, will be dated at or before this.
            seed: of estimates (64 bits), which decide where limits act; drawn if there is none. With the same one the
                same calls come to the same state. Nobody who chooses label values may know it.
        """
    def set_plan(self, plan: Plan) -> None:
        """Go on with other settings: series whose definition did not change keep their values.

        Series that are no longer produced get a staleness marker at the next collection.
        """
    def merge(self, source: int, record: Buffer, now_ns: int) -> None:
        """Add one record. ``source`` tells shards apart: definitions in a record are numbered per source.

        Raises:
            MalformedFrame: damaged, or it refers to definitions that were never merged; nothing was added.
        """
    def forget_source(self, source: int) -> None:
        """Drop the numbering of a shard that is gone; its series stay."""
    def collect(
        self,
        now_ms: int,
        external_labels: list[tuple[str, str]],
        max_samples: int,
        message: str = "prometheus.WriteRequest",
        *,
        counter_exemplars: bool = False,
    ) -> list[WriteBatch]:
        """Encode all series with samples at ``now_ms`` (must exceed every earlier one), exemplars included.

        A new counter or histogram series gets a zero sample just after the previous collection; a series
        not updated for the stale duration gets a staleness marker and ends, and so does one that the settings no longer
        produce, after a last sample. Exemplars are sent once.

        Args:
            now_ms: timestamp of every sample.
            external_labels: set on every series.
            max_samples: most samples of a batch, unless a single label set has more.
            message: ``prometheus.WriteRequest``, whose last batch tells type, help and unit of the metrics, or
                ``io.prometheus.write.v2.Request``, where every series does, and says since when it counts: the time of
                its zero sample, which is sent all the same, as most receivers ignore the other.
            counter_exemplars: counters carry exemplars too; with 2.0 they always do.
        """
    def collect_each(
        self,
        now_ms: int,
        external_labels: list[tuple[str, str]],
        max_samples: int,
        outputs: list[tuple[Relabel | None, str]],
        *,
        counter_exemplars: bool = False,
        lanes: int = 1,
    ) -> list[tuple[list[WriteBatch], dict[str, int]]]:
        """Collect once for several endpoints: for each output the batches, and the series left out by reason.

        An output is the rules for it, None for series as they are, and the message that it takes (see :meth:`collect`).
        Staleness markers are relabelled like samples. Reasons: ``collision``
        (another series has become the same label set: the first by its former labels is sent, and one that goes on
        rather than one that ends), ``without_name`` and ``too_large`` (256 KiB, 1024 labels). What rules drop is not
        left out in this sense. With ``lanes`` label sets are divided into so many parts, each with batches of its own:
        a label set is in the same part in every collection and every process. Where rules change labels there is one.
        """
    def collect_silently(self, now_ms: int) -> None:
        """Do what a collection does to the registry and encode nothing: to come to the state that one led to."""
    def checkpoint(self) -> bytes:
        """Return all that what comes depends on, but for the plan; exemplars that wait for a collection are left out.

        The same state has the same bytes. How many it takes: those of all label sets, and a few for each number.
        """
    @staticmethod
    def restore(plan: Plan, checkpoint: Buffer) -> Registry:
        """Return the registry of a checkpoint: it answers every later call as the one that made it, to the byte.

        Args:
            plan: the one in force when the checkpoint was made; other settings are set afterwards.
            checkpoint: made by :meth:`checkpoint` of this version of the engine.

        Raises:
            MalformedFrame: damaged, of another version of the engine, or made under other metrics or buckets.
        """
    def sweep(self, now_ms: int) -> None:
        """End what is stale and encode nothing: what a collection does while collection is disabled."""
    def end_all(
        self,
        now_ms: int,
        external_labels: list[tuple[str, str]],
        max_samples: int,
        message: str = "prometheus.WriteRequest",
    ) -> list[WriteBatch]:
        """Encode a staleness marker for every series that was ever sent, and forget them all."""
    def stats(self) -> dict[str, int]:
        """Return the tenant's figures.

        ``active_series``, ``series_added``, ``series_removed``, ``series_limited`` and the same of entities
        (``active_entities`` …); ``entities``: label sets with series, overflow included.
        ``active_series_demand_estimate``, ``entity_demand_estimate``: what was asked for within the stale duration,
        before the limit; ``post_sanitization_demand_estimate``: label sets after learned span names took the place of
        others. ``spans_sanitized``, ``drain_patterns_detected``, ``…_evicted``, ``…_expired``,
        ``drain_lines_skipped_too_few_tokens``, ``…_too_many_tokens``: the span-name model. ``edges``,
        ``expired_edges_<kind>`` (``server``, ``client``, ``producer``, ``consumer`` …), ``dropped_spans`` (edge buffer
        full), ``dropped_edges`` (a filter kept the other side out), ``dropped_span_side_cache_overflow``,
        ``invalid_utf8_edges``: service graphs. ``native_resets``: native histograms that began anew to regain their
        resolution. ``state_bytes``: memory.
        """
    def ledger(self) -> list[tuple[str, str, str, int]]:
        """Return what became of the spans: service, stage, outcome and spans; what is zero is left out.

        Every span is ``received`` at stage ``gateway``. Those without another outcome there are, at ``span_metrics``
        and at ``service_graphs``, each of one outcome; but ``over_limit`` are some of the ``generated``, and
        ``offered`` are all that are ``generated``, ``repeated``, ``edge_buffer_full``, ``other_side_filtered``,
        ``unpaired``, ``invalid_utf8`` or ``turned_off`` by now, and those that wait. Services beyond the first 1024 are
        together: ``__other__``.
        """
    def ledger_totals(self) -> dict[tuple[str, str], int]:
        """Return the sums of :meth:`ledger` over all services, by stage and outcome."""
    def label_stats(self) -> dict[str, tuple[int, int]]:
        """Return values replaced and values estimated, by label name, of the limit of values per label."""
    def summary(
        self, processor: str, by: list[str], most: int
    ) -> tuple[list[tuple[list[str], list[float], list[tuple[float, list[float]]]]], int, list[list[float]]]:
        """Add up the label sets that have the same values of some labels; for a person who looks.

        Args:
            processor: ``span_metrics`` (counters: spans, bytes; histogram: latency) or ``service_graphs`` (counters:
                requests, failed, connected; histograms: server, client, messaging).
            by: names of labels.
            most: rows to return, those that count most.

        Returns:
            Of each row the values (empty where there is no such label), the counters, and of each histogram the sum in
            seconds and the observations in each classic bucket, +Inf last; how many more rows there are; the bounds of
            each histogram in seconds.

        Raises:
            ValueError: another processor.
        """
    def cardinality(self, most: int) -> tuple[list[tuple[str, int]], list[tuple[str, int, int]]]:
        """Return series by metric; distinct values and label sets by label; at most so many, the greatest first."""
    def drain_tokens_per_line(self) -> tuple[list[tuple[float, int]], float]:
        """Return the histogram of tokens per span name: (upper bound, cumulative count) up to infinity, and the sum."""

def build_info() -> dict[str, str]:
    """Return ``version`` and ``profile`` (``release`` or ``debug``) of the compiled engine."""
