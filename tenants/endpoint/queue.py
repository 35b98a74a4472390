"""What waits for one endpoint, bounded by bytes. Does no I/O and counts nothing: it hands back what it drops.

It lives in memory: what waits is lost with its process.
"""

from collections import deque

from tenants.endpoint.batch import Batch


class BatchQueue:
    """First in, first out, at most ``max_bytes`` of bodies.

    At the bound the oldest batches go: series are cumulative, so a newer batch repeats their counts and only
    resolution is lost. A batch that is larger than the bound all by itself is kept only if nothing else
    waits: it must not drive out many that fit. It then waits alone, and the next batch takes its place. So
    the queue never holds more than ``max_bytes``, or one batch.
    """

    def __init__(self, max_bytes: int) -> None:
        self._batches: deque[Batch] = deque()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._samples = 0

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def oldest(self) -> Batch | None:
        """The batch that would be taken next."""
        return self._batches[0] if self._batches else None

    @property
    def queued_bytes(self) -> int:
        """Bytes of the bodies that wait."""
        return self._bytes

    @property
    def queued_samples(self) -> int:
        """Samples in the batches that wait."""
        return self._samples

    def push(self, batch: Batch) -> list[Batch]:
        """Add a batch at the end; return what was dropped, oldest first (it may be ``batch`` itself)."""
        if batch.size_bytes > self._max_bytes and self._batches:
            return [batch]
        dropped = self._shrink_to(self._max_bytes - batch.size_bytes)
        self._batches.append(batch)
        self._bytes += batch.size_bytes
        self._samples += batch.samples
        return dropped

    def pop(self) -> Batch | None:
        """Take the oldest batch out; ``None`` if nothing waits."""
        return self._take_oldest() if self._batches else None

    def set_max_bytes(self, max_bytes: int) -> list[Batch]:
        """Change the bound; return what no longer fits, oldest first. The newest batch always stays."""
        self._max_bytes = max_bytes
        return self._shrink_to(max_bytes, keep=1)

    def clear(self) -> list[Batch]:
        """Take everything out, oldest first."""
        return [self._take_oldest() for _ in range(len(self._batches))]

    def _shrink_to(self, max_bytes: int, *, keep: int = 0) -> list[Batch]:
        dropped: list[Batch] = []
        while self._bytes > max_bytes and len(self._batches) > keep:
            dropped.append(self._take_oldest())
        return dropped

    def _take_oldest(self) -> Batch:
        batch = self._batches.popleft()
        self._bytes -= batch.size_bytes
        self._samples -= batch.samples
        return batch
