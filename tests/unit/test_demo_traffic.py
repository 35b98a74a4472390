"""The load generator: what it sends when, and what it does when it is refused."""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from cluster.demo.acme import ACME
from cluster.demo.shop import Shop
from cluster.demo.traffic import Player, Refusal, Tally, grpc_send, write_progress

SECOND = 1_000_000_000
RATE = 40.0


def span_count(request: ExportTraceServiceRequest) -> int:
    return sum(len(scope.spans) for group in request.resource_spans for scope in group.scope_spans)


class World:
    """A clock that only moves when somebody waits, and a receiver that answers from a script."""

    def __init__(self, rate: float = RATE) -> None:
        self.now_ns = 1_700_000_000 * SECOND
        self.stop_at_ns = self.now_ns + 3600 * SECOND
        self.answers: list[int | Refusal] = []
        self.otherwise: int | Refusal = 0
        self.sent: list[tuple[int, bytes]] = []
        self.pauses: list[float] = []
        shop = Shop(ACME, 1, self.now_ns)
        self.player = Player(
            shop,
            traces_per_s=rate,
            send=self.send,
            clock_ns=lambda: self.now_ns,
            pause=self.pause,
            rng=random.Random(1),
        )

    def send(self, request: ExportTraceServiceRequest) -> int | Refusal:
        self.sent.append((self.now_ns, request.SerializeToString()))
        return self.answers.pop(0) if self.answers else self.otherwise

    def pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now_ns += int(seconds * SECOND)
        return self.now_ns >= self.stop_at_ns

    def run_for(self, seconds: float) -> Tally:
        self.stop_at_ns = self.now_ns + int(seconds * SECOND)
        self.player.run()
        return self.player.tally

    def requests(self) -> Iterator[tuple[int, ExportTraceServiceRequest]]:
        for at_ns, body in self.sent:
            yield at_ns, ExportTraceServiceRequest.FromString(body)


def test_traces_begin_at_the_stated_rate_and_every_acknowledged_span_is_tallied() -> None:
    world = World()
    tally = world.run_for(30)
    assert tally.traces / 30 == pytest.approx(RATE * 1.13, rel=0.15)  # the tide is rising
    assert tally.acknowledged == sum(span_count(request) for _, request in world.requests())
    assert (tally.refused, tally.lost, tally.rejected, tally.retries) == (0, 0, 0, 0)


def test_a_span_is_sent_once_it_has_ended_and_soon_after() -> None:
    world = World()
    world.run_for(20)
    seen = set()
    for at_ns, request in world.requests():
        for group in request.resource_spans:
            for span in group.scope_spans[0].spans:
                assert 0 <= at_ns - span.end_time_unix_nano < SECOND
                assert span.span_id not in seen
                seen.add(span.span_id)


def test_a_request_is_never_larger_than_a_thousand_spans() -> None:
    world = World(rate=800.0)
    world.run_for(1)
    counts = [span_count(request) for _, request in world.requests()]
    assert max(counts) == 1_000


def test_a_retryable_refusal_sends_the_same_bytes_again_with_growing_pauses() -> None:
    world = World()
    world.answers = [Refusal("UNAVAILABLE", "no", is_retryable=True)] * 4
    world.run_for(5)
    bodies = [body for _, body in world.sent[:5]]
    assert len(set(bodies)) == 1
    backoffs = [pause for pause in world.pauses if pause != 0.25][:4]
    assert backoffs == sorted(backoffs)
    assert backoffs[3] > 4 * backoffs[0]
    assert world.player.tally.retries == 4
    assert world.player.tally.lost == 0


def test_a_request_is_given_up_before_its_spans_are_too_old_to_count() -> None:
    world = World()
    world.otherwise = Refusal("RESOURCE_EXHAUSTED", "slow down", is_retryable=True)
    tally = world.run_for(60)
    ages = [at_ns - world.sent[0][0] for at_ns, body in world.sent if body == world.sent[0][1]]
    assert 20 * SECOND < max(ages) < 30 * SECOND
    assert tally.lost > 0
    assert tally.acknowledged == 0


def test_another_refusal_is_final() -> None:
    world = World()
    world.answers = [Refusal("INVALID_ARGUMENT", "what?", is_retryable=False)]
    tally = world.run_for(5)
    first = world.sent[0][1]
    assert [body for _, body in world.sent].count(first) == 1
    assert tally.refused == span_count(ExportTraceServiceRequest.FromString(first))
    assert tally.retries == 0
    assert tally.acknowledged > 0


def test_rejected_spans_are_not_called_acknowledged() -> None:
    world = World()
    world.answers = [3]
    tally = world.run_for(5)
    sent = sum(span_count(request) for _, request in world.requests())
    assert (tally.rejected, tally.acknowledged) == (3, sent - 3)


def test_a_stall_is_not_made_up_for_with_a_burst() -> None:
    world = World()
    world.run_for(5)
    before = world.player.tally.traces
    world.now_ns += 600 * SECOND
    world.run_for(1)
    assert world.player.tally.traces - before < 4 * RATE


class Script(TraceServiceServicer):
    """Answers with what it is told and keeps what it was sent."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.rejected = 0
        self.calls: list[tuple[dict[str, str], int]] = []

    def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:  # noqa: N802 -- as gRPC calls it
        self.calls.append((dict(context.invocation_metadata()), span_count(request)))
        if self.code is not None:
            context.abort(self.code, "as told")
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = self.rejected
        return answer


@contextmanager
def served(script: Script) -> Iterator[grpc.Channel]:
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(script, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        server.stop(None).wait(10)


def test_over_grpc_the_tenant_is_in_the_metadata_and_answers_become_values() -> None:
    script = Script()
    with served(script) as channel:
        send = grpc_send(channel, "acme")
        script.rejected = 2
        assert send(ExportTraceServiceRequest()) == 2
        script.code = grpc.StatusCode.UNAVAILABLE
        assert send(ExportTraceServiceRequest()) == Refusal("UNAVAILABLE", "as told", is_retryable=True)
        script.code = grpc.StatusCode.RESOURCE_EXHAUSTED
        assert send(ExportTraceServiceRequest()) == Refusal("RESOURCE_EXHAUSTED", "as told", is_retryable=True)
        script.code = grpc.StatusCode.UNAUTHENTICATED
        assert send(ExportTraceServiceRequest()) == Refusal("UNAUTHENTICATED", "as told", is_retryable=False)
    assert {metadata["x-scope-orgid"] for metadata, _ in script.calls} == {"acme"}


def test_progress_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "traffic.json"
    write_progress(path, {"acme": Tally(traces=1)})
    write_progress(path, {"acme": Tally(traces=2, acknowledged=9)})
    assert json.loads(path.read_text())["acme"]["acknowledged"] == 9
    assert list(tmp_path.iterdir()) == [path]
