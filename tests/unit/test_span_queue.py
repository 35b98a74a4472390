import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from tenants.tracing.span_post import Posted
from tenants.tracing.span_queue import MAX_WAITING, SPANS_AT_ONCE, SpanQueue

FAILS = Posted("network: nobody there")
REFUSED = Posted("http_400 no", is_final=True)
TIMEOUT_S = 20.0


class FakePost:
    """Answers what it is told to; an exception is raised. While it is held it hangs."""

    def __init__(self) -> None:
        self.outcomes: list[Posted | Exception] = []
        self.batches: list[list[str]] = []
        self.is_closed = False
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.has_arrived = threading.Event()

    def send(self, spans: list[ReadableSpan]) -> Posted:
        self.has_arrived.set()
        self.may_answer.wait()
        outcome = self.outcomes.pop(0) if self.outcomes else Posted()
        if isinstance(outcome, Exception):
            raise outcome
        if outcome == Posted():
            self.batches.append([span.name for span in spans])
        return outcome

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def post() -> FakePost:
    return FakePost()


@pytest.fixture
def queue(post: FakePost) -> Iterator[SpanQueue]:
    made = SpanQueue(post, company_s=0.001, pause_s=0.001)
    yield made
    post.may_answer.set()
    made.close(TIMEOUT_S)


def span(name: str) -> Any:
    made = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span(name)
    made.end()
    return made


def until(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.001)


def test_spans_are_sent_in_the_background(post: FakePost, queue: SpanQueue) -> None:
    queue.on_end(span("a"))
    until(lambda: queue.sent == 1)
    queue.on_end(span("b"))
    until(lambda: queue.sent == 2)
    assert post.batches == [["a"], ["b"]]
    assert not queue.dropped


def test_spans_wait_while_nobody_answers_and_the_log_says_so_once(post: FakePost, queue: SpanQueue) -> None:
    post.outcomes = [FAILS] * 5
    with structlog.testing.capture_logs() as lines:
        queue.on_end(span("a"))
        until(lambda: queue.sent == 1)
    assert [(line["event"], line.get("problem")) for line in lines] == [
        ("own traces cannot be sent", FAILS.problem),
        ("own traces are sent again", None),
    ]


def test_a_receiver_that_fails_now_and_then_does_not_fill_the_log(post: FakePost, queue: SpanQueue) -> None:
    post.outcomes = [FAILS, Posted()] * 5
    with structlog.testing.capture_logs() as lines:
        for sent in range(5):
            queue.on_end(span("a"))
            until(lambda sent=sent: queue.sent == sent + 1)  # type: ignore[misc]
    assert len(lines) == 2


def test_what_is_refused_for_good_is_dropped_and_counted(post: FakePost, queue: SpanQueue) -> None:
    post.outcomes = [REFUSED]
    queue.on_end(span("a"))
    until(lambda: queue.dropped["refused"] == 1)
    queue.on_end(span("b"))
    until(lambda: queue.sent == 1)
    assert post.batches == [["b"]]


def test_a_bug_ends_nothing(post: FakePost, queue: SpanQueue) -> None:
    post.outcomes = [RuntimeError("bug")]
    queue.on_end(span("a"))
    until(lambda: queue.dropped["refused"] == 1)
    queue.on_end(span("b"))
    until(lambda: queue.sent == 1)


def test_a_receiver_that_hangs_blocks_nobody_and_the_queue_is_bounded(post: FakePost, queue: SpanQueue) -> None:
    post.may_answer.clear()
    queue.on_end(span("first"))
    assert post.has_arrived.wait(TIMEOUT_S)
    one = span("a")
    for _ in range(MAX_WAITING + 3):
        queue.on_end(one)
    assert queue.dropped == {"queue_full": 3}
    post.may_answer.set()
    until(lambda: queue.sent == 1 + MAX_WAITING)
    assert [len(batch) for batch in post.batches] == [1, *[SPANS_AT_ONCE] * (MAX_WAITING // SPANS_AT_ONCE)]


def test_closing_sends_what_waits(post: FakePost) -> None:
    queue = SpanQueue(post, company_s=60)
    queue.on_end(span("a"))
    queue.close(TIMEOUT_S)
    assert post.batches == [["a"]]
    assert post.is_closed
    queue.on_end(span("late"))
    assert queue.dropped == {"closed": 1}


def test_closing_waits_for_nobody_who_fails(post: FakePost) -> None:
    queue = SpanQueue(post, company_s=60, pause_s=60)
    post.outcomes = [FAILS]
    queue.on_end(span("a"))
    queue.close(TIMEOUT_S)
    assert post.is_closed
    assert queue.dropped == {"closed": 1}


def test_closing_waits_no_longer_than_it_may_for_who_hangs(post: FakePost) -> None:
    post.may_answer.clear()
    queue = SpanQueue(post, company_s=0.001)
    queue.on_end(span("a"))
    assert post.has_arrived.wait(TIMEOUT_S)
    began = time.monotonic()
    queue.close(0.05)
    assert 0.04 < time.monotonic() - began < TIMEOUT_S
    assert not post.is_closed
    post.may_answer.set()
    queue.close(TIMEOUT_S)
