"""Frames that a shard host has counted and no journal holds yet: they are sent again if the host loses them.

Keeps no time and sends nothing. One event loop owns it.
"""

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from tenants.processing.flush_record import Place, ShardKey

NOWHERE = Place(0, 0)
"""Before every place: a frame that is known to be lost."""


@dataclass(slots=True, eq=False)
class SentFrame:
    """A frame on its way, or counted. Cancelling a future stops nothing.

    Attributes:
        key: the shard that is to count it.
        made_for: index and count of the range that the request was split for.
        fingerprint: of the request.
        frame: its bytes.
        is_counted: whether the host has counted it.
        is_durable: done when it is journalled; never, if it was not counted.
        since_s: when the request came, by the event loop's clock.
        place: the flush record that holds it, or will, once it is counted.
    """

    key: ShardKey
    made_for: tuple[int, int]
    fingerprint: bytes
    frame: bytes = field(repr=False)
    is_counted: asyncio.Future[bool] = field(repr=False)
    is_durable: asyncio.Future[None] = field(repr=False)
    since_s: float
    place: Place = NOWHERE


class Retention:
    """The retained frames of one shard host. Whoever adds frames keeps to a bound of bytes.

    Attributes:
        size_bytes: of all frames, those that are being sent again included.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._frames: dict[ShardKey, list[SentFrame]] = {}
        # Taken out, and neither dropped nor put back yet.
        self._lost: set[SentFrame] = set()

    def __bool__(self) -> bool:
        return bool(self._frames)

    def __len__(self) -> int:
        return sum(len(frames) for frames in self._frames.values())

    @property
    def since_s(self) -> float | None:
        """When the oldest request came of which a frame is here, those that are being sent again included."""
        frames = itertools.chain(self._lost, *self._frames.values())
        return min((sent.since_s for sent in frames), default=None)

    @property
    def keys(self) -> tuple[ShardKey, ...]:
        """The shards that hold frames."""
        return tuple(self._frames)

    def keep(self, sent: SentFrame) -> None:
        """Keep a frame until it is settled."""
        self._frames.setdefault(sent.key, []).append(sent)
        self.size_bytes += len(sent.frame)

    def settle(self, durable: Mapping[ShardKey, Place], asked: tuple[ShardKey, ...]) -> list[SentFrame]:
        """Drop what is journalled, and take out what is lost.

        Args:
            durable: the last journalled record of each shard that the host has.
            asked: the shards that it was asked for.

        Returns:
            The frames that the host does not have any more, in the order in which they came. They weigh on
            ``size_bytes`` until :meth:`drop` or, if they could not be sent again, :meth:`put_back`.
        """
        lost: list[SentFrame] = []
        for key in asked:
            place, kept = durable.get(key), []
            for sent in self._frames.get(key, ()):
                if place is None or sent.place.epoch < place.epoch:
                    lost.append(sent)
                elif sent.place <= place:
                    self.drop(sent)
                    if not sent.is_durable.done():
                        sent.is_durable.set_result(None)
                else:
                    kept.append(sent)
            if kept:
                self._frames[key] = kept
            else:
                self._frames.pop(key, None)
        self._lost.update(lost)
        return lost

    def drop(self, sent: SentFrame) -> None:
        """Forget a frame that was taken out."""
        self._lost.discard(sent)
        self.size_bytes -= len(sent.frame)

    def put_back(self, sent: SentFrame) -> None:
        """Keep a frame that was taken out: it is lost still, and will be taken out again."""
        sent.place = NOWHERE
        self._lost.discard(sent)
        self._frames.setdefault(sent.key, []).append(sent)
