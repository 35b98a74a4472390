import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from tenants.settings.model import validate
from tenants.settings.tracing import TracingConfig
from tenants.tracing.span_post import Posted, SpanPost
from tests.unit.own_spans import own_spans
from tests.unit.receiver import Answer, Received, Receiver, Reset

SECRET = "s3cr3t-value"


def spans(*names: str) -> list[ReadableSpan]:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    made: list[Any] = [tracer.start_span(name) for name in names]
    for span in made:
        span.end()
    return made


@pytest.fixture
def posts() -> Iterator[list[SpanPost]]:
    made: list[SpanPost] = []
    yield made
    for post in made:
        post.close()


async def posted(posts: list[SpanPost], receiver: Receiver, settings: dict[str, Any] | None = None) -> Posted:
    """Send two spans."""
    config = validate(TracingConfig, {"endpoint": f"http://127.0.0.1:{receiver.port}", **(settings or {})})
    posts.append(SpanPost(config, "1.2.3", {"TRACES_KEY": SECRET}))
    return await asyncio.to_thread(posts[-1].send, spans("a", "b"))


async def test_spans_arrive_with_all_headers(posts: list[SpanPost], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-a-file\n")
    headers_from = {"X-File": {"file": str(tmp_path / "key")}, "X-Env": {"env": "TRACES_KEY"}}
    settings = {"headers": {"Authorization": f"Bearer {SECRET}"}, "headers_from": headers_from, "tenant": "own"}
    async with Receiver() as receiver:
        assert await posted(posts, receiver, settings) == Posted()
    (request,) = receiver.requests
    assert [span.name for span in own_spans([request])] == ["a", "b"]
    assert (request.method, request.target) == ("POST", "/v1/traces")
    expected = {
        "Authorization": f"Bearer {SECRET}",
        "X-File": "from-a-file",
        "X-Env": SECRET,
        "X-Scope-OrgID": "own",
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "gzip",
        "User-Agent": "millrace/1.2.3",
    }
    assert {name: request.header(name) for name in expected} == expected


@pytest.mark.parametrize(("status", "is_final"), [(400, True), (401, True), (302, True), (429, False), (503, False)])
async def test_an_answer_says_whether_to_try_again(posts: list[SpanPost], status: int, is_final: bool) -> None:
    async with Receiver([Answer(status, {"Location": "/elsewhere"}, b"no")]) as receiver:
        assert await posted(posts, receiver) == Posted(f"http_{status} no", is_final)
    assert len(receiver.requests) == 1


async def test_what_a_receiver_repeats_of_our_secrets_is_masked(posts: list[SpanPost]) -> None:
    def repeats(request: Received) -> Answer:
        return Answer(403, body=f"bad key\n{request.header('X-Key')}".encode())

    async with Receiver(otherwise=repeats) as receiver:
        outcome = await posted(posts, receiver, {"headers": {"X-Key": SECRET}})
        also = await posted(posts, receiver, {"headers_from": {"X-Key": {"env": "TRACES_KEY"}}})
    assert outcome.problem == also.problem == "http_403 bad key ***"


async def test_a_broken_connection_is_worth_another_try(posts: list[SpanPost]) -> None:
    async with Receiver([Reset()]) as receiver:
        outcome = await posted(posts, receiver)
        assert outcome.problem
        assert not outcome.is_final
        assert await asyncio.to_thread(posts[0].send, spans("c")) == Posted()


async def test_a_secret_that_is_missing_is_named_and_nothing_is_sent(posts: list[SpanPost]) -> None:
    async with Receiver() as receiver:
        outcome = await posted(posts, receiver, {"headers_from": {"X-Key": {"env": "NOT_SET"}}})
    assert "NOT_SET" in outcome.problem
    assert not outcome.is_final
    assert receiver.requests == []


async def test_the_environment_decides_nothing(posts: list[SpanPost], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=stray")
    async with Receiver() as receiver:
        assert await posted(posts, receiver) == Posted()
    assert receiver.requests[0].header("X-Key") is None
