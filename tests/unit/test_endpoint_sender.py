import asyncio
import logging
import random
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import structlog

from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.counters import EndpointCounters, EndpointState
from tenants.endpoint.sender import EndpointSender
from tenants.endpoint.surroundings import Surroundings
from tests.unit.conditions import until
from tests.unit.fake_clock import START_MS, FakeClock
from tests.unit.receiver import Answer, Flood, Hang, Hold, Receiver, Reset, Step, Trickle
from tests.unit.sending import assert_closes, sending, sending_to, settled


def batch(number: int = 0, *, samples: int = 10, size_bytes: int = 20) -> Batch:
    """A batch that is told apart by its body."""
    body = f"batch {number} ".encode().ljust(size_bytes, b".")
    return Batch(body, samples=samples, exemplars=2, series=5, timestamp_ms=START_MS + number)


def numbers(receiver: Receiver) -> list[int]:
    """Which batches came in, in order."""
    return [int(body.split()[1]) for body in receiver.bodies]


async def test_batches_arrive_in_order_one_at_a_time(around: Surroundings) -> None:
    async with sending_to((), around) as (receiver, sender):
        batches = [batch(number) for number in range(20)]
        sender.submit(batches[:7])
        sender.submit(batches[7:])
        counters = await settled(sender)
    assert receiver.bodies == [each.body for each in batches]
    assert receiver.most_at_once == 1
    assert {request.connection for request in receiver.requests} == {1}  # one TLS handshake, not twenty
    assert counters == EndpointCounters(
        endpoint=receiver.url,
        url=receiver.url,
        state=EndpointState.IDLE,
        samples_submitted=200,
        samples_sent=200,
        exemplars_sent=40,
        batches_sent=20,
        bytes_sent=400,
        last_success_ms=START_MS,
        highest_sent_timestamp_ms=START_MS + 19,
    )


async def test_headers_are_those_of_remote_write_and_no_setting_can_change_them(around: Surroundings) -> None:
    configured = (
        ("X-Scope-OrgID", "acme"),
        ("Authorization", "Bearer s3cret-ü"),
        ("content-TYPE", "text/plain"),
        ("Content-Encoding", "gzip"),
        ("Content-Length", "1"),
        ("User-Agent", "mine"),
        ("X-Prometheus-Remote-Write-Version", "9"),
        ("Retry-Attempt", "77"),
        ("Transfer-Encoding", "chunked"),
        ("Accept-Encoding", "gzip"),
        ("Host", "elsewhere.example"),
        ("Connection", "close"),
    )
    async with sending_to([503], around, headers=configured) as (receiver, sender):
        sender.submit([batch()])
        await settled(sender)
    first, second = receiver.requests
    assert (first.method, first.target) == ("POST", "/api/v1/write")
    for name, value in {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "snappy",
        "Content-Length": "20",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
        "User-Agent": "millrace/1.2.3",
        "Accept-Encoding": "identity",
        "Transfer-Encoding": None,
        "Host": f"127.0.0.1:{receiver.port}",
        "Connection": "keep-alive",
        "X-Scope-OrgID": "acme",
        "Authorization": "Bearer s3cret-ü".encode().decode("latin-1"),
        "Retry-Attempt": None,
        "Cookie": None,
    }.items():
        assert first.header(name) == value, name
    assert second.header("Retry-Attempt") == "1"


async def test_user_and_password_of_the_url_become_basic_authentication(around: Surroundings) -> None:
    async with Receiver() as receiver:
        url = receiver.url.replace("http://", "http://user:pass@")
        async with sending(EndpointConfig(url), around) as sender:
            sender.submit([batch()])
            await settled(sender)
    assert receiver.requests[0].header("Authorization") == "Basic dXNlcjpwYXNz"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529, 599, 429])
async def test_unavailable_receiver_gets_the_same_batch_again_after_growing_pauses(
    around: Surroundings, clock: FakeClock, status: int
) -> None:
    async with sending_to([status] * 3, around) as (receiver, sender):
        sender.submit([batch(1), batch(2)])
        counters = await settled(sender)
    assert numbers(receiver) == [1, 1, 1, 1, 2]
    assert [request.header("Retry-Attempt") for request in receiver.requests] == [None, "1", "2", "3", None]
    assert clock.sleeps == [pytest.approx(pause, rel=0.1) for pause in (0.03, 0.06, 0.12)]
    assert (counters.retries, counters.samples_sent, counters.samples_failed) == (3, 20, {})


async def test_backoff_is_shared_by_batches_and_ends_with_the_first_success(
    around: Surroundings, clock: FakeClock
) -> None:
    async with sending_to([503, 503, 204, 503], around) as (_, sender):
        sender.submit([batch(1), batch(2)])
        await settled(sender)
    assert clock.sleeps == [pytest.approx(pause, rel=0.1) for pause in (0.03, 0.06, 0.03)]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "seconds"), [("17", 17), ("Fri, 15 Jan 2027 08:00:09 GMT", 9), ("999999", 300)]
)
async def test_retry_after_is_honoured_within_reason(
    around: Surroundings, clock: FakeClock, status: int, retry_after: str, seconds: float
) -> None:
    async with sending_to([Answer(status, {"Retry-After": retry_after})], around) as (receiver, sender):
        sender.submit([batch()])
        await settled(sender)
    assert len(receiver.requests) == 2
    assert len(clock.sleeps) == 1
    assert seconds <= clock.sleeps[0] <= seconds * 1.1


async def test_pause_that_was_asked_for_is_made_once(around: Surroundings, clock: FakeClock) -> None:
    answers: list[Step] = [Answer(503, {"Retry-After": "120"}), Reset(), Answer(503, {"Retry-After": "2"})]
    async with sending_to(answers, around) as (receiver, sender):
        sender.submit([batch()])
        counters = await settled(sender)
    first, *others = clock.sleeps
    assert 120 <= first <= 132
    # From max_backoff on, which is longer than the two seconds.
    assert others == [pytest.approx(5, rel=0.1)] * 2
    assert (len(receiver.requests), counters.samples_sent) == (4, 10)


async def test_refused_connection_is_tried_again_until_somebody_listens(around: Surroundings, clock: FakeClock) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    receiver = Receiver(port=port)

    async def open_at_the_third_pause() -> None:
        if len(clock.sleeps) == 3:
            await receiver.__aenter__()

    clock.on_sleep = open_at_the_third_pause
    async with sending(EndpointConfig(receiver.url), around) as sender:
        sender.submit([batch(1), batch(2)])
        counters = await settled(sender)
    await receiver.__aexit__(None, None, None)
    assert numbers(receiver) == [1, 2]
    assert (counters.retries, counters.samples_sent, counters.last_error) == (3, 20, "")


@pytest.mark.parametrize("after_bytes", [0, 5, 20])
async def test_connection_broken_before_the_answer_is_complete_is_tried_again(
    around: Surroundings, after_bytes: int
) -> None:
    async with sending_to([Reset(after_bytes), Reset(after_bytes)], around) as (receiver, sender):
        sender.submit([batch(1), batch(2)])
        counters = await settled(sender)
    assert numbers(receiver) == [1, 1, 1, 2]
    assert counters.samples_sent == 20


@pytest.mark.parametrize(("status", "sent", "failed"), [(200, 10, {}), (400, 0, {"http_400": 10})])
async def test_status_decides_even_if_the_body_behind_it_never_comes(
    around: Surroundings, status: int, sent: int, failed: dict[str, int]
) -> None:
    async with sending_to([Answer(status, resets_after_head=True)], around) as (receiver, sender):
        sender.submit([batch()])
        counters = await settled(sender)
    assert len(receiver.requests) == 1
    assert (counters.samples_sent, counters.samples_failed) == (sent, failed)


@pytest.mark.parametrize("silence", [Hang(), Trickle()])
async def test_receiver_that_does_not_finish_is_left_at_the_timeout_and_tried_again(
    around: Surroundings, clock: FakeClock, silence: Step
) -> None:
    async with sending_to([silence], around, timeout_s=0.1) as (receiver, sender):

        async def be_patient() -> None:
            sender.reconfigure(EndpointConfig(receiver.url))

        clock.on_sleep = be_patient
        sender.submit([batch(1), batch(2)])
        counters = await settled(sender)
    assert numbers(receiver) == [1, 1, 2]
    assert receiver.requests[0].connection != receiver.requests[1].connection
    assert (counters.retries, counters.samples_sent) == (1, 20)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, "http_400"),
        (409, "http_4xx"),
        (415, "http_415"),
        (422, "http_422"),
        (302, "http_3xx"),
        (999, "http_9xx"),
    ],
)
async def test_refused_batch_is_dropped_and_counted_and_the_next_one_sent(
    around: Surroundings, clock: FakeClock, status: int, reason: str
) -> None:
    async with sending_to([status], around) as (receiver, sender):
        sender.submit([batch(1), batch(2)])
        counters = await settled(sender)
    assert numbers(receiver) == [1, 2]
    assert clock.sleeps == []
    assert (counters.samples_failed, counters.samples_sent, counters.retries) == ({reason: 10}, 10, 0)


@pytest.mark.parametrize(("status", "sent"), [(200, 10), (400, 0)])
async def test_body_without_end_is_not_read_to_the_end(around: Surroundings, status: int, sent: int) -> None:
    async with sending_to([Flood(status)], around) as (receiver, sender):
        sender.submit([batch(1)])
        counters = await settled(sender)  # in less than the timeout of the request
        assert counters.samples_sent == sent
        sender.submit([batch(2)])
        await settled(sender)
    assert numbers(receiver) == [1, 2]
    assert receiver.requests[0].connection != receiver.requests[1].connection


async def test_redirect_is_not_followed(around: Surroundings) -> None:
    async with Receiver() as elsewhere:
        redirect = Answer(307, {"Location": elsewhere.url})
        async with sending_to([redirect], around) as (_, sender):
            sender.submit([batch()])
            counters = await settled(sender)
    assert elsewhere.requests == []
    assert counters.samples_failed == {"http_3xx": 10}


async def test_cookies_are_not_kept(around: Surroundings) -> None:
    async with sending_to([Answer(200, {"Set-Cookie": "tenant=acme; Path=/"})], around) as (receiver, sender):
        sender.submit([batch(1), batch(2)])
        await settled(sender)
    assert [request.header("Cookie") for request in receiver.requests] == [None, None]


async def test_receivers_message_is_logged_short_printable_and_once_a_minute(
    around: Surroundings, clock: FakeClock
) -> None:
    noise = b"too many series\r\n\x1b[31mERROR forged line\x00\xe2\x80\xae" + b"x" * 1_000_000
    refusals = [Answer(400, body=noise)] * 5
    with structlog.testing.capture_logs() as logs:
        async with sending_to(refusals, around) as (receiver, sender):
            sender.submit([batch(number) for number in range(4)])
            await settled(sender)
            clock.time_ms += 60_000
            sender.submit([batch(4)])
            counters = await settled(sender)
    assert counters.samples_failed == {"http_400": 50}
    first, second = [line for line in logs if "refused" in line["event"]]
    assert first["message"] == "too many series [31mERROR forged line " + "x" * 218
    assert (first["status"], first["tenant"], first["endpoint"]) == (400, "acme", receiver.url)
    assert (first["withheld_lines"], second["withheld_lines"]) == (0, 3)


async def test_outage_is_logged_when_it_begins_and_when_it_ends(around: Surroundings) -> None:
    with structlog.testing.capture_logs() as logs:
        async with sending_to([503] * 5, around) as (_, sender):
            sender.submit([batch(number) for number in range(3)])
            await settled(sender)
    assert [line["event"] for line in logs] == [
        "endpoint failing, will retry",
        "endpoint takes samples again",
    ]


async def test_secrets_appear_in_no_log_no_error_and_no_representation(
    around: Surroundings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # where httpx would log the URL of every request
    headers = (("Authorization", "Bearer s3cret-token"), ("X-Key", "s3cret-key"))
    echo = b"bad token 's3cret-token', Bearer s3cret-token, s3cret-key, s3cret-pass, t=s3cret-query"
    script: list[Step] = [Answer(401, body=echo), Answer(503, body=echo), Reset(), Answer(403, body=echo)]
    seen: list[str] = []
    with structlog.testing.capture_logs() as logs:
        async with Receiver(script) as receiver:
            url = receiver.url.replace("http://", "http://user:s3cret-pass@") + "?t=s3cret-query"
            async with sending(EndpointConfig(url, headers=headers), around) as sender:
                for number in range(3):
                    sender.submit([batch(number)])
                    seen.append(repr(await settled(sender)))
                seen.append(f"{sender.config} {sender.config!r} {vars(sender)}")
    assert len(receiver.requests) == 7
    assert "bad token '***'" in logs[0]["message"]
    assert "s3cret" not in " ".join([*map(str, logs), *seen, caplog.text])


async def test_batch_that_fails_for_ever_is_dropped_when_it_is_too_old(around: Surroundings, clock: FakeClock) -> None:
    async with Receiver(otherwise=500) as receiver:

        async def recover_after_a_while() -> None:
            if clock.time_ms > START_MS + 90_000:
                receiver.otherwise = 204

        clock.on_sleep = recover_after_a_while
        config = EndpointConfig(receiver.url, max_sample_age_s=60)
        async with sending(config, around) as sender:
            sender.submit([batch(0), batch(100_000)])
            counters = await settled(sender)
    assert (counters.samples_failed, counters.samples_sent) == ({"too_old": 10}, 10)
    # Giving up is no reason to hurry: there is a pause after every failure.
    assert len(clock.sleeps) == len(receiver.requests) - 1
    assert sum(clock.sleeps) > 60


async def test_full_queue_drops_the_oldest_counts_them_and_spares_what_is_in_flight(
    around: Surroundings,
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with sending_to([Hold()], around, max_queue_bytes=60) as (receiver, sender):
            sender.submit([batch(0)])
            await receiver.wait_for_requests(1)
            sender.submit([batch(number) for number in range(1, 8)])
            before = sender.snapshot()
            receiver.release()
            counters = await settled(sender)
    assert_closes(before)
    assert (before.pending_batches, before.pending_samples, before.pending_bytes) == (4, 40, 80)
    assert before.samples_dropped == 40
    assert numbers(receiver) == [0, 5, 6, 7]
    assert (counters.samples_sent, counters.samples_dropped) == (40, 40)
    # One line a minute, however many are dropped.
    assert [line["event"] for line in logs] == ["queue full, the oldest samples are dropped"]


async def test_drain_waits_for_everything_submitted(around: Surroundings) -> None:
    async with sending_to([503, 503], around) as (receiver, sender):
        assert await sender.drain(0)  # nothing was submitted yet
        sender.submit([batch(number) for number in range(5)])
        assert await sender.drain(10)
        assert len(receiver.requests) == 7
        sender.submit([batch(5)])
        assert await sender.drain(10)
        assert len(receiver.requests) == 8


async def test_drain_gives_up_at_its_deadline_and_says_what_is_left(around: Surroundings) -> None:
    with structlog.testing.capture_logs() as logs:
        async with sending_to([204], around, otherwise=Hang()) as (receiver, sender):
            sender.submit([batch(number) for number in range(4)])
            await receiver.wait_for_requests(2)
            assert not await sender.drain(0.05)
            counters = sender.snapshot()
    assert (counters.samples_sent, counters.pending_batches, counters.pending_samples) == (10, 3, 30)
    line = next(line for line in logs if "not drained" in line["event"])
    assert (line["batches"], line["samples"]) == (3, 30)


async def test_close_breaks_off_at_once_and_counts_what_was_not_sent(around: Surroundings) -> None:
    async with sending_to((), around, otherwise=Hang()) as (receiver, sender):
        sender.submit([batch(number) for number in range(3)])
        await receiver.wait_for_requests(1)
        async with asyncio.timeout(20):
            await sender.close()
        sender.submit([batch(3)])
        counters = sender.snapshot()
        assert_closes(counters)
        assert await sender.drain(0)  # nothing is left to wait for
        await sender.close()
    assert (counters.state, counters.samples_failed) == (EndpointState.CLOSED, {"closed": 40})
    assert (counters.pending_batches, len(receiver.requests)) == (0, 1)


async def test_close_does_not_wait_for_a_pause_to_end(around: Surroundings, clock: FakeClock) -> None:
    asleep = asyncio.Event()

    async def sleep_for_ever() -> None:
        asleep.set()
        await asyncio.Event().wait()

    clock.on_sleep = sleep_for_ever
    async with sending_to((), around, otherwise=503) as (_, sender):
        sender.submit([batch()])
        async with asyncio.timeout(20):
            await asleep.wait()
            assert sender.snapshot().state is EndpointState.BACKING_OFF
            assert sender.snapshot().last_error == "http_503: "
            await sender.close()
    assert sender.snapshot().samples_failed == {"closed": 10}


async def test_new_settings_hold_from_the_next_request_on_and_keep_the_queue(
    around: Surroundings, clock: FakeClock
) -> None:
    async with Receiver([503]) as receiver:
        old = EndpointConfig(receiver.url, headers=(("Authorization", "old"),))
        async with sending(old, around) as sender:

            async def rotate_token() -> None:
                sender.reconfigure(EndpointConfig(receiver.url, headers=(("Authorization", "new"),)))

            clock.on_sleep = rotate_token
            sender.submit([batch(1), batch(2)])
            counters = await settled(sender)
    assert numbers(receiver) == [1, 1, 2]
    assert [request.header("Authorization") for request in receiver.requests] == ["old", "new", "new"]
    assert counters.samples_sent == 20


async def test_smaller_bound_drops_and_counts_what_no_longer_fits(around: Surroundings) -> None:
    async with sending_to((), around, otherwise=Hang()) as (receiver, sender):
        sender.submit([batch(0)])
        await receiver.wait_for_requests(1)
        sender.submit([batch(number) for number in range(1, 6)])
        sender.reconfigure(EndpointConfig(receiver.url, max_queue_bytes=40))
        counters = sender.snapshot()
    assert_closes(counters)
    assert (counters.samples_dropped, counters.pending_batches) == (30, 3)


async def test_bug_in_a_sender_is_reported_and_its_queue_stays_bounded(around: Surroundings, clock: FakeClock) -> None:
    async def fail_then_stand_still() -> None:
        if len(clock.sleeps) == 1:
            raise RuntimeError("bug")
        await asyncio.Event().wait()

    clock.on_sleep = fail_then_stand_still
    with structlog.testing.capture_logs() as logs:
        async with Receiver(otherwise=503) as receiver:
            config = EndpointConfig(receiver.url, max_queue_bytes=40)
            async with sending(config, around) as sender:
                sender.submit([batch(0)])
                await until(lambda: sender.snapshot().state is EndpointState.CRASHED)
                assert not await sender.drain(0.01)
                sender.submit([batch(number) for number in range(1, 5)])
                counters = sender.snapshot()
    assert_closes(counters)
    assert (counters.state, counters.last_error) == (EndpointState.CRASHED, "bug: RuntimeError")
    assert (counters.samples_dropped, counters.pending_samples) == (20, 30)
    assert any(line["log_level"] == "error" and "bug" in line["event"] for line in logs)


async def test_sender_begins_again_after_a_bug_with_all_that_waits_in_its_order(
    around: Surroundings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[EndpointState, str]] = []
    # Without this every bug would be printed, which takes a while.
    with structlog.testing.capture_logs():
        async with sending_to([Hold()], around) as (receiver, sender):

            async def look() -> None:
                seen.append((sender.snapshot().state, sender.snapshot().last_error))
                if len(seen) == 7:
                    monkeypatch.undo()

            async def fail(*_: object) -> None:
                raise RuntimeError("bug")

            clock.on_sleep = look
            monkeypatch.setattr(EndpointSender, "_judge", fail)
            # One lane has a request under way when the other meets the bug.
            sender.submit([replace(batch(number), lane=number % 2, lanes=2) for number in range(6)])
            counters = await settled(sender)
    assert clock.sleeps == [30, 60, 120, 240, 480, 600, 600]
    assert seen == [(EndpointState.CRASHED, "bug: RuntimeError")] * 7
    assert [number for number in numbers(receiver)[-6:] if number % 2] == [1, 3, 5]
    assert [number for number in numbers(receiver)[-6:] if number % 2 == 0] == [0, 2, 4]
    assert (counters.samples_sent, counters.samples_failed, counters.last_error) == (60, {}, "")


async def test_sender_that_has_worked_for_long_begins_again_soon(
    around: Surroundings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = EndpointSender._judge

    async def fail_once(sender: EndpointSender, *facts: Any) -> None:
        monkeypatch.setattr(EndpointSender, "_judge", judge)
        raise RuntimeError("bug")

    with structlog.testing.capture_logs():
        async with sending_to((), around) as (_, sender):
            for minutes in (0, 5, 15):
                clock.time_ms += minutes * 60_000
                monkeypatch.setattr(EndpointSender, "_judge", fail_once)
                sender.submit([replace(batch(), timestamp_ms=clock.now_ms())])
                await settled(sender)
    assert clock.sleeps == [30, 60, 30]


@pytest.mark.parametrize("seed", range(5))
async def test_every_sample_is_accounted_for_whatever_the_receiver_does(around: Surroundings, seed: int) -> None:
    dice = random.Random(seed)
    steps: Sequence[Step] = (204, 200, 503, 429, 400, 307, Reset(), Reset(9), Answer(200, body=b"x" * 5000))
    async with sending_to(dice.choices(steps, k=80), around, max_queue_bytes=200) as (receiver, sender):
        submitted = 0
        for number in range(60):
            sender.submit([batch(number, samples=number)])
            submitted += number
            await asyncio.sleep(0.001 * dice.randrange(3))
            assert_closes(sender.snapshot())
        counters = await settled(sender)
    assert counters.samples_submitted == submitted
    assert counters.pending_samples == 0
    assert numbers(receiver) == sorted(numbers(receiver))
    assert receiver.most_at_once == 1
