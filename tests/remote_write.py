"""Decoder of Remote-Write 1.0 bodies, as strict as the strictest receiver.

Takes what a POST carries (snappy block format around ``prometheus.WriteRequest``) and refuses what some
receiver would refuse or repair (remote-write §1.4, §2.1): unsorted or repeated labels, empty names and
values, a series without name or samples, samples out of order, exemplars over 128 characters or out of order,
native histograms that do not add up. It judges one message; order between messages is the business of the test
that collects them.
"""

import itertools
import math
import struct
from dataclasses import dataclass, field
from typing import Any

import snappy
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

SeriesKey = frozenset[tuple[str, str]]
Sample = tuple[int, float]

MAX_EXEMPLAR_CHARACTERS = 128
_STALE_MARKER = struct.pack(">Q", 0x7FF0000000000002)


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One exemplar: its labels, the observed value, and when, in milliseconds."""

    labels: dict[str, str]
    value: float
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class NativeSample:
    """One native histogram; ``buckets`` has the counts that are not zero by bucket index."""

    timestamp_ms: int
    count: float
    sum: float
    schema: int
    zero_threshold: float
    zero_count: float
    buckets: dict[int, float]
    is_float: bool

    @property
    def is_stale(self) -> bool:
        """Whether it says that its series ended."""
        return is_stale_marker(self.sum)


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """One series in the order in which it was sent: samples as (milliseconds, value), or native histograms."""

    samples: list[Sample]
    exemplars: list[Exemplar]
    histograms: list[NativeSample] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is said of a metric: its type as numbered on the wire, what it counts, and in what."""

    type: int
    help: str
    unit: str


COUNTER, GAUGE, HISTOGRAM = 1, 2, 3


class RefusedMessageError(ValueError):
    """A receiver would refuse or repair this message; the text says which rule it breaks."""


_SCALARS = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "sint64": FieldDescriptorProto.TYPE_SINT64,
    "sint32": FieldDescriptorProto.TYPE_SINT32,
}
HISTOGRAM_FIELDS = [
    "uint64 count_int count",
    "double count_float count",
    "double sum",
    "sint32 schema",
    "double zero_threshold",
    "uint64 zero_count_int zero_count",
    "double zero_count_float zero_count",
    "BucketSpan* negative_spans",
    "sint64* negative_deltas",
    "double* negative_counts",
    "BucketSpan* positive_spans",
    "sint64* positive_deltas",
    "double* positive_counts",
    "int64 reset_hint",
    "int64 timestamp",
    "double* custom_values",
]
# See declared_class. Enumerations have the wire format of an integer (remote-write §1.1).
_MESSAGES = {
    "Label": ["string name", "string value"],
    "Sample": ["double value", "int64 timestamp"],
    "Exemplar": ["Label* labels", "double value", "int64 timestamp"],
    "BucketSpan": ["sint32 offset", "uint32 length"],
    "Histogram": HISTOGRAM_FIELDS,
    "TimeSeries": ["Label* labels", "Sample* samples", "Exemplar* exemplars", "Histogram* histograms"],
    "MetricMetadata": ["int64 type", "string metric_family_name", "", "string help", "string unit"],
    "WriteRequest": ["TimeSeries* timeseries", "", "MetricMetadata* metadata"],
}


def declared_class(package: str, messages: dict[str, list[str]], root: str) -> Any:
    """Make the class of a protobuf message.

    Args:
        package: of all messages.
        messages: fields by message, in the order of their numbers, from 1; an empty one leaves its number out. "*" is
            repeated, a third word the choice (oneof) that a field belongs to.
        root: the message wanted.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for message_name, declarations in messages.items():
        message = file.message_type.add(name=message_name)
        for number, declaration in enumerate(declarations, start=1):
            if not declaration:
                continue
            kind, name, *choice = declaration.split()
            entry = message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
            if kind.endswith("*"):
                entry.label = FieldDescriptorProto.LABEL_REPEATED
                kind = kind.removesuffix("*")
            if kind in _SCALARS:
                entry.type = _SCALARS[kind]
            else:
                entry.type = FieldDescriptorProto.TYPE_MESSAGE
                entry.type_name = f".{package}.{kind}"
            for choice_name in choice:
                if choice_name not in [known.name for known in message.oneof_decl]:
                    message.oneof_decl.add(name=choice_name)
                entry.oneof_index = len(message.oneof_decl) - 1
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{root}"))


_WriteRequest = declared_class("prometheus", _MESSAGES, "WriteRequest")


def is_stale_marker(value: float) -> bool:
    """Return whether a sample says that its series ended (remote-write §1.5); any other NaN does not."""
    return struct.pack(">d", value) == _STALE_MARKER


def decode(body: bytes) -> dict[SeriesKey, TimeSeries]:
    """Return the series of one Remote-Write 1.0 body by their full label set.

    Raises:
        RefusedMessageError: the message breaks a rule of receivers.
        google.protobuf.message.DecodeError: the body is not a WriteRequest.
    """
    decoded: dict[SeriesKey, TimeSeries] = {}
    for message in _WriteRequest.FromString(snappy.uncompress(body)).timeseries:
        pairs = [(label.name, label.value) for label in message.labels]
        series = TimeSeries(
            [(sample.timestamp, sample.value) for sample in message.samples],
            [
                checked_exemplar({label.name: label.value for label in exemplar.labels}, exemplar)
                for exemplar in message.exemplars
            ],
            [native_sample(histogram) for histogram in message.histograms],
        )
        check_labels(pairs)
        key = frozenset(pairs)
        if key in decoded:
            series = _continued(pairs, decoded[key], series)
        check_samples(pairs, series)
        decoded[key] = series
    return decoded


def _continued(pairs: list[tuple[str, str]], begun: TimeSeries, series: TimeSeries) -> TimeSeries:
    """Join two messages of one native series: its exemplars are lost unless a message before made it known."""
    if not (begun.histograms and series.histograms):
        raise RefusedMessageError(f"series sent twice in one message: {pairs}")
    return TimeSeries(
        begun.samples + series.samples, begun.exemplars + series.exemplars, begun.histograms + series.histograms
    )


def decode_metadata(body: bytes) -> dict[str, Metadata]:
    """Return what a Remote-Write 1.0 body says of metrics, by their names."""
    metadata = _WriteRequest.FromString(snappy.uncompress(body)).metadata
    described = {each.metric_family_name: Metadata(each.type, each.help, each.unit) for each in metadata}
    if len(described) != len(metadata):
        raise RefusedMessageError("a metric is described twice")
    return described


def checked_exemplar(labels: dict[str, str], message: Any) -> Exemplar:
    """Make an exemplar of its labels and a message of either protocol."""
    if sum(len(name) + len(value) for name, value in labels.items()) > MAX_EXEMPLAR_CHARACTERS:
        raise RefusedMessageError(f"exemplar labels too long: {labels}")
    return Exemplar(labels, message.value, message.timestamp)


def native_sample(message: Any) -> NativeSample:
    """Read a native histogram of either protocol."""
    is_float = message.WhichOneof("count") == "count_float"
    form, other = ("float", "int") if is_float else ("int", "float")
    sample = NativeSample(
        timestamp_ms=message.timestamp,
        count=getattr(message, f"count_{form}"),
        sum=message.sum,
        schema=message.schema,
        zero_threshold=message.zero_threshold,
        zero_count=getattr(message, f"zero_count_{form}"),
        buckets=_positive_buckets(message, is_float),
        is_float=is_float,
    )
    if message.WhichOneof("count") is None or message.WhichOneof("zero_count") == f"zero_count_{other}":
        raise RefusedMessageError(f"counts missing or of two forms: {sample}")
    if message.negative_spans or message.negative_deltas or message.negative_counts or message.custom_values:
        raise RefusedMessageError(f"durations have neither negative nor custom buckets: {sample}")
    if not (-4 <= sample.schema <= 8 and sample.zero_threshold >= 0 and 0 <= message.reset_hint <= 3):
        raise RefusedMessageError(f"no such schema, threshold or reset hint: {sample}")
    counts = [sample.zero_count, *sample.buckets.values()]
    if min(counts) < 0 or not math.isclose(sum(counts), sample.count, rel_tol=1e-12 if is_float else 0.0):
        raise RefusedMessageError(f"buckets do not add up to the count: {sample}")
    return sample


def _positive_buckets(message: Any, is_float: bool) -> dict[int, float]:
    """Read the buckets that have a count; deltas are differences to the bucket before (remote-write §1.1)."""
    deltas, absolute = list(message.positive_deltas), list(message.positive_counts)
    counts = absolute if is_float else list(itertools.accumulate(deltas))
    spans = [(span.offset, span.length) for span in message.positive_spans]
    if (deltas if is_float else absolute) or sum(length for _, length in spans) != len(counts):
        raise RefusedMessageError(f"spans {spans} do not fit deltas {deltas} and counts {absolute}")
    if any(offset < 0 for offset, _ in spans[1:]):
        raise RefusedMessageError(f"spans overlap: {spans}")
    indexes: list[int] = []
    end = 0
    for offset, length in spans:
        indexes.extend(range(end + offset, end + offset + length))
        end += offset + length
    return {index: count for index, count in zip(indexes, counts, strict=True) if count != 0}


def check_labels(pairs: list[tuple[str, str]]) -> None:
    """Refuse labels that some receiver would not take as they are."""
    names = [name.encode() for name, _ in pairs]
    if names != sorted(set(names)):
        raise RefusedMessageError(f"labels not sorted or repeated: {pairs}")
    if not all(name and value for name, value in pairs):
        raise RefusedMessageError(f"empty label name or value: {pairs}")
    if "__name__" not in dict(pairs):
        raise RefusedMessageError(f"no metric name: {pairs}")


def check_samples(pairs: list[tuple[str, str]], series: TimeSeries) -> None:
    """Refuse samples and exemplars that are missing, mixed or out of order."""
    if series.samples and series.histograms:
        raise RefusedMessageError(f"samples and native histograms in one series: {pairs}")
    times = [timestamp_ms for timestamp_ms, _ in series.samples] or [
        sample.timestamp_ms for sample in series.histograms
    ]
    if not times:
        raise RefusedMessageError(f"series without samples: {pairs}")
    if times != sorted(set(times)):
        raise RefusedMessageError(f"samples out of order: {pairs} at {times}")
    exemplar_times = [exemplar.timestamp_ms for exemplar in series.exemplars]
    if exemplar_times != sorted(set(exemplar_times)):
        raise RefusedMessageError(f"exemplars out of order: {pairs} at {exemplar_times}")
