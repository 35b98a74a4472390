"""A shard host for tests of the way to it: takes groups, and says what is journalled when it is told to."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from cluster.gateway.host_lane import GroupBounds
from tenants import _engine
from tenants.processing.flush_record import Place, ShardKey
from tenants.processing.frame_group import FrameGroup
from tests.unit.tenant_work import ACME, NOW_NS, book

NEVER_S: Final = 60.0
ALONE: Final = GroupBounds(max_bytes=1, wait_s=NEVER_S)


class FrameTaker:
    """Takes groups. While held, calls wait.

    Args:
        outcomes: are played one by one: an error, or the positions of the frames that are not counted; then everything
            is.

    Attributes:
        asked: how often it was asked what is journalled.
        adopted: the shards that it was asked to claim, call by call.
        claims: whether it has them then.
    """

    def __init__(self, *outcomes: Exception | Collection[int]) -> None:
        self.groups: list[FrameGroup] = []
        self.at_once = 0
        self.asked = 0
        self.adopted: list[Collection[ShardKey]] = []
        self.claims = False
        self.epoch = 1
        self._taken = 0
        self._places: dict[ShardKey, Place] = {}
        self._journalled: dict[ShardKey, Place] = {}
        self._outcomes = list(outcomes)
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """Let calls wait."""
        self._open.clear()

    def release(self) -> None:
        """Let them go on."""
        self._open.set()

    def journal(self) -> None:
        """Say from now on that everything taken so far is journalled."""
        self._journalled |= self._places

    def lose(self) -> None:
        """Forget everything, as a new process has."""
        self.epoch += 1
        self._places.clear()
        self._journalled.clear()

    @property
    def payloads(self) -> list[bytes]:
        """What was taken, group by group."""
        return [group.payload for group in self.groups]

    async def take(self, group: FrameGroup) -> Sequence[Place | None]:
        """Count a group."""
        self.groups.append(group)
        self.at_once += 1
        try:
            await self._open.wait()
        finally:
            self.at_once -= 1
        outcome = self._outcomes.pop(0) if self._outcomes else ()
        if isinstance(outcome, Exception):
            raise outcome
        self._taken += 1
        place = Place(self.epoch, self._taken)
        self._places |= {head.key: place for head in group.heads}
        for key in self._places:
            self._journalled.setdefault(key, Place(self.epoch, 0))
        return [None if position in outcome else place for position in range(len(group.heads))]

    async def durable(self, keys: Collection[ShardKey]) -> Mapping[ShardKey, Place]:
        """Say what is journalled."""
        self.asked += 1
        return {key: self._journalled[key] for key in keys if key in self._journalled}

    async def adopt(self, keys: Collection[ShardKey]) -> Collection[ShardKey]:
        """Claim shards."""
        self.adopted.append(keys)
        return keys if self.claims else ()


def ledger_of(taker: FrameTaker) -> dict[tuple[str, str], int]:
    """What the ledgers of all frames that were taken say together."""
    plan = book().get(ACME).plan
    registry = _engine.Registry(plan, 0)
    for number, group in enumerate(taker.groups):
        start = 0
        for position, head in enumerate(group.heads):
            shard = _engine.Shard(plan, index=head.key.index, count=head.key.count)
            shard.apply(group.payload[start : start + head.length], NOW_NS, made_for=head.made_for)
            start += head.length
            registry.merge(1000 * number + position, shard.flush(NOW_NS), NOW_NS)
    return registry.ledger_totals()
