"""Which message an endpoint is sent, and what becomes of a batch that it does not understand."""

from collections.abc import Callable
from functools import partial

import pytest
import structlog

from tenants.endpoint import Batch, EndpointConfig, EndpointCounters, EndpointSender, Surroundings
from tenants.endpoint.encoding import Encoding
from tenants.endpoint.negotiation import PROBE_AFTER_MS
from tenants.settings.protobuf_message import ProtobufMessage
from tests.remote_write import decode
from tests.remote_write_v2 import decode_v2
from tests.unit.fake_clock import FakeClock
from tests.unit.receiver import Answer, Received, Receiver, Step, WireStep, is_v2, stores_all, written
from tests.unit.sending import sending_to
from tests.unit.small_batches import NOW_MS, SmallTenant

V1, V2 = ProtobufMessage.V1, ProtobufMessage.V2

NOTHING_WRITTEN = {"X-Prometheus-Remote-Write-Samples-Written": "0"}
OLD_RECEIVERS: dict[str, Callable[[Received], WireStep]] = {
    "415": lambda request: 415 if is_v2(request) else 204,
    "415 with statistics": lambda request: Answer(415, NOTHING_WRITTEN) if is_v2(request) else 204,
    "400": lambda request: 400 if is_v2(request) else 204,
    "204 with nothing stored": lambda _request: 204,
    "200 with nothing stored": lambda _request: 200,
}
each_old_receiver = pytest.mark.parametrize("answer", OLD_RECEIVERS.values(), ids=OLD_RECEIVERS.keys())


sending = partial(sending_to, otherwise=stores_all)


async def sent(sender: EndpointSender, *batches: Batch) -> EndpointCounters:
    """Submit batches and wait until each is answered for good; no sample is unaccounted for."""
    sender.submit(batches)
    assert await sender.drain(10)
    counters = sender.snapshot()
    given_up = sum(counters.samples_failed.values()) + counters.samples_dropped
    assert counters.samples_submitted == counters.samples_sent + given_up
    return counters


def messages(receiver: Receiver) -> list[ProtobufMessage]:
    return [V2 if is_v2(request) else V1 for request in receiver.requests]


async def test_receiver_of_v2_is_sent_that_with_its_headers(around: Surroundings) -> None:
    tenant = SmallTenant()
    async with sending([], around) as (receiver, sender):
        batches = [tenant.batch(), tenant.batch()]
        counters = await sent(sender, *batches)
        assert sender.encoding == Encoding("", V2)
    assert receiver.bodies == [batch.body for batch in batches]
    for request in receiver.requests:
        assert request.header("Content-Type") == "application/x-protobuf;proto=io.prometheus.write.v2.Request"
        assert request.header("X-Prometheus-Remote-Write-Version") == "2.0.0"
        assert request.header("Content-Encoding") == "snappy"
    assert (counters.message, counters.fallbacks, counters.samples_failed) == (V2, 0, {})
    assert counters.samples_sent == sum(batch.samples for batch in batches)
    assert counters.exemplars_sent == sum(batch.exemplars for batch in batches) > 0
    assert counters.exemplars_rejected == 0


@each_old_receiver
async def test_receiver_of_v1_is_sent_that_very_batch_as_v1_and_v1_from_then_on(
    answer: Step, around: Surroundings
) -> None:
    tenant = SmallTenant()
    batches = [tenant.batch(), tenant.batch()]
    with structlog.testing.capture_logs() as logs:
        async with sending([], around, otherwise=answer) as (receiver, sender):
            counters = await sent(sender, batches[0])
            assert sender.encoding == Encoding("", V1)
            # Queued before it was known: it is said in 1.0 on its way, with nothing lost.
            counters = await sent(sender, batches[1], tenant.batch(V1))
    assert messages(receiver) == [V2, V1, V1, V1]
    assert receiver.requests[1].header("Content-Type") == "application/x-protobuf"
    assert receiver.requests[1].header("X-Prometheus-Remote-Write-Version") == "0.1.0"
    for batch, body in zip(batches, receiver.bodies[1:3], strict=True):
        assert decode(body) == {key: each.series for key, each in decode_v2(batch.body).series.items()}
    assert (counters.message, counters.fallbacks, counters.samples_failed, counters.retries) == (V1, 1, {}, 0)
    assert [log["event"] for log in logs] == [
        "endpoint does not know Remote-Write 2.0, the batch was sent again as 1.0"
    ]


async def test_batch_in_v1_is_tried_again_as_v1(around: Surroundings, clock: FakeClock) -> None:
    async with sending([415, 503, 204], around) as (receiver, sender):
        counters = await sent(sender, SmallTenant().batch())
    assert messages(receiver) == [V2, V1, V1]
    assert receiver.requests[2].header("Retry-Attempt") == "1"
    assert (counters.retries, counters.samples_failed, counters.fallbacks) == (1, {}, 1)
    assert len(clock.sleeps) == 1


async def test_first_message_that_deserved_its_400_says_nothing_of_v2(around: Surroundings) -> None:
    tenant = SmallTenant()
    async with sending([400, Answer(400, body=b"out of order")], around) as (receiver, sender):
        counters = await sent(sender, batch := tenant.batch())
        assert (counters.samples_failed, counters.message) == ({"http_400": batch.samples}, V2)
        assert "out of order" in counters.last_error
        counters = await sent(sender, tenant.batch())
    assert messages(receiver) == [V2, V1, V2]
    assert counters.fallbacks == 0


async def test_a_400_after_v2_was_understood_is_a_refusal(around: Surroundings) -> None:
    tenant = SmallTenant()
    async with sending([stores_all, 400], around) as (receiver, sender):
        await sent(sender, tenant.batch())
        counters = await sent(sender, batch := tenant.batch())
    assert messages(receiver) == [V2, V2]
    assert (counters.samples_failed, counters.message) == ({"http_400": batch.samples}, V2)


async def test_a_400_that_says_what_was_written_is_a_partial_write(around: Surroundings) -> None:
    def refuses_two(request: Received) -> WireStep:
        return Answer(400, written(request, fewer=2), b"2 samples out of order")

    with structlog.testing.capture_logs() as logs:
        async with sending([refuses_two], around) as (receiver, sender):
            counters = await sent(sender, batch := SmallTenant().batch())
    assert messages(receiver) == [V2]
    assert (counters.samples_sent, counters.samples_failed) == (batch.samples - 2, {"http_400": 2})
    assert (counters.exemplars_sent, counters.exemplars_rejected) == (batch.exemplars, 0)
    assert [(log["samples"], log["message"]) for log in logs] == [(2, "2 samples out of order")]


async def test_shortfall_in_what_was_written_is_counted_and_logged_now_and_then(around: Surroundings) -> None:
    tenant = SmallTenant()
    batches = [tenant.batch() for _ in range(5)]
    with structlog.testing.capture_logs() as logs:
        async with sending([], around, otherwise=lambda request: Answer(204, written(request, fewer=3))) as (
            receiver,
            sender,
        ):
            counters = await sent(sender, *batches)
    assert messages(receiver) == [V2] * 5
    assert counters.samples_failed == {"partial": 15}
    assert counters.samples_sent == sum(batch.samples for batch in batches) - 15
    assert counters.batches_sent == 5
    assert [(log["event"], log["samples"]) for log in logs] == [("endpoint took only a part of what it was sent", 3)]


@pytest.mark.parametrize(
    ("headers", "samples", "exemplars"),
    [
        ({"Samples": "5"}, 5, 0),
        ({"Exemplars": "1"}, 0, 1),
        ({"Histograms": "4", "Samples": "2"}, 6, 0),
        ({"Samples": "99999"}, None, 0),
        ({"Samples": "-1", "Exemplars": "1"}, 0, 1),
        ({"Samples": "many"}, 0, 0),
        ({"Samples": "9" * 4000}, 0, 0),
    ],
)
async def test_one_that_is_missing_or_no_number_counts_as_nothing_written(
    headers: dict[str, str], samples: int | None, exemplars: int, around: Surroundings
) -> None:
    answered = {f"X-Prometheus-Remote-Write-{kind}-Written": text for kind, text in headers.items()}
    async with sending([Answer(200, answered)], around) as (receiver, sender):
        counters = await sent(sender, batch := SmallTenant().batch())
    assert messages(receiver) == [V2]
    assert counters.samples_sent == (batch.samples if samples is None else samples)
    assert counters.exemplars_sent == exemplars
    assert counters.exemplars_rejected == batch.exemplars - exemplars


async def test_v2_is_tried_again_after_hours_and_kept_if_it_is_understood_now(
    around: Surroundings, clock: FakeClock
) -> None:
    tenant = SmallTenant()
    async with sending([204, 204, 204, 204], around, max_sample_age_s=100_000) as (receiver, sender):
        await sent(sender, tenant.batch())
        clock.time_ms += PROBE_AFTER_MS - 1
        assert sender.encoding.message is V1
        clock.time_ms += 1
        assert sender.encoding.message is V2
        await sent(sender, tenant.batch())
        assert messages(receiver) == [V2, V1, V2, V1]
        assert sender.encoding.message is V1
        clock.time_ms += PROBE_AFTER_MS
        counters = await sent(sender, tenant.batch(), tenant.batch())
        clock.time_ms += PROBE_AFTER_MS
        assert sender.encoding.message is V2
    assert messages(receiver)[4:] == [V2, V2]
    assert (counters.fallbacks, counters.message, counters.samples_failed) == (2, V2, {})


async def test_clock_that_was_set_back_does_not_put_off_the_next_try(around: Surroundings, clock: FakeClock) -> None:
    async with sending([204], around) as (_receiver, sender):
        await sent(sender, SmallTenant().batch())
        clock.time_ms -= PROBE_AFTER_MS
        assert sender.encoding.message is V2


@pytest.mark.parametrize("status", [200, 204])
async def test_endpoint_pinned_to_v2_that_stores_nothing_fails_with_a_reason(status: int, around: Surroundings) -> None:
    tenant = SmallTenant()
    async with sending([status], around, protobuf_message=V2) as (receiver, sender):
        counters = await sent(sender, batch := tenant.batch())
        assert counters.samples_failed == {"nothing_written": batch.samples}
        assert "set protobuf_message to auto or prometheus.WriteRequest" in counters.last_error
        await sent(sender, tenant.batch())
    assert messages(receiver) == [V2, V2]


@pytest.mark.parametrize("status", [400, 415])
async def test_endpoint_pinned_to_v2_is_never_sent_v1(status: int, around: Surroundings) -> None:
    async with sending([], around, otherwise=status, protobuf_message=V2) as (receiver, sender):
        counters = await sent(sender, batch := SmallTenant().batch())
        assert sender.encoding.message is V2
    assert messages(receiver) == [V2]
    assert counters.samples_failed == {f"http_{status}": batch.samples}


async def test_endpoint_pinned_to_v1_is_sent_what_waited_for_it_as_v1(around: Surroundings) -> None:
    tenant = SmallTenant()
    async with sending([], around, protobuf_message=V1) as (receiver, sender):
        assert sender.encoding.message is V1
        counters = await sent(sender, tenant.batch(V2), tenant.batch(V1))
    assert messages(receiver) == [V1, V1]
    assert (counters.samples_failed, counters.fallbacks, counters.message) == ({}, 0, V1)


async def test_pin_that_is_taken_away_lets_the_endpoint_be_asked_again(around: Surroundings) -> None:
    tenant = SmallTenant()
    async with sending([], around, protobuf_message=V1) as (receiver, sender):
        await sent(sender, tenant.batch(V1))
        sender.reconfigure(EndpointConfig(receiver.url))
        assert sender.encoding.message is V2
        await sent(sender, tenant.batch())
    assert messages(receiver) == [V1, V2]


async def test_batch_that_cannot_be_read_is_given_up_and_the_next_is_sent(around: Surroundings) -> None:
    tenant = SmallTenant()
    damaged = Batch(b"\x04\x0cabcd", 7, 0, 1, NOW_MS, V2)
    async with sending([], around, protobuf_message=V1) as (receiver, sender):
        counters = await sent(sender, damaged, tenant.batch())
    assert messages(receiver) == [V1]
    assert counters.samples_failed == {"malformed": 7}


@pytest.mark.parametrize("status", [401, 403, 404, 413, 422, 503])
async def test_other_failures_say_nothing_of_the_message(status: int, around: Surroundings) -> None:
    answers: list[Step] = [status] if status < 500 else [status, partial(stores_all)]
    async with sending(answers, around) as (receiver, sender):
        await sent(sender, SmallTenant().batch())
        assert sender.encoding.message is V2
    assert set(messages(receiver)) == {V2}
