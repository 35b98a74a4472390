"""Spans of Millrace's own life, as the code sees them that is traced. Imports nothing of OpenTelemetry.

Whoever may be traced holds a :class:`Tracer`, or None while tracing is off. What begins a trace says so to the tracer;
what is a part of something asks :func:`part`, and is traced if that is.
"""

from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Literal, Protocol, TypeVar

T = TypeVar("T")

Attributes = Mapping[str, str | int | float | bool]

Kind = Literal["internal", "server", "client"]

TENANT: Final = "millrace.tenant"
"""The attribute that names a tenant."""

CLOSE_S: Final = 2.0
"""Longest that a process which ends waits for its last spans to be sent."""


class Span(Protocol):
    """Something that takes time. Safe to use from any thread."""

    @property
    def traceparent(self) -> str:
        """What tells another process of the trace (W3C Trace Context)."""

    def child(self, name: str, attributes: Attributes | None = None, kind: Kind = "internal") -> "Span":
        """Begin a part of it."""

    def rename(self, name: str) -> None:
        """Give it another name."""

    def set(self, attributes: Attributes) -> None:
        """Say more of it."""

    def fail(self, problem: str) -> None:
        """Note that it failed; what was noted first stays. ``problem`` holds no secret."""

    def discard(self) -> None:
        """Never send it."""

    def end(self) -> None:
        """Note that it is over."""


class Tracer(Protocol):
    """Begins traces. Never blocks, and fails nobody. Safe to use from any thread."""

    def sampled(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        tenant: object = None,
        kind: Kind = "internal",
        link: str = "",
    ) -> Span | None:
        """Begin a trace of what happens all the time; None: this once is not traced.

        Args:
            name: one of few.
            attributes: what is known of it.
            tenant: for whom it is done.
            kind: of the span.
            link: the ``traceparent`` of who asked; it decides nothing.
        """

    def always(
        self, name: str, attributes: Attributes | None = None, *, kind: Kind = "internal", link: str = ""
    ) -> Span | None:
        """Begin a trace of what is rare; beyond ten a second it is sampled."""

    def joined(self, traceparent: str, name: str, attributes: Attributes | None = None) -> Span | None:
        """Go on with a trace that another process of this service began, and decided on."""

    def is_own(self, tenant: object) -> bool:
        """Whether Millrace's own traces are sent as this tenant: nothing that is done for it is traced."""

    def remember(self, key: tuple[str, int], span: Span) -> None:
        """Keep a span at hand for those whose work comes later; of many the first are forgotten."""

    def recall(self, key: tuple[str, int]) -> Span | None:
        """Return the span that was remembered."""

    def measure(self) -> list[tuple[str, tuple[str, ...], float]]:
        """Return what became of the spans that ended."""

    def close(self, timeout_s: float) -> None:
        """Send what waits, and no more. Blocks for at most ``timeout_s``; what is left then is lost."""


_CURRENT: Final[ContextVar[Span | None]] = ContextVar("millrace_span", default=None)


def current() -> Span | None:
    """Return the span that this is done in."""
    return _CURRENT.get()


def sampled(
    tracer: Tracer | None, name: str, attributes: Attributes | None = None, *, tenant: object = None
) -> Span | None:
    """Begin a trace of what happens all the time, if there is a tracer."""
    return None if tracer is None else tracer.sampled(name, attributes, tenant=tenant)


def begun(tracer: Tracer | None, name: str, attributes: Attributes) -> Span | None:
    """Begin what is rare: as a part of what asked for it, if that is traced."""
    if tracer is None:
        return None
    whole = current()
    return tracer.always(name, attributes) if whole is None else whole.child(name, attributes)


@contextmanager
def within(span: Span | None) -> Iterator[Span | None]:
    """Do something in a span, which ends with it; None: in none, whatever was the current one.

    Tasks keep the span that they were made in, for ever: who begins a trace in a task of its own always comes here.
    """
    token = _CURRENT.set(span)
    try:
        yield span
    except BaseException as error:
        if span is not None:
            # Without its text, which may hold anything.
            span.fail(type(error).__name__)
        raise
    finally:
        _CURRENT.reset(token)
        if span is not None:
            span.end()


@contextmanager
def part(name: str, attributes: Attributes | None = None) -> Iterator[Span | None]:
    """Do something as a part of the current span, if there is one."""
    whole = _CURRENT.get()
    with within(None if whole is None else whole.child(name, attributes)) as span:
        yield span


async def timed(span: Span, work: Awaitable[T]) -> T:
    """Wait for something in a span, which ends with it."""
    with within(span):
        return await work
