"""A shard host for tests of the way to it: takes groups, and says what is journalled when it is told to."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from cluster.gateway.host_lane import GroupBounds
from tenants.processing.flush_record import Place, ShardKey
from tenants.processing.frame_group import FrameGroup

NEVER_S: Final = 60.0
ALONE: Final = GroupBounds(max_bytes=1, wait_s=NEVER_S)


class FrameTaker:
    """Takes groups. While held, calls wait.

    Args:
        outcomes: are played one by one: an error, or the positions of the frames that are not counted; then everything
            is.

    Attributes:
        asked: how often it was asked what is journalled.
    """

    def __init__(self, *outcomes: Exception | Collection[int]) -> None:
        self.groups: list[FrameGroup] = []
        self.at_once = 0
        self.asked = 0
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
