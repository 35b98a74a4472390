"""What is known about one way out: plain numbers. The actor that owns it exports them as metrics."""

from dataclasses import dataclass, field
from enum import StrEnum


class EndpointState(StrEnum):
    """What a sender is doing."""

    IDLE = "idle"
    SENDING = "sending"
    BACKING_OFF = "backing_off"
    CLOSED = "closed"
    CRASHED = "crashed"
    """A bug stopped it: batches wait, the oldest are dropped at the bound, nothing is sent."""


@dataclass(slots=True)
class EndpointCounters:
    """Totals since the sender started, and what waits now.

    At every moment ``samples_submitted`` = ``samples_sent`` + the sum of ``samples_failed`` +
    ``samples_dropped`` + ``pending_samples``.

    Attributes:
        endpoint: label of the endpoint.
        url: without its secrets.
        state: what the sender is doing.
        samples_submitted: samples handed over for sending.
        samples_sent: samples in batches answered 2xx.
        exemplars_sent: exemplars in batches answered 2xx.
        batches_sent: batches answered 2xx.
        bytes_sent: compressed bytes in batches answered 2xx.
        retries: requests that were not the first for their batch.
        samples_failed: samples given up, by reason: ``http_<status>``, ``http_<n>xx`` (refused by the
            receiver), ``too_old`` (failed for longer than the maximum age), ``closed`` (unsent at the end).
        samples_dropped: samples that the bound of the queue drove out.
        pending_samples: samples that wait or are in flight.
        pending_bytes: compressed bytes that wait or are in flight.
        pending_batches: batches that wait or are in flight.
        last_success_ms: when a batch was last answered 2xx, milliseconds since the epoch.
        highest_sent_timestamp_ms: newest collection answered 2xx; now minus this is the endpoint's delay.
        last_error: reason and message of the last failed attempt, secrets masked; empty after a success.
    """

    endpoint: str
    url: str
    state: EndpointState = EndpointState.IDLE
    samples_submitted: int = 0
    samples_sent: int = 0
    exemplars_sent: int = 0
    batches_sent: int = 0
    bytes_sent: int = 0
    retries: int = 0
    samples_failed: dict[str, int] = field(default_factory=dict)
    samples_dropped: int = 0
    pending_samples: int = 0
    pending_bytes: int = 0
    pending_batches: int = 0
    last_success_ms: int | None = None
    highest_sent_timestamp_ms: int | None = None
    last_error: str = ""
