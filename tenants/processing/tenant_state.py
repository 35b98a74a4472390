"""What a collector knows of one tenant, as a function of the tenant's journal: the same entries, the same state.

Nothing here reads a clock, waits or writes: an entry is journalled first, and then put in force by the methods below,
in the order of the journal. After a restart :meth:`TenantState.replay` does the same with what the journal holds.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Self

from tenants import _engine
from tenants.identity.tenant_id import TenantId
from tenants.journal.entries import (
    BeginEntry,
    ClaimEntry,
    CollectEntry,
    Entry,
    PlanEntry,
    RecordEntry,
    ReleaseEntry,
)
from tenants.processing.flush_record import Claimed, Place, ShardKey

DEDUPLICATION_WINDOW_NS = 600_000_000_000
"""For this long a request that comes again is known (design §3)."""

_LENGTH = 4
_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says why."""


@dataclass(slots=True)
class Owner:
    """Who counts for a range.

    Attributes:
        host: name of the shard host.
        epoch: of its ownership.
        sequence: its last record that is in force.
    """

    host: str
    epoch: int
    sequence: int = 0


class TenantState:
    """Registry, mirror of the shards, and owners of the ranges. Not safe to share between threads.

    Attributes:
        registry: the cumulative series.
        plan_text: of the settings that the registry is under.
        owners: of every range that somebody counts for.
        collected_at_ms: timestamp of the last collection; before the first: when the tenant began.
        delivered_ms: every collection up to this one was delivered or given up, or is in the backlog, as far as the
            journal tells.
        fenced_records: records of shards that had lost their range.
    """

    def __init__(self, tenant: TenantId, begin: BeginEntry) -> None:
        self.tenant = tenant
        self.plan_text = begin.plan_text
        self.registry = _engine.Registry(_engine.Plan(begin.plan_text), begin.started_at_ms, seed=begin.seed)
        self.owners: dict[ShardKey, Owner] = {}
        self.collected_at_ms = begin.started_at_ms
        self.delivered_ms = begin.started_at_ms
        self.fenced_records = 0
        self._mirror = _engine.Mirror(DEDUPLICATION_WINDOW_NS)
        self._last_epoch = 0
        self._may_have_orphans = False

    def next_epoch(self, now_ms: int) -> int:
        """Return an epoch above every one there was, also in a former life of the tenant."""
        return max(self._last_epoch + 1, now_ms)

    def overlapping(self, key: ShardKey) -> list[tuple[ShardKey, Owner]]:
        """Return the owned ranges that have a hash in common with ``key``."""
        return [(other, owner) for other, owner in self.owners.items() if other.overlaps(key)]

    def is_next(self, key: ShardKey, place: Place) -> bool:
        """Whether this record comes next for its range: not one that is in force, nor of an owner that was fenced."""
        owner = self.owners.get(key)
        return owner is not None and place == (owner.epoch, owner.sequence + 1)

    def is_fenced(self, key: ShardKey, place: Place) -> bool:
        """Whether who counted this does not own the range any more.

        An epoch that is not known yet is not fenced: it is this state that is behind.
        """
        owner = self.owners.get(key)
        return place.epoch <= self._last_epoch and (owner is None or owner.epoch != place.epoch)

    def take(self, entry: RecordEntry, data: bytes | None = None) -> bool:
        """Add a flush record, if it is its owner's next.

        Args:
            entry: as it is in the journal.
            data: the whole record; the journal's part of it lacks exemplars.

        Returns:
            Whether it was added.

        Raises:
            MalformedFrame: it cannot be read; nothing was added, and its owner has lost the range.
        """
        key, place = ShardKey(self.tenant, entry.index, entry.count), Place(entry.epoch, entry.sequence)
        if not self.is_next(key, place):
            self.fenced_records += self.is_fenced(key, place)
            return False
        try:
            # Both or none of the two.
            self._mirror.check(entry.index, entry.count, entry.data)
            self.registry.merge(entry.epoch, entry.data if data is None else data, entry.now_ns)
        except _engine.MalformedFrame:
            self._disown(key)
            raise
        self._mirror.apply(entry.index, entry.count, entry.data, entry.now_ns)
        self.owners[key].sequence = entry.sequence
        return True

    def claim(self, entry: ClaimEntry) -> Claimed:
        """Give a range to a new owner, and take what overlaps from all others."""
        key = ShardKey(self.tenant, entry.index, entry.count)
        for other, _ in self.overlapping(key):
            self._disown(other)
        self.owners[key] = Owner(entry.host, entry.epoch)
        self._last_epoch = max(self._last_epoch, entry.epoch)
        return Claimed(entry.epoch, self._mirror.claim(entry.index, entry.count, entry.now_ns))

    def release(self, entry: ReleaseEntry) -> None:
        """Take a range from its owner; what was known of it stays for the next."""
        key = ShardKey(self.tenant, entry.index, entry.count)
        owner = self.owners.get(key)
        if owner is not None and owner.epoch == entry.epoch:
            self._disown(key)

    def set_plan(self, entry: PlanEntry, plan: _engine.Plan) -> None:
        """Go on with other settings."""
        self.registry.set_plan(plan)
        self.plan_text = entry.plan_text

    def begin_collection(self, entry: CollectEntry) -> None:
        """Note a collection; the registry is encoded by whoever sends it."""
        self.collected_at_ms = entry.timestamp_ms
        self.delivered_ms = entry.delivered_ms

    def orphans(self) -> list[ShardKey]:
        """Return the ranges in which half edges wait and nobody counts: they have to end even if no more spans come."""
        if not self._may_have_orphans:
            return []
        ranges = ((ShardKey(self.tenant, index, count), edges) for index, count, edges in self._mirror.ranges())
        orphans = [key for key, edges in ranges if edges and key not in self.owners]
        self._may_have_orphans = bool(orphans)
        return orphans

    def mirror_stats(self) -> dict[str, int]:
        """Return the figures of what is kept for the shards' successors."""
        return self._mirror.stats()

    def replay(self, entry: Entry) -> None:
        """Put an entry of the journal in force again; collections are not encoded.

        Raises:
            CheckpointError: the entry does not belong there, or another version of Millrace wrote it.
        """
        match entry:
            case RecordEntry():
                self._replay_record(entry)
            case ClaimEntry():
                self.claim(entry)
            case ReleaseEntry():
                self.release(entry)
            case PlanEntry():
                self.set_plan(entry, _engine.Plan(entry.plan_text))
            case CollectEntry():
                self.begin_collection(entry)
                if entry.is_silent:
                    self.registry.sweep(entry.timestamp_ms)
                else:
                    self.registry.collect_silently(entry.timestamp_ms)
            case BeginEntry():
                raise CheckpointError("the tenant begins twice")

    def _replay_record(self, entry: RecordEntry) -> None:
        try:
            # What cannot be opened is never journalled.
            _engine.durable_part(entry.data)
        except _engine.MalformedFrame as error:
            raise CheckpointError(f"{error}; run the version of Millrace that wrote it") from error
        # What it holds was refused then, and is now.
        with contextlib.suppress(_engine.MalformedFrame):
            self.take(entry)

    def _disown(self, key: ShardKey) -> None:
        owner = self.owners.pop(key)
        self.registry.forget_source(owner.epoch)
        # Also of a part of it that a claim has left over.
        self._may_have_orphans = True

    def checkpoint(self) -> bytes:
        """Return everything, to go on from with :meth:`restore`."""
        head = json.dumps(
            {
                "version": _VERSION,
                "plan": self.plan_text,
                "collected_at_ms": self.collected_at_ms,
                "delivered_ms": self.delivered_ms,
                "last_epoch": self._last_epoch,
                "owners": [[key.index, key.count, asdict(owner)] for key, owner in self.owners.items()],
            }
        ).encode()
        return b"".join(_framed(part) for part in (head, self.registry.checkpoint(), self._mirror.checkpoint()))

    @classmethod
    def restore(cls, tenant: TenantId, checkpoint: bytes) -> Self:
        """Make the state of a checkpoint.

        Raises:
            CheckpointError: it was made by another version, or is damaged.
        """
        try:
            head_bytes, registry, mirror = _parts(memoryview(checkpoint))
            head = json.loads(bytes(head_bytes))
            if head["version"] != _VERSION:
                raise CheckpointError(f"made by another version of Millrace ({head['version']})")
            state = cls.__new__(cls)
            state.tenant = tenant
            state.plan_text = head["plan"]
            state.registry = _engine.Registry.restore(_engine.Plan(state.plan_text), registry)
            state._mirror = _engine.Mirror.restore(mirror)
            state.owners = {ShardKey(tenant, index, count): Owner(**owner) for index, count, owner in head["owners"]}
            state.collected_at_ms = head["collected_at_ms"]
            state.delivered_ms = head["delivered_ms"]
            state._last_epoch = head["last_epoch"]
            state.fenced_records = 0
            state._may_have_orphans = True
        except (_engine.EngineError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{type(error).__name__}: {error}"[:300]) from error
        return state


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(_LENGTH, "little") + part


def _parts(checkpoint: memoryview) -> Iterator[memoryview]:
    at = 0
    while at < len(checkpoint):
        length = int.from_bytes(checkpoint[at : at + _LENGTH], "little")
        at += _LENGTH
        yield checkpoint[at : at + length]
        at += length
