"""One remote-write message that waits for its turn. Knows nothing of what is inside the body."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Batch:
    """One Remote-Write 1.0 message, encoded and compressed: it is sent as it is, however often.

    The timestamps inside are fixed when the batch is made, so that sending it again adds nothing at a
    receiver that already has it (remote-write §2.5 point 7).

    Attributes:
        body: the protobuf message in snappy block format.
        samples: samples in it.
        exemplars: exemplars in it.
        series: time series in it.
        timestamp_ms: the collection it belongs to, milliseconds since the epoch.
    """

    body: bytes = field(repr=False)
    samples: int
    exemplars: int
    series: int
    timestamp_ms: int

    @property
    def size_bytes(self) -> int:
        """Bytes that the batch occupies in a queue and on the wire."""
        return len(self.body)
