"""What a gateway sends a shard host: the frames of many tenants in one buffer."""

from dataclasses import dataclass
from typing import NamedTuple

from tenants.processing.flush_record import ShardKey


class FrameHead(NamedTuple):
    """One frame of a group.

    Attributes:
        key: the shard that is to count it.
        made_for: index and count of the range that the request was split for. After a rescale, which is why a frame
            may come to a shard of another range, the shard takes the rows that are its own.
        fingerprint: of the request: a shard counts one only once.
        length: bytes of the frame.
    """

    key: ShardKey
    made_for: tuple[int, int]
    fingerprint: bytes
    length: int


@dataclass(frozen=True, slots=True)
class FrameGroup:
    """Frames of many tenants: one call carries them all.

    Attributes:
        heads: in the order of ``payload``.
        payload: the frames, one after the other.
        traceparent: of the trace of Millrace itself that a request in it is in; empty: of none.
    """

    heads: tuple[FrameHead, ...]
    payload: bytes
    traceparent: str = ""
