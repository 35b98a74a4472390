"""A batch as two, for a receiver that does not take the whole."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tenants import _engine
from tenants.endpoint.batch import Batch

Divide = Callable[[Batch], Sequence[Batch]]
"""Return halves of a batch by series, in place of it; or the batch itself if it cannot be divided."""


def halves(batch: Batch) -> Sequence[Batch]:
    """Divide a batch that the engine has made; any other stays whole. Takes as long as to compress it."""
    try:
        written = _engine.split_batch(batch.body, batch.message.value)
    except _engine.MalformedFrame:
        return [batch]
    return [
        replace(
            batch,
            body=half.body,
            samples=half.samples + half.histograms,
            exemplars=half.exemplars,
            series=half.series,
        )
        for half in written
    ]


def cut(batch: Batch, size_bytes: int, divide: Divide) -> list[Batch]:
    """Divide a batch until every part has at most this size, or cannot be divided."""
    parts = divide(batch) if batch.size_bytes > size_bytes else ()
    return [each for part in parts for each in cut(part, size_bytes, divide)] if len(parts) > 1 else [batch]
