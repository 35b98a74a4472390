"""What is known about one way out: plain numbers. The actor that owns it exports them as metrics."""

from dataclasses import dataclass, field
from enum import StrEnum

from tenants.settings.protobuf_message import ProtobufMessage


class EndpointState(StrEnum):
    """What a sender is doing."""

    IDLE = "idle"
    SENDING = "sending"
    BACKING_OFF = "backing_off"
    PAUSED_UNAUTHORIZED = "paused_unauthorized"
    """401 or 403: batches wait until the settings change, or now and then one is taken."""
    PAUSED_NOT_FOUND = "paused_not_found"
    """404: the same."""
    CLOSED = "closed"
    CRASHED = "crashed"
    """A bug stopped it: batches wait, the oldest are dropped at the bound. It begins again within 10 minutes."""

    @property
    def is_paused(self) -> bool:
        """Whether somebody has to do something before samples are taken again."""
        return self in {EndpointState.PAUSED_UNAUTHORIZED, EndpointState.PAUSED_NOT_FOUND}


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
        samples_sent: samples in batches answered 2xx, without those that the receiver says it did not store.
        message: which message of Remote-Write it is sent.
        fallbacks: how often it was found not to know Remote-Write 2.0.
        exemplars_sent: exemplars that it has, as far as it says.
        exemplars_rejected: exemplars that it did not store, or that were in batches that it refused.
        batches_sent: batches answered 2xx.
        bytes_sent: compressed bytes in batches answered 2xx.
        retries: requests that were not the first for their batch.
        attempts_failed: requests to be sent again, by reason: ``http_429``, ``http_500``, ``http_503``, ``http_5xx``,
            ``timeout``, ``network``, ``secret``, ``backlog`` (the disk does not answer); or that paused the endpoint,
            ``http_401``, ``http_403``, ``http_404``; or were too large, ``http_413``.
        samples_failed: samples given up, by reason: ``http_<status>``, ``http_<n>xx`` (refused by the
            receiver, or for ever answered with 500 when it takes others), ``partial`` (not stored although it answered
            2xx), ``nothing_written`` (Remote-Write 2.0 is set, and it does not know that), ``malformed`` (not
            readable), ``too_old`` (waited for longer than the maximum age), ``closed`` (unsent at the end),
            ``backlog_lost`` (the disk does not have them any more).
        samples_dropped: samples that the bound of the queue drove out.
        pending_samples: samples that wait or are in flight, on disk or in memory.
        pending_bytes: compressed bytes that wait or are in flight, on disk or in memory.
        pending_batches: batches that wait or are in flight, on disk or in memory.
        stored_batches: of those that wait, on disk alone.
        stored_bytes: of those that wait, on disk alone.
        oldest_pending_ms: collection of the oldest batch that waits or is in flight, milliseconds since the epoch.
        lag_s: its age in seconds; 0 if nothing waits.
        last_success_ms: when a batch was last answered 2xx, milliseconds since the epoch.
        highest_sent_timestamp_ms: newest collection answered 2xx; now minus this is the endpoint's delay.
        last_error: reason and message of the last failed attempt, secrets masked; empty after a success.
    """

    endpoint: str
    url: str
    state: EndpointState = EndpointState.IDLE
    message: ProtobufMessage = ProtobufMessage.V2
    fallbacks: int = 0
    samples_submitted: int = 0
    samples_sent: int = 0
    exemplars_sent: int = 0
    exemplars_rejected: int = 0
    batches_sent: int = 0
    bytes_sent: int = 0
    retries: int = 0
    attempts_failed: dict[str, int] = field(default_factory=dict)
    samples_failed: dict[str, int] = field(default_factory=dict)
    samples_dropped: int = 0
    pending_samples: int = 0
    pending_bytes: int = 0
    pending_batches: int = 0
    stored_batches: int = 0
    stored_bytes: int = 0
    oldest_pending_ms: int | None = None
    lag_s: float = 0.0
    last_success_ms: int | None = None
    highest_sent_timestamp_ms: int | None = None
    last_error: str = ""
