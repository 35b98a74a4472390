"""Whether batches of Remote-Write 1.0 and 2.0 say the same, also divided, in steps, or said again in 1.0."""

import struct
from collections.abc import Iterable
from typing import Any

from tenants._engine import WriteBatch, as_remote_write_1, batch_steps, split_batch
from tenants.settings.protobuf_message import ProtobufMessage
from tests.remote_write import COUNTER, HISTOGRAM, SeriesKey, TimeSeries, decode, decode_metadata
from tests.remote_write_v2 import SeriesV2, decode_v2

_PARTS = ("_bucket", "_count", "_sum")


def assert_same(one: list[WriteBatch], two: list[WriteBatch], *, counter_exemplars: bool) -> dict[SeriesKey, SeriesV2]:
    """Check the batches of one collection, and return what those of 2.0 say.

    Args:
        one: those of 1.0.
        two: those of 2.0, from the same registry.
        counter_exemplars: counters have exemplars in 1.0 too.
    """
    decoded = decoded_v2(two)
    simple = _simple(decoded)
    expected = decoded_v1(one)
    if not counter_exemplars:
        assert _bits({key: _without_exemplars(decoded, key) for key in simple}) == _bits(expected)
    else:
        assert _bits(simple) == _bits(expected)
    again = [as_remote_write_1(batch.body) for batch in two]
    assert _bits(decoded_v1(again)) == _bits(simple)
    # In as many messages: 1.0 takes two for a new native series with exemplars.
    assert sum(batch.series for batch in again) == sum(batch.series for batch in one)
    for batch in two:
        described = decode_metadata(as_remote_write_1(batch.body).body)
        assert described == {_family(key, each): each.metadata for key, each in decode_v2(batch.body).series.items()}
    # 1.0 says it once in a collection: in the last batch.
    described = {name: metadata for batch in one for name, metadata in decode_metadata(batch.body).items()}
    going_on = {_family(key, each): each.metadata for key, each in decoded.items() if not _ends(each.series)}
    assert going_on.items() <= described.items()
    assert all(not decode_metadata(batch.body) for batch in one[:-1])
    assert _bits(decoded_v1(_parts(one, ProtobufMessage.V1))) == _bits(expected)
    assert _bits(_simple(decoded_v2(_parts(two, ProtobufMessage.V2)))) == _bits(simple)
    assert _bits(_in_steps(one, ProtobufMessage.V1)) == _bits(expected)
    assert _bits(_in_steps(two, ProtobufMessage.V2)) == _bits(simple)
    return decoded


def decoded_v1(batches: Iterable[WriteBatch]) -> dict[SeriesKey, TimeSeries]:
    """Return the series of batches; one that goes on in the next is joined."""
    decoded: dict[SeriesKey, TimeSeries] = {}
    for batch in batches:
        series = decode(batch.body)
        assert _counts(series.values()) == (batch.samples, batch.histograms, batch.exemplars)
        for key, each in series.items():
            begun = decoded.get(key, TimeSeries([], []))
            assert key not in decoded or begun.histograms, "a series was sent in two messages"
            decoded[key] = TimeSeries(
                begun.samples + each.samples, begun.exemplars + each.exemplars, begun.histograms + each.histograms
            )
    return decoded


def decoded_v2(batches: Iterable[WriteBatch]) -> dict[SeriesKey, SeriesV2]:
    """Return the series of batches."""
    decoded: dict[SeriesKey, SeriesV2] = {}
    for batch in batches:
        series = decode_v2(batch.body).series
        assert len(series) == batch.series
        assert _counts(each.series for each in series.values()) == (batch.samples, batch.histograms, batch.exemplars)
        assert not decoded.keys() & series.keys(), "a series was sent in two messages"
        decoded |= series
    return decoded


def _parts(batches: list[WriteBatch], message: ProtobufMessage) -> list[WriteBatch]:
    parts = []
    for batch in batches:
        divided = split_batch(batch.body, message.value)
        if batch.samples and batch.histograms:
            assert [(part.samples, part.histograms) for part in divided] == [(batch.samples, 0), (0, batch.histograms)]
        else:
            sizes = [part.series for part in divided]
            assert sizes == ([batch.series // 2, (batch.series + 1) // 2] if batch.series > 1 else [1])
        parts += divided
    return parts


def _in_steps(batches: list[WriteBatch], message: ProtobufMessage) -> dict[SeriesKey, TimeSeries]:
    """Return what the steps of batches say one after the other; each may say one sample of a series."""
    said: dict[SeriesKey, TimeSeries] = {}
    for batch in batches:
        before, alone, last = batch_steps(batch.body, message.value)
        assert sum(step.samples + step.histograms for step in before) == batch.ahead
        assert (last is None) == (not batch.ahead)
        for step in [*before, *(step for step in (alone, last) if step is not None)]:
            one = decoded_v1([step]) if message is ProtobufMessage.V1 else _simple(decoded_v2([step]))
            for key, series in one.items():
                assert len(series.samples) + len(series.histograms) == 1
                begun = said.get(key, TimeSeries([], []))
                said[key] = TimeSeries(
                    begun.samples + series.samples,
                    begun.exemplars + series.exemplars,
                    begun.histograms + series.histograms,
                )
    return said


def _simple(decoded: dict[SeriesKey, SeriesV2]) -> dict[SeriesKey, TimeSeries]:
    return {key: each.series for key, each in decoded.items()}


def _counts(series: Iterable[TimeSeries]) -> tuple[int, int, int]:
    each = [(len(one.samples), len(one.histograms), len(one.exemplars)) for one in series]
    samples, histograms, exemplars = (sum(column) for column in zip((0, 0, 0), *each, strict=True))
    return samples, histograms, exemplars


def _bits(decoded: dict[SeriesKey, TimeSeries]) -> dict[SeriesKey, Any]:
    """Make markers comparable: a NaN equals nothing."""
    return {
        key: (
            [(at_ms, struct.pack(">d", value)) for at_ms, value in each.samples],
            [repr(histogram) for histogram in each.histograms],
            each.exemplars,
        )
        for key, each in decoded.items()
    }


def _without_exemplars(decoded: dict[SeriesKey, SeriesV2], key: SeriesKey) -> TimeSeries:
    each = decoded[key]
    is_counter = each.metadata.type == COUNTER
    return TimeSeries(each.series.samples, [] if is_counter else each.series.exemplars, each.series.histograms)


def _family(key: SeriesKey, each: SeriesV2) -> str:
    name = dict(key)["__name__"]
    if each.metadata.type == HISTOGRAM and not each.series.histograms:
        for part in _PARTS:
            name = name.removesuffix(part)
    return name


def _ends(series: TimeSeries) -> bool:
    if series.histograms:
        return series.histograms[-1].is_stale
    return series.samples[-1][1] != series.samples[-1][1]
