import ssl
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import grpc
import httpx
import pytest
import structlog
import trustme

from cluster.errors import StartError
from cluster.gateway import gateway as gateway_module
from cluster.gateway.gateway import Gateway, Ports
from cluster.placement import Routes
from tenants.identity import Scope, Token, new_token
from tenants.processing.flush_record import Place, ShardKey
from tenants.processing.frame_group import FrameGroup
from tests.overrides_in_force import whole_of
from tests.unit.actor_handle import ActorHandle
from tests.unit.certificate_files import CertificateFiles
from tests.unit.raw_grpc import EXPORT
from tests.unit.tenant_work import NOW_NS, config, overrides, request, spans_on
from tests.unit.tokens import known, really_hashed, table

LISTEN = 'otlp_grpc: "127.0.0.1:0", otlp_http: "127.0.0.1:0"'
ROUTES = Routes(1, ("shard-host-0",), ("collector-0",))
SENDER, EXPIRED, OPERATOR, UNKNOWN = (new_token() for _ in range(4))


class Host:
    def __init__(self) -> None:
        self.shards: list[str] = []

    async def ingest(self, group: FrameGroup) -> tuple[Place, ...]:
        self.shards += [str(head.key) for head in group.heads]
        return tuple(Place(1, 1) for _ in group.heads)

    async def durable(self, keys: Collection[ShardKey]) -> dict[ShardKey, Place]:
        return {key: Place(1, 1) for key in keys}


class Harness:
    def __init__(self) -> None:
        self.host = Host()
        self.gateway = Gateway("gateway-0")
        self.ports = Ports(0, 0)

    async def configure(self, listen: str = "", rest: str = "auth: {mode: token}") -> None:
        settings = config(f"listen: {{{LISTEN}{listen}}}\nmultitenancy_enabled: true\n{rest}\n")
        hosts = {"shard-host-0": ActorHandle(self.host)}
        self.ports = await self.gateway.configure(settings, ROUTES, hosts, whole_of(1, overrides(acme=spans_on())))

    async def http(self, token: Token, context: ssl.SSLContext | None = None, **headers: str) -> int:
        headers |= {"content-type": "application/x-protobuf", "authorization": f"Bearer {token.text}"}
        url = f"{'https' if context else 'http'}://127.0.0.1:{self.ports.otlp_http}/v1/traces"
        async with httpx.AsyncClient(verify=context or False, trust_env=False, timeout=10) as client:
            return (await client.post(url, content=request("a"), headers=headers)).status_code

    async def grpc(self, token: Token, files: CertificateFiles | None = None) -> grpc.StatusCode:
        address = f"127.0.0.1:{self.ports.otlp_grpc}"
        metadata = (("authorization", f"Bearer {token.text}"),)
        if files:
            credentials = grpc.ssl_channel_credentials(files.ca.cert_pem.bytes())
            channel = grpc.aio.secure_channel(address, credentials)
        else:
            channel = grpc.aio.insecure_channel(address)
        async with channel:
            try:
                await channel.unary_unary(EXPORT)(request("b"), metadata=metadata, timeout=10)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

    async def failures(self) -> dict[str, float]:
        measured = await self.gateway.measure()
        return {
            labels[0]: value
            for name, labels, value in measured
            if name == "millrace_authentication_failures_total" and isinstance(value, int)
        }


@pytest.fixture
async def harness(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    monkeypatch.setattr(gateway_module, "set_up_logging", lambda *_: None)
    monkeypatch.setattr("time.time_ns", lambda: NOW_NS)
    made = Harness()
    yield made
    await made.gateway.drain(0)


async def test_everybody_is_told_to_come_back_until_the_tokens_are_there(harness: Harness) -> None:
    await harness.configure()
    assert await harness.http(SENDER) == 503
    assert await harness.grpc(SENDER) is grpc.StatusCode.UNAVAILABLE

    assert await harness.gateway.put_tokens(1, table(really_hashed(SENDER, known(SENDER))))

    assert await harness.http(SENDER) == 200
    assert await harness.grpc(SENDER) is grpc.StatusCode.OK
    assert harness.host.shards == ["acme/0of1"] * 2
    assert (await harness.failures())["no_table"] == 2


async def test_tokens_that_come_before_the_settings_are_kept(harness: Harness) -> None:
    await harness.gateway.put_tokens(1, table(really_hashed(SENDER, known(SENDER))))
    await harness.configure()

    assert await harness.http(SENDER) == 200


async def test_newer_tokens_are_in_force_with_the_next_request(harness: Harness) -> None:
    await harness.configure()
    entry = really_hashed(SENDER, known(SENDER))
    await harness.gateway.put_tokens(2, table(entry))
    assert await harness.http(SENDER) == 200

    await harness.gateway.put_tokens(1, table())
    assert await harness.http(SENDER) == 200
    await harness.gateway.put_tokens(3, table())
    assert await harness.http(SENDER) == 401
    assert await harness.grpc(SENDER) is grpc.StatusCode.UNAUTHENTICATED


async def test_failures_are_counted_by_reason_and_no_token_is_logged(harness: Harness) -> None:
    expired = known(EXPIRED)
    entries = [known(OPERATOR, None, Scope.OPERATOR), expired, known(SENDER)]
    tokens = {each.token_id: each for each in (OPERATOR, EXPIRED, SENDER)}
    hashed = table(*(really_hashed(tokens[each.token_id], each) for each in entries))
    await harness.configure()
    with structlog.testing.capture_logs() as logs:
        await harness.gateway.put_tokens(1, hashed)
        assert await harness.http(UNKNOWN) == 401
        assert await harness.http(Token(SENDER.token_id, UNKNOWN.secret)) == 401
        assert await harness.http(OPERATOR, **{"x-scope-orgid": "acme"}) == 403
        assert await harness.http(SENDER, **{"x-scope-orgid": "globex"}) == 403
    failures = await harness.failures()
    assert {reason: count for reason, count in failures.items() if count} == {
        "unknown": 1,
        "wrong_secret": 1,
        "lacks_scope": 1,
        "wrong_tenant": 1,
    }
    assert "expired" in failures
    assert not any(each.secret in repr(logs) + repr(failures) for each in (*tokens.values(), UNKNOWN))


async def test_tokens_are_not_looked_at_while_headers_are_trusted(harness: Harness) -> None:
    await harness.configure(rest="auth: {mode: trusted_header}")

    assert await harness.http(UNKNOWN, **{"x-scope-orgid": "acme"}) == 200
    assert await harness.http(UNKNOWN) == 401
    assert not any((await harness.failures()).values())


async def test_both_ports_speak_tls(harness: Harness, tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path)
    tls = f"{{cert_file: '{files.cert_file}', key_file: '{files.key_file}'}}"
    await harness.configure(f", otlp_grpc_tls: {tls}, otlp_http_tls: {tls}")
    await harness.gateway.put_tokens(1, table(really_hashed(SENDER, known(SENDER))))

    assert await harness.http(SENDER, files.client_context()) == 200
    assert await harness.grpc(SENDER, files) is grpc.StatusCode.OK
    with pytest.raises(httpx.TransportError):
        await harness.http(SENDER)
    assert await harness.grpc(SENDER) is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(httpx.ConnectError):
        await harness.http(SENDER, ssl.create_default_context(cadata=trustme.CA().cert_pem.bytes().decode()))


@pytest.mark.parametrize("port", ["otlp_grpc", "otlp_http"])
async def test_nothing_listens_when_a_certificate_is_no_good(harness: Harness, tmp_path: Path, port: str) -> None:
    files = CertificateFiles(tmp_path)
    files.key_file.unlink()
    tls = f"{{cert_file: '{files.cert_file}', key_file: '{files.key_file}'}}"

    with pytest.raises(StartError, match=rf"^listen\.{port}_tls\.key_file: \S+ cannot be read"):
        await harness.configure(f", {port}_tls: {tls}")

    assert not await harness.gateway.is_configured()
    files.renew()
    await harness.configure(f", {port}_tls: {tls}")
    assert await harness.gateway.is_configured()
