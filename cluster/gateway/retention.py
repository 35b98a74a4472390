"""Frames that a shard host has counted and no journal holds yet: they are sent again if the host loses them.

Keeps no time and sends nothing. One event loop owns it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from tenants.processing.flush_record import Place, ShardKey

NOWHERE = Place(0, 0)
"""Before every place: a frame that is known to be lost."""


@dataclass(slots=True, eq=False)
class Retained:
    """One frame.

    Attributes:
        key: the shard that counted it.
        made_for: index and count of the range that the request was split for.
        fingerprint: of the request.
        frame: its bytes.
        place: the flush record that holds it, or will.
        is_durable: set when that record is journalled.
    """

    key: ShardKey
    made_for: tuple[int, int]
    fingerprint: bytes
    frame: bytes = field(repr=False)
    place: Place
    is_durable: asyncio.Future[None] = field(repr=False)


class Retention:
    """The retained frames of one shard host. Whoever adds frames keeps to a bound of bytes.

    Attributes:
        size_bytes: of all frames, those that are being sent again included.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._frames: dict[ShardKey, list[Retained]] = {}

    def __bool__(self) -> bool:
        return bool(self._frames)

    def __len__(self) -> int:
        return sum(len(frames) for frames in self._frames.values())

    @property
    def keys(self) -> tuple[ShardKey, ...]:
        """The shards that hold frames."""
        return tuple(self._frames)

    def keep(self, retained: Retained) -> None:
        """Keep a frame until it is settled."""
        self._frames.setdefault(retained.key, []).append(retained)
        self.size_bytes += len(retained.frame)

    def settle(self, durable: Mapping[ShardKey, Place], asked: tuple[ShardKey, ...]) -> list[Retained]:
        """Drop what is journalled, and take out what is lost.

        Args:
            durable: the last journalled record of each shard that the host has.
            asked: the shards that it was asked for.

        Returns:
            The frames that the host does not have any more, in the order in which they came. They weigh on
            ``size_bytes`` until :meth:`drop` or, if they could not be sent again, :meth:`put_back`.
        """
        lost: list[Retained] = []
        for key in asked:
            place, kept = durable.get(key), []
            for retained in self._frames.get(key, ()):
                if place is None or retained.place.epoch < place.epoch:
                    lost.append(retained)
                elif retained.place <= place:
                    self.drop(retained)
                    if not retained.is_durable.done():
                        retained.is_durable.set_result(None)
                else:
                    kept.append(retained)
            if kept:
                self._frames[key] = kept
            else:
                self._frames.pop(key, None)
        return lost

    def drop(self, retained: Retained) -> None:
        """Forget a frame that was taken out."""
        self.size_bytes -= len(retained.frame)

    def put_back(self, retained: Retained) -> None:
        """Keep a frame that was taken out: it is lost still, and will be taken out again."""
        retained.place = NOWHERE
        self._frames.setdefault(retained.key, []).append(retained)
