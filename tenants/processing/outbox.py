"""What one shard has counted and its collector does not have yet: records in order, readable from the first one on.

A record names series by numbers that an earlier record defined. A collector that has lost what it knew needs those
definitions again, before the records that use them. Here is the order of all that; what is inside a record is the
engine's.
"""

from collections import deque
from collections.abc import Iterator

from tenants.processing.flush_record import FlushRecord, ShardKey


class Outbox:
    """The waiting records of one shard. Not safe to share between threads; lost with the process."""

    def __init__(self, key: ShardKey, sequence: int) -> None:
        """Begin empty.

        Args:
            key: the shard.
            sequence: the first record gets the next one.
        """
        self._key = key
        self._sequence = sequence
        self._records: deque[FlushRecord] = deque()
        # Of numberings that are over: the last sequence that needs them, and their definitions.
        self._former: deque[tuple[int, bytes]] = deque()
        self._defined_by = sequence

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[FlushRecord]:
        return iter(self._records)

    @property
    def is_self_contained(self) -> bool:
        """Whether the first record defines all that the others build on: even who knows nothing can read them."""
        return bool(self._records) and self._records[0].sequence == self._defined_by

    def post(self, data: bytes) -> None:
        """Add a record at the end; an empty one says nothing and is left out."""
        if data:
            self._sequence += 1
            self._records.append(FlushRecord(self._key, self._sequence, data))

    def acknowledge(self, sequence: int) -> None:
        """Drop the records up to this one: the collector has them."""
        while self._records and self._records[0].sequence <= sequence:
            self._records.popleft()
        while self._former and (not self._records or self._former[0][0] < self._records[0].sequence):
            self._former.popleft()

    def end_numbering(self, definitions: bytes) -> None:
        """Note that later records number their series anew; ``definitions`` are those of the records that wait."""
        if self._records:
            self._former.append((self._sequence, definitions))

    def redefine(self, definitions: bytes) -> None:
        """Make what waits readable for a collector that knows no definitions, and has none of what waits.

        Args:
            definitions: of the numbering in force.
        """
        waiting, numberings = self._records, [*self._former, (self._sequence, definitions)]
        self._records, self._former = deque(), deque()
        self._defined_by = self._sequence + 1
        for last, defined in numberings:
            self.post(defined)
            while waiting and waiting[0].sequence <= last:
                self.post(waiting.popleft().data)
            self._former.append((self._sequence, defined))
        self._former.pop()  # the numbering in force goes on
