"""A small shop instrumented with the OpenTelemetry SDK for Python, as its documentation says.

Every service has a tracer provider of its own, as it would in a process of its own. Times are given, so that spans
fall into different buckets without anybody waiting.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.util.types import Attributes

_MS: Final = 1_000_000
_FLUSH_TIMEOUT_MS: Final = 20_000


class ShopApplication:
    """Takes orders: a web shop that calls a payment service, a database, a queue, and a mailer without spans.

    Attributes:
        captured: has every span that was ended, as the exporters got it.
    """

    def __init__(self, exporters: Callable[[], Sequence[SpanExporter]]) -> None:
        """Set the SDK up; each service exports to exporters of its own."""
        self.captured = InMemorySpanExporter()
        self._providers: dict[str, TracerProvider] = {}
        for service in ("web", "payment", "shipping"):
            provider = TracerProvider(
                resource=Resource.create({"service.name": service, "deployment.environment.name": "test"}),
                shutdown_on_exit=False,
            )
            provider.add_span_processor(SimpleSpanProcessor(self.captured))
            for exporter in exporters():
                provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=200))
            self._providers[service] = provider

    def take_order(self, number: int) -> None:
        """Play one order; every fifth payment is declined, every third is slow."""
        begins_ns = time.time_ns() - 5_000 * _MS
        is_declined = number % 5 == 0
        payment_ms = 900 if number % 3 == 0 else 10 + number
        with ExitStack() as open_spans:

            def span(
                service: str,
                name: str,
                kind: SpanKind,
                after_ms: float,
                takes_ms: float,
                parent: Span | None = None,
                attributes: Attributes = None,
            ) -> Span:
                started_ns = begins_ns + round(after_ms * _MS)
                begun = (
                    self._providers[service]
                    .get_tracer("shop")
                    .start_span(
                        name,
                        context=set_span_in_context(parent) if parent else Context(),
                        kind=kind,
                        attributes=attributes,
                        start_time=started_ns,
                    )
                )
                assert isinstance(begun, Span)
                open_spans.callback(begun.end, started_ns + round(takes_ms * _MS))
                return begun

            order = span("web", "POST /order", SpanKind.SERVER, 0, 3 + payment_ms, attributes={"http.route": "/order"})
            span("web", "render", SpanKind.INTERNAL, 1, 0.5, order)
            pay = span("web", "POST payment", SpanKind.CLIENT, 1, 1 + payment_ms, order)
            charge = span("payment", "POST /charge", SpanKind.SERVER, 1.5, payment_ms, pay)
            database = {"db.system.name": "postgresql", "db.namespace": "accounts", "server.address": "db-1"}
            span("payment", "SELECT accounts", SpanKind.CLIENT, 2, payment_ms / 2, charge, database)
            publish = span("web", "orders publish", SpanKind.PRODUCER, 2, 0.3, order, {"messaging.system": "kafka"})
            span("shipping", "orders process", SpanKind.CONSUMER, 150, 40, publish, {"messaging.system": "kafka"})
            span("web", "POST mail", SpanKind.CLIENT, 3, 12, order, {"peer.service": "mailer"})
            if is_declined:
                for failed in (order, pay, charge):
                    failed.set_status(Status(StatusCode.ERROR, "card declined"))
                charge.record_exception(RuntimeError("card declined"), timestamp=begins_ns)

    def close(self) -> None:
        """Export what is left and end the exporters' threads.

        Raises:
            AssertionError: not everything could be exported.
        """
        flushed = [provider.force_flush(_FLUSH_TIMEOUT_MS) for provider in self._providers.values()]
        for provider in self._providers.values():
            provider.shutdown()
        assert all(flushed)
