"""Case 125: secrets planted in every place that takes one reach their endpoint, and nothing else that can be read.

Values of documents are not secret for their tenant and for operators, and nobody else's business.
"""

import base64
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.integration.planted import DEFAULTS_SECRET, MARK, TENANT_SECRET
from tests.integration.service import MillraceProcess
from tests.integration.tenancy.case import case
from tests.integration.tenancy.running_api import DOCUMENTS, OVERRIDES
from tests.integration.tenancy.written import NOTHING, send, until_ended
from tests.integration.waiting import eventually
from tests.unit.receiver import Answer, Receiver

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

VARIABLE: Final = "MILLRACE_TEST_PLANTED"
OF_A_DOCUMENT: Final = "planted-value-of-a-document"
USER: Final = "millrace"
TENANTS: Final = ("of-service", "of-entry")
"""One that sends to the endpoints of the service configuration, one with endpoints of its own."""


def encoded(secret: str) -> str:
    """Return a password as ``Authorization: Basic`` has it."""
    return base64.b64encode(f"{USER}:{secret}".encode()).decode()


@dataclass
class Planted:
    """An endpoint that is told a secret, refuses, and repeats what it was told, as some do; refusals are logged."""

    secret: str
    settings: Mapping[str, Any]
    receiver: Receiver = field(init=False)

    def __post_init__(self) -> None:
        told = [self.secret, *([encoded(self.secret)] if "basic_auth" in self.settings else [])]
        refusal = f"bad token: {' '.join(told)}"
        self.receiver = Receiver(otherwise=Answer(400, body=refusal.encode()))

    def endpoint(self) -> dict[str, Any]:
        return {"url": self.receiver.url, **self.settings}

    async def assert_told(self) -> None:
        await eventually(lambda: self.receiver.requests, 30, lambda: f"nobody tells {self.secret}")
        told = [value for _, value in self.receiver.requests[0].headers]
        assert any(self.secret in value or encoded(self.secret) in value for value in told), self.settings


def planted(where: str, folder: Path) -> Iterator[Planted]:
    """Yield an endpoint for every way to give it a secret."""
    by_name = {"env": f"{MARK}-of-the-environment", "file": f"{MARK}-of-{where}-file"}
    file = folder / where
    file.write_text(by_name["file"])
    references = {"env": VARIABLE, "file": str(file)}
    for name in ("header", "basic", "bearer"):
        secret = f"{MARK}-of-{where}-{name}"
        match name:
            case "header":
                yield Planted(secret, {"headers": {"X-Key": secret}})
            case "basic":
                yield Planted(secret, {"basic_auth": {"username": USER, "password": secret}})
            case "bearer":
                yield Planted(secret, {"authorization": {"credentials": secret}})
        for kind, reference in references.items():
            secret = by_name[kind]
            match name:
                case "header":
                    yield Planted(secret, {"headers_from": {"X-Key": {kind: reference}}})
                case "basic":
                    yield Planted(secret, {"basic_auth": {"username": USER, f"password_{kind}": reference}})
                case "bearer":
                    yield Planted(secret, {"authorization": {f"credentials_{kind}": reference}})


@dataclass
class Stage:
    """A service that has been told all secrets.

    Attributes:
        tokens: values of tokens, by what they are for.
    """

    service: MillraceProcess
    endpoints: list[Planted]
    database: Path
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def secrets(self) -> list[str]:
        """What must not be found: the mark, passwords as they travel, and the secret parts of tokens."""
        return [
            MARK,
            *(encoded(planted.secret) for planted in self.endpoints),
            *(token.split("_", 2)[2] for token in self.tokens.values()),
        ]

    async def token(self, name: str, tenant: str | None, scope: str) -> None:
        """Make a token through the API."""
        answer = await self.service.ask(
            "POST", "/api/tokens", tenant=tenant, token=self.tokens["operator"], body={"scopes": [scope], "note": name}
        )
        assert answer.status_code == 201, answer.text
        self.tokens[name] = answer.json()["token"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("secrets")
    database = folder / f"{MARK}-of-the-store.db"
    of_service, of_entry = list(planted("service", folder)), list(planted("entry", folder))
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setitem(os.environ, VARIABLE, f"{MARK}-of-the-environment")
        for each in (*of_service, *of_entry):
            await stack.enter_async_context(each.receiver)
        config = {
            "remote_write": [each.endpoint() for each in of_service],
            "store": {"url": f"sqlite:///{database}", "usage_interval": "1s"},
            "overrides": {
                "defaults": {"metrics_generator": {"remote_write_headers": {"X-Defaults": DEFAULTS_SECRET}}},
                "user_configurable_overrides": DOCUMENTS,
            },
        }
        service = await stack.enter_async_context(MillraceProcess(config))
        own = {"remote_write_headers": {"X-Own": TENANT_SECRET}, "remote_write": [each.endpoint() for each in of_entry]}
        await service.put_tenants(**{"of-service": {}, "of-entry": own})
        made = Stage(service, [*of_service, *of_entry], database)
        made.tokens["operator"] = await service.operator_token()
        await made.token("of a tenant", "of-entry", "tenant-admin")
        await made.token("to send", "of-entry", "ingest")
        await made.token("of another operator", None, "operator")
        yield made
        for tenant in TENANTS:
            answer = await service.ask("PATCH", OVERRIDES, tenant=tenant, body={"metrics_generator": NOTHING})
            assert answer.status_code == 200
            await until_ended(service, tenant)


async def pages(stage: Stage) -> AsyncIterator[tuple[str, str]]:
    """Yield all that can be read over HTTP, by where: every page as everybody who may read it."""
    service, operator = stage.service, stage.tokens["operator"]
    document = (await service.get("/openapi.json")).json()
    paths = [path for path, methods in document["paths"].items() if "get" in methods]
    assert len(paths) > 15
    more = [f"{OVERRIDES}?scope=merged&provenance=true", "/status/runtime_config?mode=diff", "/api/usage?format=csv"]
    for path in (*paths, *more):
        for tenant in TENANTS:
            for token in (None, operator, stage.tokens["of a tenant"]):
                for accepted in ("application/json", "text/html"):
                    named = path.replace("{tenant}", tenant)
                    answer = await service.ask("GET", named, tenant=tenant, token=token, Accept=accepted)
                    yield f"GET {named} as {tenant}", f"{answer.text} {answer.headers}"


BAD_BODIES: Final[tuple[bytes, ...]] = (
    f'{{"metrics_generator": {{"remote_write_headers": {{"Authorization": "{MARK}"'.encode(),
    json.dumps(
        {
            "metrics_generator": {
                "collection_interval": "1s",
                "remote_write_headers": {"Authorization": MARK, "Host": MARK, "X": f"{MARK}\n"},
                "remote_write": [{"url": "nope", "basic_auth": {"password": MARK}, "bearer": MARK}],
            },
            "limits": {"metrics_generator": {"remote_write_headers": {"X": MARK}}},
            "scopes": [MARK],
            "revision": MARK,
            "state": MARK,
            "token": MARK,
            "expires_in_days": MARK,
        }
    ).encode(),
)


async def errors(stage: Stage) -> AsyncIterator[tuple[str, str]]:
    """Yield refusals of everything that writes, for bad values next to secrets and for secrets in the wrong places."""
    service, operator = stage.service, stage.tokens["operator"]
    document = (await service.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        named = path.replace("{tenant}", "of-entry").replace("{token_id}", MARK)
        for method in {"post", "patch", "delete"} & methods.keys():
            for body in BAD_BODIES:
                for headers in ({"If_Match": MARK}, {"If_Match": "*"}, {"Content_Type": f"text/{MARK}"}):
                    if method == "delete" and headers == {"If_Match": "*"}:
                        continue  # that would be right
                    answer = await service.ask(
                        method, named, tenant="of-entry", token=operator, content=body, **headers
                    )
                    assert 400 <= answer.status_code < 500, (method, path, answer.text)
                    yield f"{method} {named}", f"{answer.text} {answer.headers}".replace(named, "")
    wrong = f"mrt_{'0' * 16}_{MARK}".ljust(64, "x")
    for token in (wrong, wrong[:30], MARK, stage.tokens["operator"][:-1] + "!"):
        answer = await service.ask("GET", "/api/admin/audit", token=token)
        assert answer.status_code == 401
        yield "a wrong token", f"{answer.text} {answer.headers}"
    answer = await service.ask("GET", "/api/admin/audit", Authorization=f"Basic {encoded(MARK)}")
    assert answer.status_code == 401
    yield "a wrong password", f"{answer.text} {answer.headers}"
    for query in (f"scope={MARK}", f"provenance={MARK}", f"min_revision={MARK}", f"wait={MARK}"):
        answer = await service.ask("GET", f"{OVERRIDES}?{query}", tenant="of-entry")
        assert answer.status_code == 400
        yield query, f"{answer.text} {answer.headers}"


BAD_ENTRIES: Final[tuple[dict[str, Any], ...]] = (
    {"remote_write_headers": {"Host": MARK, "X": f"{MARK}\n", "x": MARK}},
    {"remote_write_headers": MARK},
    {"remote_write": [{"url": f"https://{USER}:{MARK}@example/", "headers": {"Content-Type": MARK}}]},
    {"remote_write": [{"url": "nope", "basic_auth": {"password": MARK, "password_file": "/x"}}]},
    {"remote_write": [{"url": "http://a/", "authorization": {"type": "Basic", "credentials": MARK}, "token": MARK}]},
    {"collection_interval": "1d", "remote_write": [{"url": "http://a/", "authorization": {"credentials": MARK}}]},
)


async def make_it_speak(stage: Stage) -> None:
    """Have the service say all it has to say: refused samples, settings that change, bad settings."""
    service = stage.service
    for tenant in TENANTS:
        document = {
            "metrics_generator": {
                "processors": ["span-metrics", "service-graphs"],
                "processor": {"span_metrics": {"span_multiplier_key": OF_A_DOCUMENT}},
            }
        }
        answer = await service.ask("PATCH", OVERRIDES, tenant=tenant, body=document, token=stage.tokens["of a tenant"])
        assert answer.status_code == (200 if tenant == "of-entry" else 403), answer.text
        if tenant != "of-entry":
            assert (await service.ask("PATCH", OVERRIDES, tenant=tenant, body=document)).status_code == 200
    await service.until_in_force()
    for tenant in TENANTS:
        await send(service, tenant)
    for endpoint in stage.endpoints:
        await endpoint.assert_told()
    for tenant in TENANTS:
        await service.logged("endpoint refused samples, they are dropped", tenant=tenant)
    for entry in BAD_ENTRIES:
        text = json.dumps({"overrides": {"of-entry": {"metrics_generator": entry}}})
        await service.break_runtime_file(text)
    await service.break_runtime_file(f'overrides:\n  x: {{metrics_generator: {{remote_write_headers: {{X: "{MARK}')
    await service.put_tenants(repaired={})


def logs(service: MillraceProcess) -> Iterator[tuple[str, str]]:
    """Yield everything that was written to a log, by where."""
    yield "the log", service.log
    files = [path for path in (service.folder / "ray").rglob("*") if path.is_file()]
    assert any(path.name.startswith("gcs_server") for path in files)
    for path in files:
        yield str(path), path.read_text(errors="replace")
    for process in service.processes():
        yield f"arguments of {process.pid}", " ".join(process.cmdline())


async def commands(service: MillraceProcess) -> AsyncIterator[tuple[str, str]]:
    """Yield what commands write, by their arguments."""
    for tenant in (*TENANTS, "stranger"):
        for form in ((), ("--json",)):
            yield f"config effective {tenant}", await service.command("config", "effective", tenant, *form)
    yield "token list", await service.command("tokens", "list")


@case(125)
async def test_125_no_secret_comes_to_light(stage: Stage) -> None:
    service = stage.service
    await make_it_speak(stage)
    read = [page async for page in pages(stage)]
    refused = [error async for error in errors(stage)]
    # Again: refusals may have left traces.
    for path in ("/status", "/metrics", "/api/admin/audit?limit=1000"):
        read.append((path, (await service.ask("GET", path, token=stage.tokens["operator"])).text))
    written = [output async for output in commands(service)]
    found = [*read, *refused, *written, *logs(service)]
    assert "bad token" in service.log
    for where, text in found:
        for secret in stage.secrets:
            assert secret not in text, f"{where}: {_around(text, secret)}"
    shown = dict(read)
    assert "<secret>" in shown["GET /status/overrides/of-entry as of-entry"]
    assert "<secret>" in written[0][1]
    assert stage.tokens["of a tenant"].split("_")[1] in shown["GET /api/tokens as of-entry"]

    others = ("the log", "/metrics", "/status", "/api/admin/audit?limit=1000")
    for where, text in found:
        assert where not in others or OF_A_DOCUMENT not in text, where
    assert OF_A_DOCUMENT in shown[f"GET {OVERRIDES} as of-entry"]


@case(125)
async def test_125_the_store_keeps_no_value_of_a_token(stage: Stage) -> None:
    files = list(stage.database.parent.glob(f"{stage.database.name}*"))
    content = b"".join(path.read_bytes() for path in files)
    for token in stage.tokens.values():
        _, token_id, secret = token.split("_", 2)
        assert token_id.encode() in content
        assert secret.encode() not in content


@case(125)
@pytest.mark.parametrize(
    "config",
    [
        {"remote_write": [{"url": "nope", "headers": {"X": MARK, "Host": MARK}, "basic_auth": {"password": MARK}}]},
        {"store": {"url": f"mysql://{USER}:{MARK}@127.0.0.1/x"}},
        {"store": {"url": f"postgresql://{USER}:{MARK}@127.0.0.1:1/x"}},
        {"overrides": {"defaults": {"metrics_generator": {"remote_write_headers": {"X": f"{MARK}\n"}}}}},
    ],
)
async def test_125_a_service_that_cannot_start_does_not_tell_why_with_a_secret(config: dict[str, Any]) -> None:
    service = MillraceProcess(config)
    try:
        service.launch()
        assert await service.exit_code(30) != 0
        assert service.log
        assert MARK not in service.log
    finally:
        await service.stop()


def _around(text: str, secret: str) -> str:
    at = text.index(secret)
    return text[max(0, at - 200) : at + len(secret) + 20]
