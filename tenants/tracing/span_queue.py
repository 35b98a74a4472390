"""Spans that ended, on their way to the receiver: a bounded queue, and a thread that empties it."""

import threading
import time
from collections import Counter, deque
from typing import Final, Protocol

import structlog
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from tenants.endpoint.log_limit import LogLimit
from tenants.tracing.span_post import Posted

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

MAX_WAITING: Final = 2048
"""Spans that wait, some MiB. Beyond it new ones are dropped and counted."""

SPANS_AT_ONCE: Final = 512
"""In one request: more than tracing one request makes, so that what a receiver in this same service traces of it dies
away."""

_COMPANY_S: Final = 1.0
"""How long a span waits for others."""
_MIN_PAUSE_S: Final = 1.0
_MAX_PAUSE_S: Final = 30.0


class Post(Protocol):
    """The way to the receiver. Calls block."""

    def send(self, spans: list[ReadableSpan]) -> Posted:
        """Send spans once."""

    def close(self) -> None:
        """Let go of the connection."""


class SpanQueue(SpanProcessor):
    """Takes spans from any thread without ever blocking, and sends them from one of its own.

    While the receiver does not answer, the spans at hand are tried again after growing pauses, and others wait, up to
    :data:`MAX_WAITING`. State held: what waits; lost with the process.

    Attributes:
        sent: spans that the receiver took.
        dropped: the others, by reason: ``queue_full``, ``refused``, ``closed``.
    """

    def __init__(self, post: Post, *, company_s: float = _COMPANY_S, pause_s: float = _MIN_PAUSE_S) -> None:
        self.sent = 0
        self.dropped: Counter[str] = Counter()
        self._post = post
        self._company_s = company_s
        self._min_pause_s = pause_s
        self._waiting: deque[ReadableSpan] = deque()
        self._lock = threading.Lock()
        self._has_arrived = threading.Event()
        self._closing = threading.Event()
        self._log_limit = LogLimit()
        self._is_failing = False
        self._is_reported = False
        # Not waited for at the end of the process: the receiver may hang.
        self._thread = threading.Thread(target=self._run, name="own-traces", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span."""
        with self._lock:
            if self._closing.is_set():
                self.dropped["closed"] += 1
                return
            if len(self._waiting) >= MAX_WAITING:
                self.dropped["queue_full"] += 1
                return
            self._waiting.append(span)
        self._has_arrived.set()

    def close(self, timeout_s: float) -> None:
        """Try once to send what waits; returns after ``timeout_s`` at most. Can be repeated."""
        with self._lock:
            self._closing.set()
        self._has_arrived.set()
        self._thread.join(timeout_s)

    def shutdown(self) -> None:
        """As :meth:`close`, without waiting."""
        self.close(0)

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002  (the SDK's face)
        """Nobody waits for spans; whether there are none."""
        return not self._waiting

    def _run(self) -> None:
        while True:
            self._has_arrived.wait()
            self._closing.wait(self._company_s)
            self._has_arrived.clear()
            # Before the queue is emptied: what came until then is in it.
            is_last = self._closing.is_set()
            while batch := self._take():
                self._deliver(batch)
            if is_last:
                self._post.close()
                return

    def _take(self) -> list[ReadableSpan]:
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(SPANS_AT_ONCE, len(self._waiting)))]

    def _deliver(self, batch: list[ReadableSpan]) -> None:
        pause_s = self._min_pause_s
        while True:
            posted = self._try(batch)
            if not posted.problem:
                self._on_sent(batch)
                return
            self._on_failed(posted.problem)
            if posted.is_final:
                self._drop("refused", len(batch))
                return
            if self._closing.wait(pause_s):
                # At most one more attempt is made for all of it, or who ends would not get on.
                self._drop("closed", len(batch) + len(self._take_all()))
                return
            pause_s = min(_MAX_PAUSE_S, 2 * pause_s)

    def _try(self, batch: list[ReadableSpan]) -> Posted:
        try:
            return self._post.send(batch)
        except Exception as error:
            # A bug must end neither the thread nor what is traced.
            log.exception("own traces could not be sent by a bug")
            return Posted(type(error).__name__, is_final=True)

    def _take_all(self) -> list[ReadableSpan]:
        with self._lock:
            left = list(self._waiting)
            self._waiting.clear()
        return left

    def _drop(self, reason: str, spans: int) -> None:
        with self._lock:
            self.dropped[reason] += spans

    def _on_sent(self, batch: list[ReadableSpan]) -> None:
        self.sent += len(batch)
        if self._is_reported:
            log.info("own traces are sent again", spans_dropped=sum(self.dropped.values()))
        self._is_failing = self._is_reported = False

    def _on_failed(self, problem: str) -> None:
        # Once, until it is over, and not every time if it is over soon; the counters have the rest.
        if not self._is_failing and (withheld := self._log_limit.admit(time.monotonic_ns() // 1_000_000)) is not None:
            log.warning("own traces cannot be sent", problem=problem, withheld_lines=withheld)
            self._is_reported = True
        self._is_failing = True
