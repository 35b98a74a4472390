"""One remote-write message that waits for its turn. Knows nothing of what is inside the body."""

from dataclasses import dataclass, field

from tenants.settings.protobuf_message import ProtobufMessage


@dataclass(frozen=True, slots=True)
class Batch:
    """One Remote-Write message, encoded and compressed: it is sent as it is, however often.

    The timestamps inside are fixed when the batch is made, so that sending it again adds nothing at a
    receiver that already has it (remote-write §2.5 point 7).

    Attributes:
        body: the protobuf message in snappy block format.
        samples: samples in it.
        exemplars: exemplars in it.
        series: time series in it.
        timestamp_ms: the collection it belongs to, milliseconds since the epoch.
        message: which message of Remote-Write it is.
        lane: which part of the tenant's series it holds: a series is always in the same one.
        lanes: of how many. Batches of different divisions are never on their way at once.
        follows: its series have earlier samples in batches of the same collection, before it. Once it may have arrived,
            those must never be sent again: they would not be the newest any more.
    """

    body: bytes = field(repr=False)
    samples: int
    exemplars: int
    series: int
    timestamp_ms: int
    message: ProtobufMessage = ProtobufMessage.V1
    lane: int = 0
    lanes: int = 1
    follows: bool = False

    @property
    def size_bytes(self) -> int:
        """Bytes that the batch occupies in a queue and on the wire."""
        return len(self.body)
