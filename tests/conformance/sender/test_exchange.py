"""What the suites expect after an answer (remote-write §5.4 17 to 19; §5.5 12 to 19, 21 and 25), for both messages."""

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest
import structlog

from tenants.endpoint import EndpointConfig, EndpointCounters, EndpointSender, Surroundings
from tenants.endpoint.errors import InvalidEndpointError
from tenants.settings.protobuf_message import ProtobufMessage
from tests.conformance.sender.expectations import expects
from tests.remote_write import decode
from tests.remote_write_v2 import decode_v2
from tests.unit.conditions import until
from tests.unit.fake_clock import FakeClock
from tests.unit.receiver import Answer, Hang, Received, Receiver, Reset, Step, WireStep, is_v2, stores_all, written
from tests.unit.sending import sending
from tests.unit.small_batches import SmallTenant

V1, V2 = ProtobufMessage.V1, ProtobufMessage.V2
each_message = pytest.mark.parametrize("message", ProtobufMessage)


async def sent(
    script: list[Step],
    around: Surroundings,
    message: ProtobufMessage | None = V2,
    *,
    batches: int = 1,
    otherwise: Step = stores_all,
    **settings: Any,
) -> tuple[list[Received], EndpointCounters]:
    """Send batches, those of an endpoint that is not pinned in 2.0; return what arrived and how it was counted."""
    tenant = SmallTenant()
    async with (
        Receiver(script, otherwise=otherwise) as receiver,
        sending(EndpointConfig(receiver.url, protobuf_message=message, **settings), around) as sender,
    ):
        sender.submit([tenant.batch(message or V2) for _ in range(batches)])
        assert await sender.drain(10)
        counters = sender.snapshot()
    assert receiver.requests
    return receiver.requests, counters


def times(request: Received) -> set[int]:
    """The timestamps of the samples in a request."""
    series = (
        [each.series for each in decode_v2(request.body).series.values()]
        if is_v2(request)
        else list(decode(request.body).values())
    )
    return {at_ms for each in series for at_ms, _ in each.samples}


@expects(1, 17)
@expects(2, 21)
@each_message
async def test_each_series_is_in_order_however_slow_the_receiver_is(
    message: ProtobufMessage, around: Surroundings
) -> None:
    tenant = SmallTenant(*(f"op {number}" for number in range(60)))
    dice = random.Random(7)

    async def slow(receiver: Receiver, sender: EndpointSender) -> None:
        for _ in range(6):
            sender.submit([tenant.batch(message)])
            await asyncio.sleep(dice.random() / 100)

    answers: list[Step] = dice.choices([503, Reset(), stores_all, stores_all], k=20)
    async with (
        Receiver(answers, otherwise=stores_all) as receiver,
        sending(EndpointConfig(receiver.url, protobuf_message=message), around) as sender,
    ):
        await slow(receiver, sender)
        assert await sender.drain(10)
        assert sender.snapshot().samples_failed == {}
    assert receiver.most_at_once == 1
    newest = [max(times(request)) for request in receiver.requests]
    assert newest == sorted(newest)
    assert len(set(newest)) == 6


@expects(1, 18)
@expects(2, 12, "retry_on_500", "retry_on_502", "retry_on_503", "retry_on_504", "may_retry_on_429")
@each_message
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_what_failed_for_now_arrives_later_as_it_was(
    status: int, message: ProtobufMessage, around: Surroundings
) -> None:
    (first, again), counters = await sent([status], around, message)
    assert first.body == again.body
    assert (counters.retries, counters.samples_failed) == (1, {})


@expects(1, 19)
@expects(2, 12, "no_retry_on_400")
@each_message
async def test_what_was_refused_does_not_arrive_again(message: ProtobufMessage, around: Surroundings) -> None:
    requests, counters = await sent([400], around, message, batches=2)
    assert len(requests) == 2
    assert not times(requests[0]) >= times(requests[1])
    assert counters.retries == 0
    assert list(counters.samples_failed) == ["http_400"]


@expects(2, 12, "no_retry_on_401", "no_retry_on_404")
@each_message
@pytest.mark.parametrize("status", [401, 404])
async def test_where_we_are_not_let_in_nothing_arrives_for_a_while(
    status: int, message: ProtobufMessage, around: Surroundings, clock: FakeClock
) -> None:
    # The suite looks for some seconds. Later the endpoint may have been mended.
    requests, counters = await sent([status], around, message, batches=2)
    assert [pause > 50 for pause in clock.sleeps] == [True]
    assert [times(each) == times(requests[0]) for each in requests] == [True, True, False]
    assert counters.samples_failed == {}


@expects(2, 12, "no_retry_on_413")
@each_message
async def test_what_is_too_large_does_not_arrive_again_but_its_halves(
    message: ProtobufMessage, around: Surroundings, clock: FakeClock
) -> None:
    requests, counters = await sent([413], around, message)
    whole, *halves = requests
    assert len({each.body for each in requests}) == 3
    assert all(times(half) == times(whole) and len(half.body) < len(whole.body) for half in halves)
    assert (clock.sleeps, counters.retries, counters.samples_failed) == ([], 0, {})


@expects(2, 13)
@each_message
async def test_pauses_grow_to_a_ceiling_and_differ_a_little(
    message: ProtobufMessage, around: Surroundings, clock: FakeClock
) -> None:
    requests, _ = await sent([503] * 15, around, message)
    assert len(requests) == 16
    pauses = clock.sleeps
    assert min(pauses) > 0.001
    assert max(pauses) < 60
    assert all(later >= 0.8 * earlier for earlier, later in pairwise(pauses))
    assert len({round(pause, 6) for pause in pauses[-5:]}) > 1


@expects(2, 14)
@expects(2, 25, "remote_write_1_compatibility")
async def test_415_is_answered_with_1_0_and_that_is_kept(around: Surroundings) -> None:
    def answer(request: Received) -> WireStep:
        return 415 if is_v2(request) else 204

    requests, counters = await sent([], around, None, batches=3, otherwise=answer)
    assert [is_v2(request) for request in requests] == [True, False, False, False]
    assert requests[1].header("Content-Type") == "application/x-protobuf"
    assert requests[1].header("X-Prometheus-Remote-Write-Version") == "0.1.0"
    assert times(requests[0]) == times(requests[1])
    assert (counters.samples_failed, counters.message, counters.batches_sent) == ({}, V1, 3)


@expects(2, 15)
@pytest.mark.parametrize("status", [200, 202, 204])
async def test_2xx_that_says_what_was_written_keeps_2_0(status: int, around: Surroundings) -> None:
    def answer(request: Received) -> WireStep:
        return Answer(status, written(request))

    requests, counters = await sent([], around, None, batches=3, otherwise=answer)
    assert [is_v2(request) for request in requests] == [True, True, True]
    assert (counters.samples_failed, counters.message) == ({}, V2)


@expects(2, 16, "ignore_response_body_on_success", "handle_204_no_content", "handle_200_ok")
@expects(2, 16, "process_written_count_headers")
@expects(2, 18, "empty_response")
@pytest.mark.parametrize(("status", "body"), [(200, b"you are wrong"), (200, b""), (204, b"")])
async def test_status_and_statistics_decide_and_not_the_body(status: int, body: bytes, around: Surroundings) -> None:
    _, counters = await sent([lambda request: Answer(status, written(request), body)], around)
    assert (counters.samples_sent, counters.samples_failed) == (counters.samples_submitted, {})


@expects(2, 16, "handle_partial_write_response", "handle_missing_written_headers")
@expects(2, 18, "partial_write")
async def test_what_was_not_written_is_counted(around: Surroundings) -> None:
    _, counters = await sent([lambda request: Answer(204, written(request, fewer=1))], around)
    assert counters.samples_failed == {"partial": 1}
    _, counters = await sent([Answer(204, {"X-Prometheus-Remote-Write-Exemplars-Written": "1"})], around)
    assert counters.samples_failed == {"partial": counters.samples_submitted}


@expects(2, 16, "log_error_messages_verbatim", "handle_large_error_body")
@expects(2, 18, "large_error_response")
async def test_message_of_a_refusal_is_logged_as_it_is_and_cut(around: Surroundings) -> None:
    for body in (b"series out of bounds: x=1", b"a very long story " * 60_000):
        with structlog.testing.capture_logs() as logs:
            await sent([Answer(422, body=body)], around)
        (log,) = [log for log in logs if "refused" in log["event"]]
        assert body.decode().startswith(log["message"])
        assert 20 < len(log["message"]) <= 256


@expects(2, 18, "connection_refused")
async def test_nobody_listens_at_first(around: Surroundings, clock: FakeClock) -> None:
    async with Receiver() as gone:
        port = gone.port
    async with sending(EndpointConfig(gone.url, protobuf_message=V2), around) as sender:
        sender.submit([SmallTenant().batch()])
        await until(lambda: len(clock.sleeps) >= 2)
        async with Receiver(otherwise=stores_all, port=port) as receiver:
            assert await sender.drain(10)
    assert len(receiver.requests) == 1


@expects(2, 18, "timeout")
async def test_who_does_not_answer_is_asked_again(around: Surroundings) -> None:
    (first, again), counters = await sent([Hang()], around, timeout_s=0.1)
    assert first.body == again.body
    assert counters.samples_failed == {}


@expects(2, 18, "malformed_response", "invalid_status_code", "sender_continues_after_errors")
@pytest.mark.parametrize("step", [Reset(after_bytes=9), Answer(999)])
async def test_answers_that_make_no_sense_do_not_stop_the_sender(step: Step, around: Surroundings) -> None:
    requests, counters = await sent([step], around, batches=2)
    assert len(requests) >= 2
    assert counters.batches_sent >= 1
    assert counters.state != "crashed"


@expects(2, 19, "dns_failure")
async def test_unknown_host_is_asked_for_again(around: Surroundings, clock: FakeClock) -> None:
    async with sending(EndpointConfig("http://nowhere.invalid/", protobuf_message=V2), around) as sender:
        sender.submit([SmallTenant().batch()])
        await until(lambda: len(clock.sleeps) >= 2)
        assert sender.snapshot().pending_batches == 1
        assert sender.snapshot().last_error.startswith("network")


@expects(2, 19, "invalid_scheme")
def test_scheme_that_is_none_is_refused_where_it_is_set() -> None:
    with pytest.raises(InvalidEndpointError, match="http://"):
        EndpointConfig("gopher://127.0.0.1/")


@expects(2, 25, "remote_write_1_configuration")
async def test_endpoint_set_to_1_0_is_never_sent_another(around: Surroundings) -> None:
    requests, counters = await sent([], around, V1, batches=3)
    assert [is_v2(request) for request in requests] == [False] * 3
    assert (counters.message, counters.samples_failed) == (V1, {})
