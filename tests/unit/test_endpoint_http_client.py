import random
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.http_clients import HttpClients
from tenants.endpoint.sender import EndpointSender
from tenants.endpoint.surroundings import Surroundings
from tests.unit.fake_clock import FakeClock
from tests.unit.receiver import Receiver


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate for 127.0.0.1, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    subprocess.run(
        [
            *(
                openssl,
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=receiver",
            ),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both


async def send_one(receiver: Receiver) -> EndpointSender:
    async with HttpClients() as clients:
        around = Surroundings(clients, FakeClock(), random.Random(7), "1.2.3")
        sender = EndpointSender("acme", EndpointConfig(receiver.url, max_sample_age_s=1), around)
        sender.start()
        sender.submit([Batch(b"body", samples=1, exemplars=0, series=1, timestamp_ms=around.clock.now_ms())])
        assert await sender.drain(10)
        await sender.close()
    return sender


async def test_certificate_that_nobody_vouches_for_is_not_trusted(certificate: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with Receiver(tls=tls) as receiver:
        counters = (await send_one(receiver)).snapshot()
    assert receiver.requests == []
    assert counters.samples_failed == {"too_old": 1}
    assert "CERTIFICATE_VERIFY_FAILED" in counters.last_error


async def test_private_authority_can_be_trusted_by_the_environment(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with Receiver(tls=tls) as receiver:
        counters = (await send_one(receiver)).snapshot()
    assert receiver.bodies == [b"body"]
    assert counters.samples_sent == 1


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver() as proxy, Receiver() as receiver:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        await send_one(receiver)
    assert (len(proxy.requests), len(receiver.requests)) == (0, 1)
