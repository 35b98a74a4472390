"""Traces by OpenTelemetry's SDK. Imported only while tracing is on."""

import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tenants.settings.tracing import TracingConfig
from tenants.tracing.span_post import SpanPost
from tenants.tracing.span_queue import SpanQueue
from tenants.tracing.spans import TENANT, Attributes, Kind, Span

RARE_A_SECOND: Final = 10
"""Traces of what is rare, for each process: somebody may call the API all the time."""

_MAX_REMEMBERED: Final = 1000
_TRACEPARENT: Final = "traceparent"
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class OtlpTracer:
    """Begins traces; see :class:`tenants.tracing.spans.Tracer`.

    Whether something is traced is decided where the trace begins, here, and by nobody who asks: a client's own
    ``traceparent`` is at most a link.

    Args:
        queue: where spans go.
        config: how many, and for whom not.
        resource: what all spans say of this process.
        rng: draws from 0 to 1.
        clock: seconds, of a clock that never goes back.
    """

    def __init__(
        self,
        queue: SpanQueue,
        config: TracingConfig,
        resource: Attributes,
        *,
        rng: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._ratio = config.sample_ratio
        self._own = config.tenant
        self._rng = rng
        self._clock = clock
        self._lock = threading.Lock()
        self._allowed = float(RARE_A_SECOND)
        self._allowed_at_s = clock()
        self._remembered: OrderedDict[tuple[str, int], Span] = OrderedDict()
        provider = TracerProvider(sampler=ALWAYS_ON, resource=Resource.create(resource), shutdown_on_exit=False)
        provider.add_span_processor(queue)
        self._tracer = provider.get_tracer("millrace")

    @classmethod
    def open(cls, config: TracingConfig, actor: str, version: str) -> Self:
        """Begin to trace in this process."""
        # At INFO httpx logs the full URL of every request.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        resource = {"service.name": "millrace", "service.instance.id": actor, "service.version": version}
        return cls(SpanQueue(SpanPost(config, version)), config, resource)

    def sampled(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        tenant: object = None,
        kind: Kind = "internal",
        link: str = "",
    ) -> Span | None:
        """Begin a trace of what happens all the time; None: this once is not traced."""
        if self._rng() >= self._ratio or (tenant is not None and self.is_own(tenant)):
            return None
        said = dict(attributes or {})
        if tenant is not None:
            said[TENANT] = str(tenant)
        return self._begin(name, said, kind, link)

    def always(
        self, name: str, attributes: Attributes | None = None, *, kind: Kind = "internal", link: str = ""
    ) -> Span | None:
        """Begin a trace of what is rare; beyond ten a second it is sampled."""
        if not self._is_allowed():
            return self.sampled(name, attributes, kind=kind, link=link)
        return self._begin(name, attributes or {}, kind, link)

    def joined(self, traceparent: str, name: str, attributes: Attributes | None = None) -> Span | None:
        """Go on with a trace that another process of this service began, and decided on."""
        around = _PROPAGATOR.extract({_TRACEPARENT: traceparent}, Context())
        span = self._tracer.start_span(name, around, trace.SpanKind.SERVER, attributes or {})
        return OtlpSpan(self._tracer, span)

    def is_own(self, tenant: object) -> bool:
        """Whether Millrace's own traces are sent as this tenant: nothing that is done for it is traced."""
        return bool(self._own) and str(tenant) == self._own

    def remember(self, key: tuple[str, int], span: Span) -> None:
        """Keep a span at hand for those whose work comes later; of many the first are forgotten."""
        with self._lock:
            self._remembered[key] = span
            if len(self._remembered) > _MAX_REMEMBERED:
                self._remembered.popitem(last=False)

    def recall(self, key: tuple[str, int]) -> Span | None:
        """Return the span that was remembered."""
        return self._remembered.get(key)

    def measure(self) -> list[tuple[str, tuple[str, ...], float]]:
        """Return what became of the spans that ended."""
        dropped = {reason: self._queue.dropped[reason] for reason in ("queue_full", "refused")}
        return [
            ("millrace_own_spans_sent_total", (), self._queue.sent),
            *[("millrace_own_spans_dropped_total", (reason,), count) for reason, count in dropped.items()],
        ]

    def close(self, timeout_s: float) -> None:
        """Send what waits, and no more. Blocks for at most ``timeout_s``; what is left then is lost."""
        self._queue.close(timeout_s)

    def _begin(self, name: str, attributes: Attributes, kind: Kind, link: str) -> Span:
        # An empty context: whatever the SDK takes for current is not ours.
        span = self._tracer.start_span(name, Context(), _KINDS[kind], dict(attributes), links=_links(link))
        return OtlpSpan(self._tracer, span)

    def _is_allowed(self) -> bool:
        with self._lock:
            now_s = self._clock()
            grown = self._allowed + (now_s - self._allowed_at_s) * RARE_A_SECOND
            self._allowed, self._allowed_at_s = min(float(RARE_A_SECOND), grown), now_s
            if self._allowed < 1:
                return False
            self._allowed -= 1
            return True


class OtlpSpan:
    """A span of the SDK; see :class:`tenants.tracing.spans.Span`."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._has_failed = False
        self._is_discarded = False

    @property
    def traceparent(self) -> str:
        """What tells another process of the trace."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(self._span, Context()))
        return carrier[_TRACEPARENT]

    def child(self, name: str, attributes: Attributes | None = None, kind: Kind = "internal") -> "OtlpSpan":
        """Begin a part of it."""
        around = trace.set_span_in_context(self._span, Context())
        return OtlpSpan(self._tracer, self._tracer.start_span(name, around, _KINDS[kind], dict(attributes or {})))

    def rename(self, name: str) -> None:
        """Give it another name."""
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        """Say more of it."""
        self._span.set_attributes(dict(attributes))

    def fail(self, problem: str) -> None:
        """Note that it failed; what was noted first stays."""
        if not self._has_failed:
            self._has_failed = True
            self._span.set_status(trace.StatusCode.ERROR, problem)

    def discard(self) -> None:
        """Never send it."""
        self._is_discarded = True

    def end(self) -> None:
        """Note that it is over."""
        if not self._is_discarded:
            self._span.end()


_KINDS: Final[dict[Kind, trace.SpanKind]] = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
}


def _links(traceparent: str) -> list[trace.Link]:
    around = _PROPAGATOR.extract({_TRACEPARENT: traceparent}, Context()) if traceparent else Context()
    asker = trace.get_current_span(around).get_span_context()
    return [trace.Link(asker)] if asker.is_valid else []
