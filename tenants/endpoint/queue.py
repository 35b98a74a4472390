"""What waits for one endpoint, by lane, bounded by bytes. Does no I/O and counts nothing: it hands back what it drops.

A batch's body may be on disk alone. What is told of it stays here: some hundred bytes for each.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from tenants.endpoint.batch import Batch
from tenants.endpoint.size_limit import Excess
from tenants.endpoint.suspicion import Trouble


@dataclass(slots=True, eq=False)
class Waiting:
    """A batch that is not settled.

    Attributes:
        sequence: tells it from all others of its endpoint.
        batch: the whole; without its body while that is on disk alone.
        size_bytes: of the body.
        is_stored: it is on disk, or on its way there.
        is_loaded: its body is in memory.
        pieces: what is left to send of it, in place of the whole, once it has been divided.
        attempts: that failed, of what is to be sent next.
        trouble: it is answered with 500.
        excess: it is too large, or a part of it was.
    """

    sequence: int
    batch: Batch
    size_bytes: int
    is_stored: bool = False
    is_loaded: bool = True
    pieces: deque[Batch] = field(default_factory=deque)
    attempts: int = 0
    trouble: Trouble | None = None
    excess: Excess | None = None

    @property
    def piece(self) -> Batch:
        """What is to be sent next of it."""
        return self.pieces[0] if self.pieces else self.batch

    @property
    def left_samples(self) -> int:
        """Samples that are not settled."""
        return sum(piece.samples for piece in self.pieces) if self.pieces else self.batch.samples

    def divide(self, pieces: Sequence[Batch]) -> None:
        """Let these take the place of what is to be sent next."""
        if self.pieces:
            self.pieces.popleft()
        self.pieces.extendleft(reversed(pieces))
        self.attempts = 0

    def turn(self) -> None:
        """Let what is to be sent next wait for the other pieces."""
        self.pieces.rotate(-1)
        self.attempts = 0

    def settle_piece(self) -> bool:
        """Note that what was to be sent next is settled; return whether nothing is left."""
        if self.pieces:
            self.pieces.popleft()
        self.attempts = 0
        return not self.pieces


@dataclass(slots=True, eq=False)
class Lane:
    """A part of the series: what waits, oldest first, and what is on its way.

    Attributes:
        number: of the lane.
        waiting: oldest first.
        current: taken out and not settled.
        settled_rows: of what is settled, and still on disk.
        settled_ms: the collection of these rows.
    """

    number: int
    waiting: deque[Waiting] = field(default_factory=deque)
    current: Waiting | None = None
    settled_rows: list[int] = field(default_factory=list)
    settled_ms: int = 0

    @property
    def first(self) -> Waiting | None:
        """What is to be sent next."""
        return self.current or (self.waiting[0] if self.waiting else None)


class BatchQueue:
    """First in, first out in each lane, at most ``max_bytes`` of bodies.

    At the bound the oldest batches go: series are cumulative, so a newer batch repeats their counts and only
    resolution is lost. What a lane has on its way does not count and is spared. A batch that is larger than the bound
    all by itself is kept only if nothing else waits: it must not drive out many that fit. It then waits alone, and the
    next batch takes its place. So the queue never holds more than ``max_bytes``, or one batch.

    Batches of another division into lanes wait until everything before them is settled: a series may be in another
    lane there.
    """

    def __init__(self, max_bytes: int) -> None:
        # Of one division each; the first one's lanes are those in use.
        self._divisions: deque[_Division] = deque()
        self._max_bytes = max_bytes
        self._next_sequence = 1
        self._batches = 0
        self._bytes = 0
        self._samples = 0
        self._loaded_batches = 0
        self._loaded_bytes = 0

    def __len__(self) -> int:
        return self._batches

    @property
    def queued_bytes(self) -> int:
        """Bytes of the bodies that wait, wherever they are."""
        return self._bytes

    @property
    def queued_samples(self) -> int:
        """Samples in the batches that wait."""
        return self._samples

    @property
    def loaded_bytes(self) -> int:
        """Bytes of the bodies that wait in memory."""
        return self._loaded_bytes

    @property
    def unloaded_batches(self) -> int:
        """Batches that wait on disk alone."""
        return self._batches - self._loaded_batches

    @property
    def oldest_ms(self) -> int | None:
        """Collection of the oldest that waits or is on its way; None if there is none."""
        firsts = (lane.first for lane in self._all_lanes())
        return min((first.batch.timestamp_ms for first in firsts if first is not None), default=None)

    @property
    def lanes(self) -> list[Lane]:
        """The lanes in use."""
        return list(self._divisions[0].lanes.values()) if self._divisions else []

    def push(self, batch: Batch) -> list[Waiting]:
        """Add a batch at the end of its lane; return what was dropped, oldest first (it may be the batch itself)."""
        waiting = Waiting(0, batch, batch.size_bytes)
        self.renumber(waiting)
        if batch.size_bytes > self._max_bytes and self._batches:
            return [waiting]
        dropped = self._shrink_to(self._max_bytes - batch.size_bytes)
        self._append(waiting)
        return dropped

    def restore(self, stored: Iterable[Waiting]) -> list[Waiting]:
        """Add batches that are on disk, before any other; return what does not fit, oldest first."""
        for waiting in stored:
            self._append(waiting)
            self._next_sequence = max(self._next_sequence, waiting.sequence + 1)
        return self._shrink_to(self._max_bytes, keep=1)

    def renumber(self, waiting: Waiting) -> None:
        """Give a batch a number that no other has had."""
        waiting.sequence = self._next_sequence
        self._next_sequence += 1

    def take(self, lane: Lane) -> Waiting | None:
        """Return what is next in a lane, as what it has on its way; ``None`` if nothing waits there."""
        if lane.current is None and lane.waiting:
            lane.current = self._take_first(lane)
        return lane.current

    def leave_division(self) -> list[Lane]:
        """Go on with the next division if nothing of the first one is left; return the lanes that are given up."""
        if not self._divisions or any(lane.first for lane in self.lanes):
            return []
        return list(self._divisions.popleft().lanes.values())

    def set_max_bytes(self, max_bytes: int) -> list[Waiting]:
        """Change the bound; return what no longer fits, oldest first. The newest batch always stays."""
        self._max_bytes = max_bytes
        return self._shrink_to(max_bytes, keep=1)

    def drop_older(self, timestamp_ms: int) -> list[Waiting]:
        """Take out what belongs to collections before this time, oldest first."""
        dropped: list[Waiting] = []
        while (lane := self._oldest_lane()) is not None and lane.waiting[0].batch.timestamp_ms < timestamp_ms:
            dropped.append(self._take_first(lane))
        return dropped

    def drop_loaded(self, max_bytes: int) -> list[Waiting]:
        """Take out the oldest that are in memory alone, until at most ``max_bytes`` of bodies are there."""
        alone = [(lane, waiting) for lane in self._all_lanes() for waiting in lane.waiting if not waiting.is_stored]
        alone.sort(key=lambda each: (each[1].batch.timestamp_ms, each[1].sequence))
        dropped: list[Waiting] = []
        for lane, waiting in alone:
            if self._loaded_bytes <= max_bytes:
                break
            lane.waiting.remove(waiting)
            self._count(waiting, -1)
            dropped.append(waiting)
        return dropped

    def clear(self) -> list[Waiting]:
        """Take everything out that waits, oldest first."""
        return self._shrink_to(-1)

    def volatile(self) -> Iterator[Waiting]:
        """Everything that waits or is on its way and is not on disk, the newest of each lane first."""
        for lane in self._all_lanes():
            for waiting in reversed(lane.waiting):
                # What is on disk was put there together with all before it.
                if waiting.is_stored:
                    break
                yield waiting
            if lane.current is not None and not lane.current.is_stored:
                yield lane.current

    def on_the_way(self) -> list[Waiting]:
        """What the lanes have taken out and not settled."""
        return [lane.current for lane in self._all_lanes() if lane.current is not None]

    def forget(self, given_up: Collection[Waiting]) -> None:
        """Take these out, wherever they are."""
        for lane in self._all_lanes():
            for waiting in [each for each in lane.waiting if each in given_up]:
                lane.waiting.remove(waiting)
                self._count(waiting, -1)
            if lane.current in given_up:
                lane.current = None

    def unload(self, stored: Iterable[Waiting]) -> None:
        """Forget the bodies of batches that are on disk; what is on its way keeps its own."""
        kept = {*self.on_the_way()}
        for waiting in stored:
            if waiting.is_loaded and waiting not in kept:
                waiting.batch = replace(waiting.batch, body=b"")
                waiting.is_loaded = False
                self._count_loaded(waiting, -1)

    def unload_ahead(self) -> None:
        """Forget the bodies that were read from disk before their turn."""
        for lane in self._all_lanes():
            self.unload(list(takewhile(lambda waiting: waiting.is_stored and waiting.is_loaded, lane.waiting)))

    def load(self, waiting: Waiting, body: bytes) -> None:
        """Give a batch its body back."""
        if not waiting.is_loaded:
            waiting.batch = replace(waiting.batch, body=body)
            waiting.is_loaded = True
            if waiting not in self.on_the_way():
                self._count_loaded(waiting, 1)

    def _all_lanes(self) -> Iterator[Lane]:
        for division in self._divisions:
            yield from division.lanes.values()

    def _append(self, waiting: Waiting) -> None:
        batch = waiting.batch
        if not self._divisions or self._divisions[-1].count != batch.lanes:
            self._divisions.append(_Division(batch.lanes))
        self._divisions[-1].lanes.setdefault(batch.lane, Lane(batch.lane)).waiting.append(waiting)
        self._count(waiting, 1)

    def _count(self, waiting: Waiting, sign: int) -> None:
        self._batches += sign
        self._bytes += sign * waiting.size_bytes
        self._samples += sign * waiting.batch.samples
        if waiting.is_loaded:
            self._count_loaded(waiting, sign)

    def _count_loaded(self, waiting: Waiting, sign: int) -> None:
        self._loaded_batches += sign
        self._loaded_bytes += sign * waiting.size_bytes

    def _oldest_lane(self) -> Lane | None:
        """Return the lane of the oldest that waits: later divisions hold later ones."""
        for division in self._divisions:
            lanes = [lane for lane in division.lanes.values() if lane.waiting]
            if lanes:
                return min(lanes, key=lambda lane: (lane.waiting[0].batch.timestamp_ms, lane.waiting[0].sequence))
        return None

    def _shrink_to(self, max_bytes: int, *, keep: int = 0) -> list[Waiting]:
        dropped: list[Waiting] = []
        while self._bytes > max_bytes and self._batches > keep and (lane := self._oldest_lane()) is not None:
            dropped.append(self._take_first(lane))
        return dropped

    def _take_first(self, lane: Lane) -> Waiting:
        waiting = lane.waiting.popleft()
        self._count(waiting, -1)
        return waiting


@dataclass(slots=True)
class _Division:
    count: int
    lanes: dict[int, Lane] = field(default_factory=dict)
