"""What one shard has counted and its collector has not journalled yet: records in order."""

from collections import deque
from collections.abc import Iterator

from tenants.processing.flush_record import FlushRecord, Place, ShardKey


class Outbox:
    """The waiting records of one shard in one epoch. Not safe to share between threads; lost with the process."""

    def __init__(self, key: ShardKey, epoch: int) -> None:
        self._key = key
        self._epoch = epoch
        self._records: deque[FlushRecord] = deque()
        self.posted = 0
        self.acknowledged = 0

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[FlushRecord]:
        return iter(self._records)

    def post(self, data: bytes) -> None:
        """Add a record at the end; an empty one says nothing and is left out."""
        if data:
            self.posted += 1
            self._records.append(FlushRecord(self._key, Place(self._epoch, self.posted), data))

    def acknowledge(self, sequence: int) -> None:
        """Drop the records up to this one: they are journalled."""
        self.acknowledged = max(self.acknowledged, min(sequence, self.posted))
        while self._records and self._records[0].place.sequence <= sequence:
            self._records.popleft()
