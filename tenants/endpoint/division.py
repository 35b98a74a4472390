"""A batch as two, for a receiver that does not take the whole."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tenants import _engine
from tenants.endpoint.batch import Batch

Divide = Callable[[Batch], Sequence[Batch]]
"""Return parts of a batch by series, in place of it; or the batch itself if it cannot be divided."""


def parts(batch: Batch) -> Sequence[Batch]:
    """Divide a batch that the engine has made; any other stays whole. Takes as long as to compress it.

    Native histograms are parted from everything else first, and only then is anything halved.
    """
    try:
        written = _engine.split_batch(batch.body, batch.message.value)
    except _engine.MalformedFrame:
        return [batch]
    return [
        replace(
            batch,
            body=part.body,
            samples=part.samples + part.histograms,
            exemplars=part.exemplars,
            series=part.series,
        )
        for part in written
    ]


def cut(batch: Batch, size_bytes: int, divide: Divide) -> list[Batch]:
    """Divide a batch until every part has at most this size, or cannot be divided."""
    divided = divide(batch) if batch.size_bytes > size_bytes else ()
    return [each for part in divided for each in cut(part, size_bytes, divide)] if len(divided) > 1 else [batch]
