"""Counts what becomes of the samples of one endpoint, and says in the log what is lost."""

from typing import Final

import structlog

from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.counters import EndpointCounters, EndpointState
from tenants.endpoint.exchange import Outcome
from tenants.endpoint.log_limit import LogLimit
from tenants.endpoint.surroundings import Clock

_NAMED_FAILURES: Final = frozenset({"http_500", "http_502", "http_503", "http_504"})


class Tally:
    """The counters of one endpoint, and the lines in the log that go with them: few, however much is lost.

    Attributes:
        counters: what waits is not in them.
        log: bound to tenant and endpoint.
    """

    def __init__(self, tenant: str, config: EndpointConfig, clock: Clock) -> None:
        self.counters = EndpointCounters(config.label, config.display_url)
        self.log: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(
            tenant=tenant, endpoint=config.label
        )
        self._clock = clock
        self._rejected_log, self._lost_log = LogLimit(), LogLimit()
        self._divided_log, self._secret_log = LogLimit(), LogLimit()

    def use(self, config: EndpointConfig) -> None:
        """Go on under another name."""
        self.counters.endpoint, self.counters.url = config.label, config.display_url
        self.log = self.log.bind(endpoint=config.label)

    def submitted(self, samples: int) -> None:
        """Count samples that were handed over."""
        self.counters.samples_submitted += samples

    def fell_back(self, outcome: Outcome) -> None:
        """Count that the endpoint was found not to know Remote-Write 2.0."""
        self.counters.fallbacks += 1
        self.log.info(
            "endpoint does not know Remote-Write 2.0, the batch was sent again as 1.0", reason=outcome.fell_back
        )

    def delivered(self, batch: Batch, outcome: Outcome) -> None:
        """Count a batch that the receiver has taken, or a part of it."""
        counters = self.counters
        if self._is_partial(batch, outcome, "partial"):
            self._refused(batch, outcome, "endpoint took only a part of what it was sent")
        counters.batches_sent += 1
        counters.bytes_sent += batch.size_bytes
        counters.last_success_ms = self._clock.now_ms()
        counters.highest_sent_timestamp_ms = max(batch.timestamp_ms, counters.highest_sent_timestamp_ms or 0)
        counters.last_error = ""

    def attempt_failed(self, outcome: Outcome) -> None:
        """Count a request whose batch is sent again."""
        reason = outcome.reason
        # A hostile receiver must not be able to invent hundreds of labels.
        if reason.startswith("http_5") and reason not in _NAMED_FAILURES:
            reason = "http_5xx"
        failed = self.counters.attempts_failed
        failed[reason] = failed.get(reason, 0) + 1

    def rejected(self, batch: Batch, outcome: Outcome) -> None:
        """Count a batch that the receiver will never take."""
        self._is_partial(batch, outcome, outcome.reason)
        self._refused(batch, outcome, "endpoint refused samples, they are dropped")

    def failed(self, reason: str, samples: int) -> None:
        """Count samples that were given up."""
        failed = self.counters.samples_failed
        failed[reason] = failed.get(reason, 0) + samples

    def too_old(self, samples: int) -> None:
        """Count samples that waited for too long."""
        self.failed("too_old", samples)
        self._lost("samples waited until they were too old, they are dropped", samples)

    def dropped(self, samples: int) -> None:
        """Count samples that the bound of the queue drove out."""
        self.counters.samples_dropped += samples
        self._lost("queue full, the oldest samples are dropped", samples)

    def divided(self, outcome: Outcome) -> None:
        """Say that a batch is sent in pieces."""
        withheld = self._divided_log.admit(self._clock.now_ms())
        if withheld is not None:
            self.log.warning(
                "batch is divided", status=outcome.status, message=outcome.message, withheld_lines=withheld
            )

    def secret_not_read(self, problem: str) -> None:
        """Say that a secret cannot be read again."""
        withheld = self._secret_log.admit(self._clock.now_ms())
        if withheld is not None:
            self.log.error(
                "secret of the endpoint cannot be read again, the last good one stays",
                problem=problem,
                withheld_lines=withheld,
            )

    def crashed(self, error: Exception, pause_s: float) -> None:
        """Say that a bug stopped the sender, and when it begins again."""
        self.counters.state = EndpointState.CRASHED
        self.counters.last_error = f"bug: {type(error).__name__}"
        self.log.error("sender stopped by a bug, it begins again after a pause", pause_s=pause_s, exc_info=error)

    def _is_partial(self, batch: Batch, outcome: Outcome, reason: str) -> bool:
        """Count what was stored of a batch, and the rest; return whether there is a rest."""
        samples, exemplars = outcome.stored(batch)
        counters = self.counters
        counters.samples_sent += samples
        counters.exemplars_sent += exemplars
        counters.exemplars_rejected += batch.exemplars - exemplars
        if samples < batch.samples:
            self.failed(reason, batch.samples - samples)
        return (samples, exemplars) != (batch.samples, batch.exemplars)

    def _refused(self, batch: Batch, outcome: Outcome, event: str) -> None:
        withheld = self._rejected_log.admit(self._clock.now_ms())
        if withheld is not None:
            samples, exemplars = outcome.stored(batch)
            self.log.error(
                event,
                status=outcome.status,
                message=outcome.message,
                samples=batch.samples - samples,
                exemplars=batch.exemplars - exemplars,
                withheld_lines=withheld,
            )

    def _lost(self, event: str, samples: int) -> None:
        withheld = self._lost_log.admit(self._clock.now_ms())
        if withheld is not None:
            self.log.error(event, samples=samples, last_error=self.counters.last_error, withheld_lines=withheld)
