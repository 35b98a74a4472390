"""From a tenant's registry to the batches of one collection, relabelled for each endpoint. Sends nothing."""

from collections.abc import Sequence
from dataclasses import replace

from tenants import _engine
from tenants.endpoint.batch import Batch
from tenants.endpoint.encoding import Encoded, Encoding
from tenants.endpoint.endpoint_settings import max_lanes, max_samples
from tenants.settings.protobuf_message import ProtobufMessage
from tenants.settings.tenant_settings import TenantSettings

BATCHES_A_LANE = 4
"""A tenant whose collection is smaller than some such batches gains nothing from lanes; they would cost requests."""


class CollectionEncoder:
    """Encodes collections of one tenant; keeps compiled rules, and how many batches there were, from one to the next.

    Attributes:
        left_out: series that rules of endpoints made impossible to send, over all collections, by reason.
    """

    def __init__(self) -> None:
        self.left_out = dict.fromkeys(("collision", "without_name", "too_large"), 0)
        self._relabel: dict[str, _engine.Relabel | None] = {}
        self._lanes = 1

    def encode(
        self,
        registry: _engine.Registry,
        settings: TenantSettings,
        timestamp_ms: int,
        encodings: Sequence[Encoding],
    ) -> Encoded:
        """Collect all series with samples at ``timestamp_ms``. Blocks for as long as that takes.

        Args:
            registry: whose series.
            settings: of the tenant.
            timestamp_ms: of every sample.
            encodings: what endpoints want, each once.
        """
        texts = {encoding.relabel for encoding in encodings}
        self._relabel = {text: self._relabel.get(text) or (_engine.Relabel(text) if text else None) for text in texts}
        encoded = registry.collect_each(
            timestamp_ms,
            list(settings.external_labels),
            max_samples(settings),
            [(self._relabel[encoding.relabel], encoding.message.value) for encoding in encodings],
            lanes=self._lanes,
        )
        most_batches = max((len(batches) for batches, _ in encoded), default=0)
        self._lanes = lanes_for(most_batches, self._lanes, max_lanes(settings))
        for _, left_out in encoded:
            for reason, count in left_out.items():
                self.left_out[reason] += count
        return {
            encoding: _in_steps(batches, timestamp_ms, encoding.message)
            for encoding, (batches, _) in zip(encodings, encoded, strict=True)
        }


def _in_steps(encoded: Sequence[_engine.WriteBatch], timestamp_ms: int, message: ProtobufMessage) -> list[Batch]:
    """Return batches with one sample of a series each, in the order in which they have to be sent.

    A receiver takes a batch twice only if that is so: of two samples the first is not the newest any more. Series that
    are new, or end, have more, and few collections have such.
    """
    ahead: list[Batch] = []
    alone: list[Batch] = []
    last: list[Batch] = []
    for written in encoded:
        whole = _batch(written, timestamp_ms, message)
        if not written.ahead:
            alone.append(whole)
            continue
        before, only, after = _engine.batch_steps(written.body, message.value)
        # A series may have a sample in each of them, such as a zero and, before a marker, its value.
        ahead += [replace(_part(whole, step), follows=number > 0) for number, step in enumerate(before)]
        if only is not None:
            alone.append(_part(whole, only))
        if after is not None:
            last.append(replace(_part(whole, after), follows=True))
    return [*ahead, *alone, *last]


def _batch(written: _engine.WriteBatch, timestamp_ms: int, message: ProtobufMessage) -> Batch:
    return Batch(
        written.body,
        _samples(written),
        written.exemplars,
        written.series,
        timestamp_ms,
        message,
        written.lane,
        written.lanes,
    )


def _part(whole: Batch, written: _engine.WriteBatch) -> Batch:
    return replace(
        whole,
        body=written.body,
        samples=_samples(written),
        exemplars=written.exemplars,
        series=written.series,
    )


def _samples(written: _engine.WriteBatch) -> int:
    # A native histogram is a sample like any other: it can be lost, and is counted then.
    return written.samples + written.histograms


def lanes_for(batches: int, before: int, most: int) -> int:
    """Return into how many lanes to divide a collection of about so many batches.

    A power of two, so that the number changes seldom: each time, everything of the former division is sent first.
    """
    wanted = min(most, max(1, batches // BATCHES_A_LANE))
    lanes = 1 << (wanted.bit_length() - 1)
    # A collection that is a little smaller than the last is no reason to go back.
    return min(before, most) if lanes < before and batches >= before * BATCHES_A_LANE // 2 else lanes
