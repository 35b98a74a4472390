"""Decoder of Remote-Write 1.0 bodies, as strict as the strictest receiver.

Takes what a POST carries (snappy block format around ``prometheus.WriteRequest``) and refuses what some
receiver would refuse or repair (remote-write §1.4, §2.1): unsorted or repeated labels, empty names and
values, a series without name or samples, samples out of order, exemplars over 128 characters. It judges one
message; order between messages is the business of the test that collects them.
"""

import struct
from dataclasses import dataclass
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
class TimeSeries:
    """Samples as (milliseconds, value) and exemplars of one series, in the order in which they were sent."""

    samples: list[Sample]
    exemplars: list[Exemplar]


class RefusedMessageError(ValueError):
    """A receiver would refuse or repair this message; the text says which rule it breaks."""


_SCALARS = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "int64": FieldDescriptorProto.TYPE_INT64,
}
_MESSAGES = {  # message: fields in the order of their numbers, from 1; "*" is repeated (remote-write §1.1)
    "Label": ["string name", "string value"],
    "Sample": ["double value", "int64 timestamp"],
    "Exemplar": ["Label* labels", "double value", "int64 timestamp"],
    "TimeSeries": ["Label* labels", "Sample* samples", "Exemplar* exemplars"],
    "WriteRequest": ["TimeSeries* timeseries"],
}


def _write_request_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="remote.proto", package="prometheus", syntax="proto3")
    for message_name, declarations in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for number, declaration in enumerate(declarations, start=1):
            kind, name = declaration.split()
            field = message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
            if kind.endswith("*"):
                field.label = FieldDescriptorProto.LABEL_REPEATED
                field.type = FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = f".prometheus.{kind.removesuffix('*')}"
            else:
                field.type = _SCALARS[kind]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("prometheus.WriteRequest"))


_WriteRequest = _write_request_class()


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
            [_exemplar(exemplar) for exemplar in message.exemplars],
        )
        _check_labels(pairs)
        _check_samples(pairs, series)
        key = frozenset(pairs)
        if key in decoded:
            raise RefusedMessageError(f"series sent twice in one message: {pairs}")
        decoded[key] = series
    return decoded


def _exemplar(message: Any) -> Exemplar:
    labels = {label.name: label.value for label in message.labels}
    if sum(len(name) + len(value) for name, value in labels.items()) > MAX_EXEMPLAR_CHARACTERS:
        raise RefusedMessageError(f"exemplar labels too long: {labels}")
    return Exemplar(labels, message.value, message.timestamp)


def _check_labels(pairs: list[tuple[str, str]]) -> None:
    names = [name.encode() for name, _ in pairs]
    if names != sorted(set(names)):
        raise RefusedMessageError(f"labels not sorted or repeated: {pairs}")
    if not all(name and value for name, value in pairs):
        raise RefusedMessageError(f"empty label name or value: {pairs}")
    if "__name__" not in dict(pairs):
        raise RefusedMessageError(f"no metric name: {pairs}")


def _check_samples(pairs: list[tuple[str, str]], series: TimeSeries) -> None:
    times = [timestamp_ms for timestamp_ms, _ in series.samples]
    if not times:
        raise RefusedMessageError(f"series without samples: {pairs}")
    if times != sorted(set(times)):
        raise RefusedMessageError(f"samples out of order: {pairs} at {times}")
