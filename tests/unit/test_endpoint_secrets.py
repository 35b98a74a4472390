import base64
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig, HeaderFrom
from tenants.endpoint.errors import SecretUnavailableError
from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.secret_files import read_secret
from tenants.endpoint.sender import EndpointSender
from tenants.endpoint.surroundings import Surroundings
from tenants.settings.secret_source import SecretSource
from tests.unit.fake_clock import FakeClock
from tests.unit.receiver import Answer, Receiver

SECRET = "s3cr3t-value"


def bearer(path: Path) -> HeaderFrom:
    return HeaderFrom("Authorization", SecretSource(file=str(path)), prefix="Bearer ")


class Sending:
    """One sender, whose batches are sent one by one."""

    def __init__(self, sender: EndpointSender, clock: FakeClock) -> None:
        self.sender = sender
        self.clock = clock

    async def send(self) -> None:
        self.sender.submit([Batch(b"b", samples=1, exemplars=0, series=1, timestamp_ms=self.clock.now_ms())])
        assert await self.sender.drain(10)

    def pass_time(self, seconds: float) -> None:
        self.clock.time_ms += seconds * 1000


@asynccontextmanager
async def sending(config: EndpointConfig) -> AsyncIterator[Sending]:
    clock = FakeClock()
    async with HttpClients() as clients:
        sender = EndpointSender("acme", config, Surroundings(clients, clock, random.Random(7), "1.2.3"))
        sender.start()
        yield Sending(sender, clock)
        await sender.close()


def authorizations(receiver: Receiver) -> list[str | None]:
    return [request.header("Authorization") for request in receiver.requests]


async def test_secret_is_read_from_its_file_and_again_once_that_changed(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    async with Receiver() as receiver, sending(EndpointConfig(receiver.url, headers_from=(bearer(token),))) as way:
        await way.send()
        token.write_text("second \n")
        await way.send()
        way.pass_time(6)
        await way.send()
        assert authorizations(receiver) == ["Bearer first", "Bearer first", "Bearer second"]


async def test_secret_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_TEST_KEY", SECRET)
    header = HeaderFrom("X-Key", SecretSource(env="MILLRACE_TEST_KEY"))
    async with Receiver() as receiver, sending(EndpointConfig(receiver.url, headers_from=(header,))) as way:
        await way.send()
        assert receiver.requests[0].header("X-Key") == SECRET


async def test_password_from_a_file_is_sent_as_basic_authorization(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("pa:ss\n")
    header = HeaderFrom("Authorization", SecretSource(file=str(password)), user="us\u00e9r")
    async with Receiver() as receiver, sending(EndpointConfig(receiver.url, headers_from=(header,))) as way:
        await way.send()
        (sent,) = authorizations(receiver)
    assert sent is not None
    assert base64.b64decode(sent.removeprefix("Basic ")).decode() == "us\u00e9r:pa:ss"


async def test_missing_secret_is_a_clear_failure_until_it_is_there(tmp_path: Path) -> None:
    token = tmp_path / "token"
    async with Receiver() as receiver:
        config = EndpointConfig(receiver.url, name="main", headers_from=(bearer(token),))
        async with sending(config) as way:

            async def appears() -> None:
                assert way.sender.snapshot().last_error == f"secret: file {token}: No such file or directory"
                token.write_text(SECRET)

            way.clock.on_sleep = appears
            with structlog.testing.capture_logs() as logs:
                await way.send()
            assert authorizations(receiver) == [f"Bearer {SECRET}"]
    (line,) = [line for line in logs if line["event"] == "endpoint failing, will retry"]
    assert (line["tenant"], line["endpoint"], line["reason"]) == ("acme", "main", "secret")
    assert str(token) in line["message"]
    assert SECRET not in str(logs)


async def test_last_good_secret_stays_where_the_new_one_cannot_be_read(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("good")
    async with Receiver() as receiver, sending(EndpointConfig(receiver.url, headers_from=(bearer(token),))) as way:
        await way.send()
        token.unlink()
        way.pass_time(6)
        with structlog.testing.capture_logs() as logs:
            await way.send()
        way.pass_time(6)
        await way.send()
        assert authorizations(receiver) == ["Bearer good"] * 3
    events = [(line["event"], line["log_level"]) for line in logs if "secret" in line["event"]]
    assert events == [("secret of the endpoint cannot be read again, the last good one stays", "error")]


async def test_other_settings_are_read_before_the_next_request(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("1")
    second.write_text("2")
    async with Receiver() as receiver, sending(EndpointConfig(receiver.url, headers_from=(bearer(first),))) as way:
        await way.send()
        way.sender.reconfigure(EndpointConfig(receiver.url, headers_from=(bearer(second),)))
        await way.send()
        way.sender.reconfigure(EndpointConfig(receiver.url, headers=(("Authorization", "plain"),)))
        await way.send()
        assert authorizations(receiver) == ["Bearer 1", "Bearer 2", "plain"]


async def test_secret_of_other_settings_is_never_used_in_place_of_a_missing_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("1")
    async with Receiver() as receiver:
        config = EndpointConfig(receiver.url, headers_from=(bearer(first),), max_sample_age_s=1)
        async with sending(config) as way:
            await way.send()
            way.sender.reconfigure(EndpointConfig(receiver.url, headers_from=(bearer(second),), max_sample_age_s=1))
            await way.send()
            assert authorizations(receiver) == ["Bearer 1"]
            assert way.sender.snapshot().samples_failed == {"too_old": 1}


@pytest.mark.parametrize("header", ["Authorization", "X-Key"])
async def test_receiver_that_repeats_a_secret_does_not_get_it_into_the_log(tmp_path: Path, header: str) -> None:
    password = tmp_path / "password"
    password.write_text(SECRET)
    answer = Answer(
        400, body=f"wrong password {SECRET} of {base64.b64encode(f'u:{SECRET}'.encode()).decode()}".encode()
    )
    source = HeaderFrom(header, SecretSource(file=str(password)), user="u")
    async with Receiver([answer]) as receiver:
        config = EndpointConfig(receiver.url, headers_from=(source,))
        async with sending(config) as way:
            with structlog.testing.capture_logs() as logs:
                await way.send()
            assert way.sender.snapshot().last_error == "http_400: wrong password *** of ***"
    assert SECRET not in str(logs)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"a\nb", "holds more than one line"),
        (b"a\x00b", "holds more than one line"),
        (b"\xff", "is not UTF-8"),
        (b"a" * 65537, "is longer than 65536 bytes"),
    ],
)
def test_file_that_holds_no_secret_is_refused_without_repeating_it(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(SecretUnavailableError) as caught:
        read_secret(SecretSource(file=str(path)), {})
    assert str(caught.value).startswith(f"file {path}: {problem}")
    assert len(str(caught.value)) < 200 + len(str(path))


def test_folder_and_variable_that_is_not_set_are_named(tmp_path: Path) -> None:
    with pytest.raises(SecretUnavailableError, match="Is a directory"):
        read_secret(SecretSource(file=str(tmp_path)), {})
    with pytest.raises(SecretUnavailableError, match="environment variable NAME: is not set"):
        read_secret(SecretSource(env="NAME"), {"OTHER": "x"})
