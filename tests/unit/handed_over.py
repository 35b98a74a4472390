"""A tenant whose shards die, are cut anew and are sent the same requests again."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from tenants._engine import Mirror, Shard, durable_part, fingerprint
from tests.engine_driver import EngineDriver

WINDOW_NS = 10**16
"""Longer than any script: what was not flushed for long would otherwise be forgotten by those who live on."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A frame that a gateway sent, and the range that it was made for."""

    frame: bytes
    fingerprint: bytes
    made_for: tuple[int, int]
    now_ns: int


class HandedOver(EngineDriver):
    """An :class:`EngineDriver` with a collector that keeps what its shards' successors need.

    Attributes:
        mirror: fed with all records.
        durable: whose registry is fed with the durable parts of them alone.
        unflushed: what a gateway would send again if a shard died now.
        flushed: what it would not.
    """

    def __init__(self, plan: dict[str, Any], *, shards: int = 1) -> None:
        super().__init__(plan, strict_ids=True)
        self.mirror = Mirror(WINDOW_NS)
        self.durable = EngineDriver(plan)
        self.unflushed: list[Sent] = []
        self.flushed: list[Sent] = []
        self._sources: list[int] = []
        self._last_source = 0
        self.rescale(shards, 0)

    def apply(self, body: bytes, frames: list[tuple[int, bytes]], now_ns: int) -> None:
        # Requests that are equal by chance are two to whoever is compared.
        number = len(self.flushed) + len(self.unflushed)
        for index, frame in frames:
            sent = Sent(frame, fingerprint(body + number.to_bytes(8)), (index, len(self.shards)), now_ns)
            assert self.send(sent) == [index == other for other in range(len(self.shards))]
            self.unflushed.append(sent)

    def send(self, sent: Sent) -> list[bool]:
        """Send a frame to all shards; return whether each has something to flush."""
        return [
            shard.apply(sent.frame, sent.now_ns, fingerprint=sent.fingerprint, made_for=sent.made_for)
            for shard in self.shards
        ]

    def flush(self, now_ns: int, *, close_edges: bool = False) -> None:
        super().flush(now_ns, close_edges=close_edges)
        self.durable.flush(now_ns)
        self.flushed += self.unflushed
        self.unflushed = []

    def merge(self, index: int, record: bytes, now_ns: int) -> None:
        source, count, durable = self._sources[index], len(self.shards), durable_part(record)
        assert durable_part(durable) == durable
        self.registry.merge(source, record, now_ns)
        self.durable.registry.merge(source, durable, now_ns)
        Mirror.check(index, count, record)
        self.mirror.apply(index, count, record if source % 2 else durable, now_ns)

    def lose(self, indexes: Collection[int], now_ns: int) -> None:
        """Let shards die; everybody is sent again what was not flushed."""
        for index in indexes:
            self._begin(index, len(self.shards), now_ns)
        self._send_again()

    def rescale(self, count: int, now_ns: int) -> None:
        """Cut the tenant anew; what was not flushed is lost, and sent again as it was."""
        for source in self._sources:
            self._forget(source)
        self.shards, self._sources = [], []
        for index in range(count):
            self._begin(index, count, now_ns)
        self._send_again()

    def restart_collector(self) -> None:
        """Let the collector go on from its checkpoint."""
        self.mirror = Mirror.restore(self.mirror.checkpoint())

    def _begin(self, index: int, count: int, now_ns: int) -> None:
        # As if it were at once after the last flush: what is sent again comes with the time it first came at.
        now_ns = min([sent.now_ns for sent in self.unflushed], default=now_ns)
        twin = Mirror.restore(self.mirror.checkpoint())
        state = self.mirror.claim(index, count, now_ns)
        assert self.mirror.claim(index, count, now_ns) == state == twin.claim(index, count, now_ns)
        assert self.mirror.checkpoint() == twin.checkpoint()
        for source in self._sources[index : index + 1]:
            self._forget(source)
        shard = Shard(self._plan, index=index, count=count, deduplication_window_ns=WINDOW_NS, state=state)
        self._last_source += 1
        self.shards[index : index + 1] = [shard]
        self._sources[index : index + 1] = [self._last_source]

    def _send_again(self) -> None:
        for sent in self.unflushed:
            self.send(sent)

    def _forget(self, source: int) -> None:
        self.registry.forget_source(source)
        self.durable.registry.forget_source(source)
