"""Drives shards that end and begin anew: lost with what they had not told, or cut into other ranges.

It plays gateway, shard hosts and collector as :class:`tests.engine_driver.EngineDriver` does, with the protocol of
durable shards: frames are kept until a record that holds them was merged, and sent again when their shard is lost.
"""

from collections.abc import Collection as Members
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from tenants._engine import Mirror, Registry, Shard, durable_part, fingerprint, split
from tests.engine_driver import EngineDriver


@dataclass(frozen=True, slots=True)
class Delivery:
    """A frame on its way, with what a gateway says of it."""

    number: int
    fingerprint: bytes
    made_for: tuple[int, int]
    frame: bytes


class ContinuingDriver(EngineDriver):
    """One tenant whose shards come and go; at first there is one.

    ``durable`` is a second registry that is fed with the durable parts of the same records. ``mirror`` may be replaced
    by its checkpoint at any time (:meth:`restore_mirror`): a twin that never is must always claim the same bytes.
    """

    def __init__(self, plan: dict[str, Any], *, deduplication_window_ns: int = 10**18) -> None:
        super().__init__(plan)
        self.durable = Registry(self._plan, 0)
        self.mirror = Mirror(deduplication_window_ns)
        self.delivered: list[Delivery] = []
        self._twin = Mirror(deduplication_window_ns)
        self._window_ns = deduplication_window_ns
        self._owners = 0
        self._sources: list[int] = []
        self._unflushed: list[list[Delivery]] = []
        self._cut(1, 0)

    def push(self, request: Message | bytes, now_ns: int, *, skip_generation: bool = False) -> None:
        """Split one request for the shards of now, and have them apply its frames."""
        self._advance(now_ns)
        body = request if isinstance(request, bytes) else request.SerializeToString()
        count = len(self.shards)
        for index, frame in split(
            body, self._plan, count, now_ns, strict_ids=False, skip_generation=skip_generation
        ).frames:
            delivery = Delivery(len(self.delivered), fingerprint(body), (index, count), frame)
            self.delivered.append(delivery)
            self._deliver(delivery, now_ns)

    def send_again(self, delivery: Delivery, now_ns: int) -> None:
        """Send a frame that all its shards have applied."""
        assert not self._deliver(delivery, now_ns), "a duplicate was counted"

    def flush(self, now_ns: int, *, close_edges: bool = False) -> None:
        """Flush every shard and take its record in, as a collector does."""
        self._advance(now_ns)
        for index in range(len(self.shards)):
            self.flush_shard(index, now_ns, close_edges=close_edges)

    def flush_shard(self, index: int, now_ns: int, *, close_edges: bool = False) -> None:
        """Flush one shard; what it had applied is durable then."""
        record = self.shards[index].flush(now_ns, close_edges=close_edges)
        self._unflushed[index].clear()
        if record:
            key = (index, len(self.shards))
            durable = durable_part(record)
            self.registry.merge(self._sources[index], record, now_ns)
            self.durable.merge(self._sources[index], durable, now_ns)
            self.mirror.check(*key, record)
            self.mirror.apply(*key, record, now_ns)
            self._twin.apply(*key, durable, now_ns)

    def lose_shard(self, index: int, now_ns: int) -> None:
        """Replace a shard by its successor, and send it again what its records had not told."""
        lost = self._unflushed[index]
        self._begin(index, now_ns)
        for delivery in lost:
            assert self._apply(index, delivery, now_ns), "what was lost has to be counted"

    def recut(self, count: int, now_ns: int, lost: Members[int] = ()) -> None:
        """Cut the hash space into ``count`` ranges; the shards in ``lost`` do not come to their last flush."""
        pending: list[Delivery] = []
        for index in range(len(self.shards)):
            if index in lost:
                pending += self._unflushed[index]
            else:
                self.flush_shard(index, now_ns)
        self._cut(count, now_ns)
        for delivery in sorted(set(pending), key=lambda each: each.number):
            self._deliver(delivery, now_ns)

    def restore_mirror(self) -> None:
        """Let the mirror go through its checkpoint."""
        before = self.mirror.stats()
        self.mirror = Mirror.restore(self.mirror.checkpoint())
        assert self.mirror.stats() | {"state_bytes": 0} == before | {"state_bytes": 0}

    def _cut(self, count: int, now_ns: int) -> None:
        for source in self._sources:
            self._forget(source)
        self.shards = []
        self._sources = []
        self._unflushed = []
        for index in range(count):
            self.shards.append(self._claim(index, count, now_ns))
            self._sources.append(self._owners)
            self._unflushed.append([])

    def _begin(self, index: int, now_ns: int) -> None:
        self._forget(self._sources[index])
        self.shards[index] = self._claim(index, len(self.shards), now_ns)
        self._sources[index] = self._owners
        self._unflushed[index] = []

    def _claim(self, index: int, count: int, now_ns: int) -> Shard:
        self._owners += 1
        state = self.mirror.claim(index, count, now_ns)
        assert self._twin.claim(index, count, now_ns) == state
        return Shard(self._plan, index=index, count=count, deduplication_window_ns=self._window_ns, state=state)

    def _forget(self, source: int) -> None:
        self.registry.forget_source(source)
        self.durable.forget_source(source)

    def _deliver(self, delivery: Delivery, now_ns: int) -> bool:
        return sum(self._apply(index, delivery, now_ns) for index in range(len(self.shards))) > 0

    def _apply(self, index: int, delivery: Delivery, now_ns: int) -> bool:
        is_new = self.shards[index].apply(
            delivery.frame, now_ns, fingerprint=delivery.fingerprint, made_for=delivery.made_for
        )
        if is_new:
            self._unflushed[index].append(delivery)
        return is_new
