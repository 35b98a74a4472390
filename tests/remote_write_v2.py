"""Decoder of Remote-Write 2.0 bodies, as strict as :mod:`tests.remote_write` is with those of 1.0.

Beside what holds there it refuses what breaks a rule of 2.0 (remote-write §1.2): a symbols table that does not begin
with the empty text or has a text twice, references that are odd or lead nowhere, a series without a sample or with both
forms, one without metadata, a start that is not before its sample, exemplars alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import snappy

from tests.remote_write import (
    HISTOGRAM_FIELDS,
    Metadata,
    RefusedMessageError,
    SeriesKey,
    TimeSeries,
    check_labels,
    check_samples,
    checked_exemplar,
    declared_class,
    native_sample,
)

_MESSAGES = {
    "Sample": ["double value", "int64 timestamp", "int64 start_timestamp"],
    "Exemplar": ["uint32* labels_refs", "double value", "int64 timestamp"],
    "BucketSpan": ["sint32 offset", "uint32 length"],
    "Histogram": [*HISTOGRAM_FIELDS, "int64 start_timestamp"],
    "Metadata": ["int64 type", "", "uint32 help_ref", "uint32 unit_ref"],
    "TimeSeries": [
        "uint32* labels_refs",
        "Sample* samples",
        "Histogram* histograms",
        "Exemplar* exemplars",
        "Metadata metadata",
        "int64 created_timestamp",  # as release candidate 3 had it
    ],
    "Request": ["", "", "", "string* symbols", "TimeSeries* timeseries"],
}
_Request = declared_class("io.prometheus.write.v2", _MESSAGES, "Request")


@dataclass(frozen=True, slots=True)
class SeriesV2:
    """One series: what 1.0 would say of it, and what only 2.0 says.

    Attributes:
        series: samples or histograms, and exemplars.
        metadata: of its metric.
        start_ms: since when it counts, 0 if it does not.
    """

    series: TimeSeries
    metadata: Metadata
    start_ms: int


@dataclass(frozen=True, slots=True)
class RequestV2:
    """One message: its symbols as they are, and its series by their full label set."""

    symbols: list[str]
    series: dict[SeriesKey, SeriesV2]


def decode_v2(body: bytes) -> RequestV2:
    """Return what one Remote-Write 2.0 body says.

    Raises:
        RefusedMessageError: the message breaks a rule of receivers.
        google.protobuf.message.DecodeError: the body is not a Request.
    """
    request = _Request.FromString(snappy.uncompress(body))
    symbols = list(request.symbols)
    if not symbols or symbols[0] or len(set(symbols)) != len(symbols):
        raise RefusedMessageError(f"symbols without the empty one, or one twice: {symbols}")
    decoded: dict[SeriesKey, SeriesV2] = {}
    for message in request.timeseries:
        pairs = _pairs(symbols, message.labels_refs)
        check_labels(pairs)
        key = frozenset(pairs)
        if key in decoded:
            raise RefusedMessageError(f"series sent twice in one message: {pairs}")
        decoded[key] = _series(symbols, pairs, message)
    return RequestV2(symbols, decoded)


def _series(symbols: list[str], pairs: list[tuple[str, str]], message: Any) -> SeriesV2:
    series = TimeSeries(
        [(sample.timestamp, sample.value) for sample in message.samples],
        [checked_exemplar(dict(_pairs(symbols, exemplar.labels_refs)), exemplar) for exemplar in message.exemplars],
        [native_sample(histogram) for histogram in message.histograms],
    )
    check_samples(pairs, series)
    start_ms = message.created_timestamp
    for point in (*message.samples, *message.histograms):
        # The zero sample is dated when its series begins: it has none.
        if point.start_timestamp != (start_ms if start_ms < point.timestamp else 0):
            raise RefusedMessageError(f"starts differ or are not before their sample: {pairs}")
    if not message.HasField("metadata") or not 1 <= message.metadata.type <= 7:
        raise RefusedMessageError(f"no metadata: {pairs}")
    help_text, unit = (_text(symbols, ref) for ref in (message.metadata.help_ref, message.metadata.unit_ref))
    return SeriesV2(series, Metadata(message.metadata.type, help_text, unit), start_ms)


def _pairs(symbols: list[str], refs: Iterable[int]) -> list[tuple[str, str]]:
    texts = [_text(symbols, ref) for ref in refs]
    if len(texts) % 2:
        raise RefusedMessageError(f"a label without a value: {texts}")
    return list(zip(texts[::2], texts[1::2], strict=True))


def _text(symbols: list[str], ref: int) -> str:
    if ref >= len(symbols):
        raise RefusedMessageError(f"no symbol {ref}, there are {len(symbols)}")
    return symbols[ref]
