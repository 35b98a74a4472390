import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
import trustme
from cryptography.hazmat.primitives import serialization

from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.counters import EndpointCounters
from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.sender import EndpointSender
from tenants.endpoint.surroundings import Surroundings
from tenants.settings.remote_write_auth import TlsConfig
from tests.unit.fake_clock import FakeClock
from tests.unit.receiver import Receiver


@dataclass
class Authority:
    """An authority whose certificate is in a file, and certificates that it gives."""

    ca: trustme.CA
    folder: Path

    @classmethod
    def in_folder(cls, folder: Path) -> "Authority":
        ca = trustme.CA()
        ca.cert_pem.write_to_path(folder / "ca.pem")
        return cls(ca, folder)

    @property
    def ca_file(self) -> str:
        return str(self.folder / "ca.pem")

    def server(self, name: str = "127.0.0.1", *, asks_clients: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(name).configure_cert(context)
        if asks_clients:
            context.verify_mode = ssl.CERT_REQUIRED
            self.ca.configure_trust(context)
        return context

    def write_client(self, ca: trustme.CA | None = None, *, is_encrypted: bool = False) -> dict[str, str]:
        issued = (ca or self.ca).issue_cert("client")
        key = issued.private_key_pem.bytes()
        files = {"cert_file": str(self.folder / "client.pem"), "key_file": str(self.folder / "client.key")}
        Path(files["cert_file"]).write_bytes(issued.cert_chain_pems[0].bytes())
        Path(files["key_file"]).write_bytes(encrypted(key) if is_encrypted else key)
        return files


def encrypted(pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(pem, None)
    password = serialization.BestAvailableEncryption(b"x")
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, password)


def spoil(path: str) -> None:
    Path(path).write_text("half a certifi")


def remove(path: str) -> None:
    Path(path).unlink()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.in_folder(tmp_path)


class Sending:
    def __init__(self, sender: EndpointSender, clock: FakeClock) -> None:
        self._sender = sender
        self.clock = clock

    async def send(self) -> EndpointCounters:
        self._sender.submit([Batch(b"b", samples=1, exemplars=0, series=1, timestamp_ms=self.clock.now_ms())])
        assert await self._sender.drain(10)
        return self._sender.snapshot()


@asynccontextmanager
async def sending(url: str, tls: TlsConfig) -> AsyncIterator[Sending]:
    clock = FakeClock()
    async with HttpClients() as clients:
        around = Surroundings(clients, clock, random.Random(7), "1.2.3")
        sender = EndpointSender("acme", EndpointConfig(url, tls=tls, max_sample_age_s=1, timeout_s=5), around)
        sender.start()
        yield Sending(sender, clock)
        await sender.close()


async def sent(receiver: Receiver, tls: TlsConfig) -> EndpointCounters:
    async with sending(receiver.url, tls) as way:
        return await way.send()


async def test_authority_of_the_settings_is_trusted_and_no_other(authority: Authority, tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    async with Receiver(tls=authority.server()) as receiver:
        assert (await sent(receiver, TlsConfig(ca_file=authority.ca_file))).samples_sent == 1
        refused = await sent(receiver, TlsConfig(ca_file=Authority.in_folder(other).ca_file))
    assert "CERTIFICATE_VERIFY_FAILED" in refused.last_error


async def test_endpoint_that_asks_for_a_certificate_gets_ours(authority: Authority) -> None:
    files = authority.write_client()
    async with Receiver(tls=authority.server(asks_clients=True)) as receiver:
        assert (await sent(receiver, TlsConfig(ca_file=authority.ca_file))).samples_sent == 0
        assert (await sent(receiver, TlsConfig(ca_file=authority.ca_file, **files))).samples_sent == 1
        assert len(receiver.requests) == 1


async def test_name_in_the_certificate_may_differ_from_the_host(authority: Authority) -> None:
    async with Receiver(tls=authority.server("metrics.example")) as receiver:
        refused = await sent(receiver, TlsConfig(ca_file=authority.ca_file))
        assert "CERTIFICATE_VERIFY_FAILED" in refused.last_error
        named = TlsConfig(ca_file=authority.ca_file, server_name="metrics.example")
        assert (await sent(receiver, named)).samples_sent == 1


async def test_verification_can_be_switched_off(authority: Authority) -> None:
    async with Receiver(tls=authority.server("metrics.example")) as receiver:
        assert (await sent(receiver, TlsConfig(insecure_skip_verify=True))).samples_sent == 1


async def test_renewed_certificate_is_shown_and_a_bad_one_is_not(authority: Authority) -> None:
    files = authority.write_client(trustme.CA())
    tls = TlsConfig(ca_file=authority.ca_file, **files)
    async with Receiver(tls=authority.server(asks_clients=True)) as receiver, sending(receiver.url, tls) as way:
        # Of a stranger's authority.
        assert (await way.send()).samples_sent == 0
        authority.write_client()
        way.clock.time_ms += 6000
        assert (await way.send()).samples_sent == 1
        spoil(files["cert_file"])
        way.clock.time_ms += 6000
        with structlog.testing.capture_logs() as logs:
            assert (await way.send()).samples_sent == 2
        remove(files["cert_file"])
        way.clock.time_ms += 6000
        assert (await way.send()).samples_sent == 3
    (line,) = [line for line in logs if "last good one stays" in line["event"]]
    assert files["cert_file"] in line["problem"]


@pytest.mark.parametrize("broken", ["ca_file", "cert_file", "key_file"])
async def test_file_that_is_missing_or_no_certificate_is_named(authority: Authority, broken: str) -> None:
    files = {"ca_file": authority.ca_file, **authority.write_client()}
    async with Receiver(tls=authority.server()) as receiver:
        spoil(files[broken])
        bad = await sent(receiver, TlsConfig(**files))
        remove(files[broken])
        missing = await sent(receiver, TlsConfig(**files))
        assert receiver.requests == []
    assert bad.last_error.startswith("secret: file")
    assert files[broken] in bad.last_error
    assert missing.last_error == f"secret: file {files[broken]}: No such file or directory"


async def test_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(authority: Authority) -> None:
    files = authority.write_client(is_encrypted=True)
    async with Receiver(tls=authority.server()) as receiver:
        counters = await sent(receiver, TlsConfig(ca_file=authority.ca_file, **files))
    assert "unencrypted key" in counters.last_error
