import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from tenants.identity import TenantId
from tenants.settings.model import validate
from tenants.settings.tracing import TracingConfig
from tenants.tracing.otlp_tracer import RARE_A_SECOND, OtlpTracer
from tenants.tracing.span_post import Posted
from tenants.tracing.span_queue import SpanQueue
from tenants.tracing.spans import begun, current, part, within

OWN = TenantId("own")
ASKER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Nowhere:
    def send(self, spans: list[ReadableSpan]) -> Posted:
        return Posted()

    def close(self) -> None:
        pass


class Keeping(SpanQueue):
    """Keeps the spans instead of sending them."""

    def __init__(self) -> None:
        super().__init__(Nowhere())
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)

    @property
    def named(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.spans}


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def queue() -> Iterator[Keeping]:
    made = Keeping()
    yield made
    made.close(5)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tracer(queue: SpanQueue, clock: Clock | None = None, **settings: Any) -> OtlpTracer:
    config = validate(TracingConfig, {"endpoint": "http://h", "tenant": "own", "sample_ratio": 1.0, **settings})
    resource = {"service.name": "millrace", "service.instance.id": "gateway-0", "service.version": "1"}
    return OtlpTracer(queue, config, resource, rng=random.Random(7).random, clock=clock or Clock())


def context_of(span: ReadableSpan) -> Any:
    context = span.context
    assert context is not None
    return context


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
def test_so_many_are_traced_as_the_ratio_says(queue: Keeping, ratio: float) -> None:
    traces = tracer(queue, sample_ratio=ratio)
    begun = sum(traces.sampled("request") is not None for _ in range(10_000))
    # Six standard deviations.
    assert abs(begun - 10_000 * ratio) <= 6 * (10_000 * ratio * (1 - ratio)) ** 0.5


def test_nothing_that_is_done_for_the_own_tenant_is_traced(queue: Keeping) -> None:
    traces = tracer(queue)
    assert traces.sampled("collect", tenant=OWN) is None
    assert traces.sampled("collect", tenant=TenantId("acme")) is not None
    assert not tracer(queue, tenant="").is_own("")


def test_what_is_rare_is_traced_always_and_no_more_than_ten_a_second(queue: Keeping, clock: Clock) -> None:
    traces = tracer(queue, clock, sample_ratio=0.0)

    def count() -> int:
        return sum(traces.always("push") is not None for _ in range(100))

    assert count() == RARE_A_SECOND
    clock.now_s += 0.5
    assert count() == RARE_A_SECOND // 2
    clock.now_s += 3600
    assert count() == RARE_A_SECOND


def test_who_asks_is_a_link_and_decides_nothing(queue: Keeping) -> None:
    assert tracer(queue, sample_ratio=0.0).sampled("GET", link=ASKER) is None
    for link in (ASKER, "nonsense"):
        with within(tracer(queue).sampled("GET", link=link)):
            pass
    linked, unlinked = queue.spans
    assert [f"{link.context.trace_id:032x}" for link in linked.links] == [ASKER.split("-")[1]]
    assert linked.parent is None
    assert context_of(linked).trace_id != linked.links[0].context.trace_id
    assert not unlinked.links


def test_parts_are_in_the_trace_of_the_whole(queue: Keeping) -> None:
    traces = tracer(queue)
    with (
        within(traces.sampled("whole", {"a": 1}, tenant=TenantId("acme"))),
        part("part"),
        within(begun(traces, "push", {})),
        within(traces.sampled("another trace")),
    ):
        pass
    named = queue.named
    whole = context_of(named["whole"])
    assert named["part"].parent == whole
    assert named["push"].parent == context_of(named["part"])
    assert named["another trace"].parent is None
    assert context_of(named["another trace"]).trace_id != whole.trace_id
    assert dict(named["whole"].attributes or {}) == {"a": 1, "millrace.tenant": "acme"}
    assert named["whole"].resource.attributes["service.instance.id"] == "gateway-0"


def test_another_process_goes_on_with_the_trace(queue: Keeping) -> None:
    with within(tracer(queue).sampled("request")) as span:
        assert span is not None
        with within(tracer(queue, sample_ratio=0.0).joined(span.traceparent, "count")):
            pass
    parent, request = queue.named["count"].parent, context_of(queue.named["request"])
    assert parent is not None
    assert (parent.trace_id, parent.span_id) == (request.trace_id, request.span_id)


async def test_tasks_that_were_made_in_a_trace_are_not_in_it_for_ever(queue: Keeping) -> None:
    traces = tracer(queue)
    untraced = tracer(queue, sample_ratio=0.0)

    async def goes_on() -> None:
        with within(untraced.sampled("collect")), part("encode"):
            assert current() is None

    with within(traces.sampled("claim")):
        task = asyncio.create_task(goes_on())
    await task
    assert list(queue.named) == ["claim"]


def test_a_failure_is_named_without_its_words(queue: Keeping) -> None:
    with pytest.raises(RuntimeError), within(tracer(queue).sampled("push")):
        raise RuntimeError("s3cr3t-value")
    (span,) = queue.spans
    assert (span.status.is_ok, span.status.description) == (False, "RuntimeError")
    assert not span.events


def test_what_was_discarded_is_never_sent(queue: Keeping) -> None:
    with within(tracer(queue).sampled("request")) as span:
        assert span is not None
        span.discard()
    assert queue.spans == []


def test_what_is_remembered_is_bounded(queue: Keeping) -> None:
    traces = tracer(queue)
    span = traces.always("collect")
    assert span is not None
    for at_ms in range(1001):
        traces.remember(("acme", at_ms), span)
    assert traces.recall(("acme", 0)) is None
    assert traces.recall(("acme", 1000)) is span
