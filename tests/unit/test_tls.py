import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import structlog
import trustme
import uvloop
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from fastapi import FastAPI

from cluster.errors import StartError
from cluster.face_server import FaceServer
from cluster.gateway.body_budget import BodyBudget
from cluster.gateway.intake import ReceiverLimits
from cluster.gateway.otlp_grpc import OtlpGrpcReceiver
from cluster.gateway.otlp_http import OtlpHttpReceiver
from cluster.gateway.tls_server import TlsServer
from cluster.tls import Certificates, certificates
from tenants.settings import SettingsError, parse_service_config
from tests.unit.certificate_files import CertificateFiles, serial_number
from tests.unit.conditions import is_open, until, until_closed
from tests.unit.export_requests import export_request
from tests.unit.raw_grpc import EXPORT
from tests.unit.recording_intake import RecordingIntake, identify

BODY = export_request().SerializeToString()
HEADERS = {"content-type": "application/x-protobuf", "x-scope-orgid": "acme"}

# Actors of Ray run on uvloop, the service's own process on asyncio.
LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    return CertificateFiles(tmp_path)


# What is read


def test_no_settings_are_no_tls() -> None:
    assert certificates(None, "listen.http_tls") is None


def encrypted(key: bytes) -> bytes:
    loaded = load_pem_private_key(key, None)
    return loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def put_missing(files: CertificateFiles) -> None:
    files.key_file.unlink()


def put_text(files: CertificateFiles) -> None:
    files.cert_file.write_text("no certificate")


def put_key_for_certificate(files: CertificateFiles) -> None:
    files.cert_file.write_bytes(files.key_file.read_bytes())


def put_damaged_certificate(files: CertificateFiles) -> None:
    files.cert_file.write_bytes(files.cert_file.read_bytes().replace(b"\n", b"\n*", 1))


def put_damaged_key(files: CertificateFiles) -> None:
    files.key_file.write_bytes(files.key_file.read_bytes().replace(b"\n", b"\n*", 1))


def put_key_of_another(files: CertificateFiles) -> None:
    files.ca.issue_cert("127.0.0.1").private_key_pem.write_to_path(files.key_file)


def put_encrypted_key(files: CertificateFiles) -> None:
    files.key_file.write_bytes(encrypted(files.key_file.read_bytes()))


BAD_FILES = pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (put_missing, r"key_file: \S+/tls\.key cannot be read: No such file"),
        (put_text, r"cert_file: \S+/tls\.crt holds no certificate in PEM"),
        (put_key_for_certificate, r"cert_file: \S+/tls\.crt holds no certificate in PEM"),
        (put_damaged_certificate, r"cert_file: \S+/tls\.crt or its key in \S+/tls\.key is damaged"),
        (put_damaged_key, r"cert_file: \S+/tls\.crt or its key in \S+/tls\.key is damaged"),
        (put_key_of_another, r"key_file: \S+/tls\.key is not the key of the certificate in \S+/tls\.crt; renew both"),
        (put_encrypted_key, r"key_file: \S+/tls\.key has a password; store the key without one"),
    ],
)


@BAD_FILES
def test_bad_file_is_refused_at_start_by_name(
    files: CertificateFiles, spoil: Callable[[CertificateFiles], None], said: str
) -> None:
    key = files.key_file.read_text().splitlines()[1]
    spoil(files)

    with pytest.raises(StartError) as caught:
        files.load()

    assert re.match(rf"listen\.x_tls\.{said}", str(caught.value))
    assert key not in str(caught.value)


@pytest.mark.parametrize("content", ["", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"])
def test_bad_authority_of_clients_is_refused(tmp_path: Path, content: str) -> None:
    files = CertificateFiles(tmp_path, trustme.CA())
    (tmp_path / "clients.crt").write_text(content)

    with pytest.raises(StartError, match=r"listen\.x_tls\.client_ca_file: \S+/clients\.crt (holds no|is damaged)"):
        files.load()


@BAD_FILES
def test_bad_renewal_is_said_once_and_the_last_good_one_stays(
    files: CertificateFiles, spoil: Callable[[CertificateFiles], None], said: str
) -> None:
    loaded = files.load()
    former = loaded.current()
    spoil(files)
    with structlog.testing.capture_logs() as logs:
        assert loaded.current() is former
        assert logs == []
        for _ in range(3):
            files.now_s += 1
            assert loaded.current() is former
    assert [(line["log_level"], bool(re.search(said, line["problem"]))) for line in logs] == [("error", True)]

    files.renew()
    files.now_s += 1
    with structlog.testing.capture_logs() as logs:
        assert loaded.current() is not former
    assert [(line["log_level"], line["setting"]) for line in logs] == [("info", "listen.x_tls")]


def test_unchanged_files_are_not_loaded_again(files: CertificateFiles) -> None:
    loaded = files.load()
    former = loaded.current()
    files.cert_file.touch()
    files.now_s += 1

    assert loaded.current() is former


# HTTP


class HttpPort:
    """OTLP/HTTP with a certificate."""

    def __init__(self, tls: Certificates, limits: ReceiverLimits) -> None:
        self.intake = RecordingIntake()
        self.receiver = OtlpHttpReceiver(self.intake, identify, "127.0.0.1:0", limits, BodyBudget(1 << 26), tls=tls)
        self.port = 0

    @property
    def handshakes(self) -> int:
        server = self.receiver.listener._server
        assert isinstance(server, TlsServer)
        return server.handshakes

    async def post(self, context: ssl.SSLContext | None) -> str:
        """Send a request over a new connection; returns the serial number of the server's certificate."""
        scheme = "https" if context else "http"
        async with httpx.AsyncClient(verify=context or False, trust_env=False, timeout=10) as client:
            url = f"{scheme}://127.0.0.1:{self.port}/v1/traces"
            async with client.stream("POST", url, content=BODY, headers=HEADERS) as answer:
                assert answer.status_code == 200
                return _serial(answer.extensions["network_stream"].get_extra_info("ssl_object"))

    async def refused(self, context: ssl.SSLContext | None) -> None:
        with pytest.raises(httpx.TransportError):
            await self.post(context)


def _serial(connection: ssl.SSLObject) -> str:
    certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None
    return serial_number(certificate)


@asynccontextmanager
async def http_port(tls: Certificates, limits: ReceiverLimits = ReceiverLimits()) -> AsyncIterator[HttpPort]:  # noqa: B008
    port = HttpPort(tls, limits)
    port.port = await port.receiver.start()
    try:
        yield port
    finally:
        await port.receiver.drain(0)


def run(new_loop: NewLoop, scenario: Awaitable[None]) -> None:
    """Run in a loop of this kind; nothing may be left for its exception handler."""
    unhandled: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        await scenario

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(watched())
    assert unhandled == []


@LOOPS
def test_http_with_a_certificate_and_without_one(files: CertificateFiles, new_loop: NewLoop) -> None:
    async def scenario() -> None:
        async with http_port(files.load()) as port:
            await port.post(files.client_context())
            await port.refused(None)
            await port.refused(ssl.create_default_context())
            await port.post(files.client_context())
            assert port.intake.requests == [("acme", BODY)] * 2

    run(new_loop, scenario())


@LOOPS
def test_http_takes_up_a_renewed_certificate(files: CertificateFiles, new_loop: NewLoop) -> None:
    async def scenario() -> None:
        first = files.renew()
        async with http_port(files.load()) as port, httpx.AsyncClient(verify=files.client_context()) as open_before:
            url = f"https://127.0.0.1:{port.port}/v1/traces"
            assert (await open_before.post(url, content=BODY, headers=HEADERS)).status_code == 200
            second = files.renew()
            assert await port.post(files.client_context()) == first
            files.now_s += 1
            assert await port.post(files.client_context()) == second
            assert (await open_before.post(url, content=BODY, headers=HEADERS)).status_code == 200

    run(new_loop, scenario())


@LOOPS
def test_http_demands_certificates_of_clients_and_takes_up_other_authorities(tmp_path: Path, new_loop: NewLoop) -> None:
    clients, others = trustme.CA(), trustme.CA()
    files = CertificateFiles(tmp_path, clients)

    async def scenario() -> None:
        async with http_port(files.load()) as port:
            await port.post(files.client_context(clients))
            await port.refused(files.client_context())
            await port.refused(files.client_context(others))

            files.trust_clients_of(others)
            files.now_s += 1
            await port.post(files.client_context(others))
            await port.refused(files.client_context(clients))

    run(new_loop, scenario())


@LOOPS
@pytest.mark.parametrize(
    ("min_version", "spoken", "is_taken"),
    [
        ("1.2", ssl.TLSVersion.TLSv1_2, True),
        ("1.2", ssl.TLSVersion.TLSv1_3, True),
        ("1.3", ssl.TLSVersion.TLSv1_2, False),
        ("1.3", ssl.TLSVersion.TLSv1_3, True),
    ],
)
def test_http_speaks_no_older_version(
    files: CertificateFiles, new_loop: NewLoop, min_version: str, spoken: ssl.TLSVersion, is_taken: bool
) -> None:
    async def scenario() -> None:
        context = files.client_context()
        context.minimum_version = context.maximum_version = spoken
        async with http_port(files.load(min_version=min_version)) as port:
            await (port.post(context) if is_taken else port.refused(context))

    run(new_loop, scenario())


@LOOPS
def test_handshakes_that_never_end_take_no_more_than_their_share(files: CertificateFiles, new_loop: NewLoop) -> None:
    async def scenario() -> None:
        async with http_port(files.load(), ReceiverLimits(max_connections=5)) as port:
            held = [await asyncio.open_connection("127.0.0.1", port.port) for _ in range(5)]
            await until(lambda: port.handshakes == 5)

            reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
            writer.write(b"\x16\x03\x01")
            assert await until_closed(reader) == b""
            writer.close()
            await port.refused(files.client_context())

            for _, held_writer in held:
                held_writer.close()
            await until(lambda: not port.handshakes)
            await port.post(files.client_context())

    run(new_loop, scenario())


@LOOPS
def test_http_drains_as_it_does_in_the_clear(files: CertificateFiles, new_loop: NewLoop) -> None:
    async def scenario() -> None:
        async with http_port(files.load()) as port:
            _, in_handshake = await asyncio.open_connection("127.0.0.1", port.port)
            await until(lambda: port.handshakes == 1)
            port.intake.hold()
            posting = asyncio.ensure_future(port.post(files.client_context()))
            await asyncio.wait_for(port.intake.arrived.wait(), 10)

            draining = asyncio.ensure_future(port.receiver.drain(10))
            await until(lambda: not is_open(port.port))
            assert not draining.done()
            port.intake.release()

            await posting
            await asyncio.wait_for(draining, 10)
            assert port.handshakes == 0
            in_handshake.close()

    run(new_loop, scenario())


@LOOPS
def test_clients_that_are_served_and_go_leave_no_connection_behind(files: CertificateFiles, new_loop: NewLoop) -> None:
    async def scenario() -> None:
        async with http_port(files.load(), ReceiverLimits(max_connections=2)) as port:
            for _ in range(10):
                await port.post(files.client_context())
                _, writer = await asyncio.open_connection("127.0.0.1", port.port)
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                writer.close()
                await until(lambda: not port.handshakes + port.receiver.listener.connections)

    run(new_loop, scenario())


# The service's own port


async def test_own_port_with_a_certificate(files: CertificateFiles) -> None:
    app = FastAPI()
    app.get("/ready")(lambda: "yes")
    server = FaceServer(app, "127.0.0.1:0", files.load())
    port = await server.start()
    try:
        async with httpx.AsyncClient(verify=files.client_context(), trust_env=False) as client, asyncio.timeout(10):
            assert (await client.get(f"https://127.0.0.1:{port}/ready")).json() == "yes"
            with pytest.raises(httpx.TransportError):
                await client.get(f"http://127.0.0.1:{port}/ready")
    finally:
        await server.stop()


# gRPC


class GrpcPort:
    """OTLP/gRPC with a certificate."""

    def __init__(self, tls: Certificates) -> None:
        self.intake = RecordingIntake()
        self.receiver = OtlpGrpcReceiver(
            self.intake, identify, "127.0.0.1:0", ReceiverLimits(), BodyBudget(1 << 26), tls=tls
        )
        self.port = 0

    async def export(self, files: CertificateFiles, certificate_of: trustme.CA | None = None) -> None:
        """Send a request over a new connection."""
        issued = certificate_of.issue_cert("client") if certificate_of else None
        credentials = grpc.ssl_channel_credentials(
            files.ca.cert_pem.bytes(),
            issued.private_key_pem.bytes() if issued else None,
            issued.cert_chain_pems[0].bytes() if issued else None,
        )
        # Channels to one address would share a connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options) as channel:
            assert await channel.unary_unary(EXPORT)(BODY, metadata=(("x-scope-orgid", "acme"),), timeout=10) == b""

    async def refused(self, files: CertificateFiles, certificate_of: trustme.CA | None = None) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.export(files, certificate_of)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    async def serial(self) -> str:
        """The serial number of the server's certificate, as a new connection gets it."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        serial = _serial(writer.get_extra_info("ssl_object"))
        writer.close()
        return serial


@asynccontextmanager
async def grpc_port(tls: Certificates) -> AsyncIterator[GrpcPort]:
    port = GrpcPort(tls)
    port.port = await port.receiver.start()
    try:
        yield port
    finally:
        await port.receiver.drain(0)


async def test_grpc_with_a_certificate_and_without_one(files: CertificateFiles, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with grpc_port(files.load()) as port:
        await port.export(files)
        await port.refused(CertificateFiles(tmp_path / "other"))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(EXPORT)(BODY, timeout=10)
        assert port.intake.requests == [("acme", BODY)]


async def test_grpc_takes_up_a_renewed_certificate(files: CertificateFiles) -> None:
    first = files.renew()
    async with grpc_port(files.load()) as port:
        second = files.renew()
        assert await port.serial() == first
        files.now_s += 1
        assert await port.serial() == second
        await port.export(files)

        put_key_of_another(files)
        files.now_s += 1
        with structlog.testing.capture_logs() as logs:
            assert await port.serial() == second
        assert [line["log_level"] for line in logs] == ["error"]


async def test_grpc_demands_certificates_of_clients_and_takes_up_other_authorities(tmp_path: Path) -> None:
    clients, others = trustme.CA(), trustme.CA()
    files = CertificateFiles(tmp_path, clients)
    async with grpc_port(files.load()) as port:
        await port.export(files, clients)
        await port.refused(files)
        await port.refused(files, others)

        files.trust_clients_of(others)
        files.now_s += 1
        await port.export(files, others)
        await port.refused(files, clients)


@pytest.mark.parametrize(
    ("spoken", "is_taken"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
async def test_grpc_speaks_tls_1_2_and_1_3(files: CertificateFiles, spoken: ssl.TLSVersion, is_taken: bool) -> None:
    context = files.client_context()
    # Without this OpenSSL itself keeps from the old version.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    with pytest.warns(DeprecationWarning, match="TLSv1_1") if not is_taken else structlog.testing.capture_logs():
        context.minimum_version = context.maximum_version = spoken
    async with grpc_port(files.load()) as port:

        def shake_hands() -> str | None:
            with socket.create_connection(("127.0.0.1", port.port), 10) as plain:
                try:
                    with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                        return connection.version()
                except ssl.SSLError:
                    return None

        assert (await asyncio.to_thread(shake_hands)) == ({"1_2": "TLSv1.2", "1_3": "TLSv1.3"}.get(spoken.name[-3:]))


# Settings


def test_paths_are_absolute_and_optional() -> None:
    listen = parse_service_config(b"listen: {http_tls: {cert_file: a.crt, key_file: /b.key}}", {}).listen

    assert listen.http_tls is not None
    assert listen.http_tls.cert_file == Path.cwd() / "a.crt"
    assert (listen.http_tls.key_file, listen.http_tls.client_ca_file) == (Path("/b.key"), None)
    assert (listen.http_tls.min_version, listen.otlp_grpc_tls, listen.otlp_http_tls) == ("1.2", None, None)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("{http_tls: {cert_file: a}}", "listen.http_tls.key_file", "is required"),
        ("{http_tls: {cert_file: '', key_file: b}}", "listen.http_tls.cert_file", "should be a path"),
        ("{http_tls: {cert_file: a, key_file: b, min_version: 1.3}}", "listen.http_tls.min_version", "1.3"),
        ("{http_tls: {cert_file: a, key_file: b, min_version: '1.1'}}", "listen.http_tls.min_version", "1.2"),
        ("{otlp_grpc_tls: {cert_file: a, key_file: b, min_version: '1.3'}}", "listen.otlp_grpc_tls", "gRPC cannot"),
        ("{http_tls: {cert_file: a, key_file: b, password: c}}", "listen.http_tls.password", "unknown key"),
    ],
)
def test_bad_settings_are_refused(text: str, path: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_service_config(f"listen: {text}".encode(), {})
    [fault] = caught.value.faults
    assert fault.path == path
    assert message in fault.message
