"""``millrace doctor``: what it finds right and wrong, and that it leaves everything as it was."""

import asyncio
import gzip
import json
import resource
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from typer.testing import CliRunner, Result

from cluster.cli import app
from cluster.commands import doctor_machine
from cluster.commands.doctor_endpoints import clock_finding, skew_s, targets
from cluster.commands.finding import Verdict
from cluster.demo.ports import free_ports
from cluster.face_server import FaceServer
from cluster.tls import certificates
from tenants.identity import TenantId
from tenants.journal.store import JournalStore
from tenants.settings.in_force import OverridesInForce
from tenants.settings.overrides import Overrides
from tenants.settings.service_config import parse_service_config
from tenants.settings.tls import ServerTlsConfig
from tests.postgres import Postgres
from tests.unit.certificate_files import CertificateFiles
from tests.unit.receiver import Answer, Receiver
from tests.unit.test_service_face import Service, application

Findings = dict[str, dict[str, str]]


class Surgery:
    """A configuration in a folder of its own, with free ports, and the doctor who looks at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.http, self.grpc, self.otlp_http = free_ports([0, 0, 0])
        self.config: dict[str, Any] = {
            "data_dir": str(self.data_dir),
            "listen": {
                "http": f"127.0.0.1:{self.http}",
                "otlp_grpc": f"127.0.0.1:{self.grpc}",
                "otlp_http": f"127.0.0.1:{self.otlp_http}",
            },
        }

    def run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Result:
        file = self.folder / "millrace.yaml"
        file.write_text(yaml.safe_dump(self.config))
        runner = CliRunner(env={"COLUMNS": "250", **(environ or {})})
        return runner.invoke(app, ["doctor", "--config", str(file), *arguments])

    def findings(self, *arguments: str, environ: Mapping[str, str] | None = None) -> tuple[int, Findings]:
        ended = self.run("--json", *arguments, environ=environ)
        assert isinstance(ended.exception, SystemExit | None), ended.exception
        return ended.exit_code, {found["check"]: found for found in json.loads(ended.stdout)}

    async def look(self, *arguments: str, environ: Mapping[str, str] | None = None) -> tuple[int, Findings]:
        """The same while something in this event loop answers."""
        return await asyncio.to_thread(self.findings, *arguments, environ=environ)


@pytest.fixture
def surgery(tmp_path: Path) -> Surgery:
    return Surgery(tmp_path)


def verdicts(findings: Findings) -> dict[str, str]:
    return {check: found["verdict"] for check, found in findings.items()}


def test_machine_that_is_ready_is_told_so(surgery: Surgery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (65536, 65536))
    code, findings = surgery.findings()
    assert code == 0
    assert verdicts(findings) == {
        "file limit": "ok",
        "settings": "ok",
        "listen.http": "ok",
        "listen.otlp_grpc": "ok",
        "listen.otlp_http": "ok",
        "data directory": "ok",
        "store": "ok",
        "journal": "ok",
        "endpoints": "warn",
    }
    assert not surgery.data_dir.exists()
    shown = surgery.run()
    assert "warn endpoints: there is none: what is generated goes nowhere\n     set remote_write\n" in shown.stdout
    assert shown.stdout.endswith("8 ok, 1 warn, 0 fail\n")


# settings and limits


def test_settings_with_faults_end_the_examination(surgery: Surgery) -> None:
    surgery.config["lisen"] = {}
    code, findings = surgery.findings()
    assert code == 1
    assert findings["settings"]["verdict"] == "fail"
    assert "did you mean listen?" in findings["settings"]["said"]
    assert "store" not in findings


def test_runtime_file_with_faults_is_found_and_the_rest_looked_at(surgery: Surgery) -> None:
    file = surgery.folder / "runtime.yaml"
    surgery.config["overrides"] = {"per_tenant_override_config": str(file)}
    file.write_text("overrides: {acme: {metrics_generator: {processors: [spam]}}}")
    code, findings = surgery.findings()
    assert (code, findings["runtime file"]["verdict"]) == (1, "fail")
    assert "spam" in findings["runtime file"]["said"] or "not a processor" in findings["runtime file"]["said"]
    assert findings["store"]["verdict"] == "ok"
    file.write_text("overrides: {acme: {}}")
    code, findings = surgery.findings()
    assert (code, findings["runtime file"]["verdict"]) == (0, "ok")


@pytest.mark.parametrize(
    ("soft", "verdict"), [(512, "fail"), (4096, "warn"), (8192, "ok"), (resource.RLIM_INFINITY, "ok")]
)
def test_file_limit_is_judged(monkeypatch: pytest.MonkeyPatch, soft: int, verdict: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    finding = doctor_machine.files_finding()
    assert finding.verdict == verdict
    assert ("ulimit -n 8192" in finding.mend) is (verdict != "ok")


# ports


def test_port_that_another_uses_is_found(surgery: Surgery) -> None:
    with socket.create_server(("127.0.0.1", surgery.grpc)):
        code, findings = surgery.findings()
    assert code == 1
    assert findings["listen.otlp_grpc"]["verdict"] == "fail"
    assert f"127.0.0.1:{surgery.grpc}" in findings["listen.otlp_grpc"]["said"]
    assert "set listen.otlp_grpc" in findings["listen.otlp_grpc"]["mend"]


def test_address_that_is_not_ours_is_found(surgery: Surgery) -> None:
    surgery.config["listen"]["otlp_http"] = "192.0.2.1:4318"
    code, findings = surgery.findings()
    assert (code, findings["listen.otlp_http"]["verdict"]) == (1, "fail")


@pytest.mark.parametrize(("ready", "verdict"), [(True, "ok"), (False, "warn")])
async def test_running_service_is_known_by_its_answer(surgery: Surgery, ready: bool, verdict: str) -> None:
    service = Service()
    service.ready = ready
    face = FaceServer(application(service), f"127.0.0.1:{surgery.http}")
    await face.start()
    try:
        with socket.create_server(("127.0.0.1", surgery.grpc)):
            code, findings = await surgery.look()
    finally:
        await face.stop()
    assert code == 0
    assert findings["listen.http"]["verdict"] == verdict
    assert "the service answers" in findings["listen.http"]["said"]
    assert findings["listen.otlp_grpc"]["verdict"] == "ok"
    assert findings["listen.otlp_http"]["verdict"] == "warn"
    assert "takes no spans here" in findings["listen.otlp_http"]["said"]


async def test_stranger_on_the_services_port_is_found(surgery: Surgery) -> None:
    async with Receiver(port=surgery.http):
        code, findings = await surgery.look()
    assert (code, findings["listen.http"]["verdict"]) == (1, "fail")


async def test_service_with_a_certificate_is_reached(surgery: Surgery) -> None:
    files = CertificateFiles(surgery.folder)
    tls = {"cert_file": str(files.cert_file), "key_file": str(files.key_file)}
    surgery.config["listen"]["http_tls"] = tls
    ca_file = surgery.folder / "ca.pem"
    files.ca.cert_pem.write_to_path(ca_file)
    config = ServerTlsConfig.model_validate(tls)
    face = FaceServer(application(Service()), f"127.0.0.1:{surgery.http}", certificates(config, "listen.http_tls"))
    await face.start()
    try:
        code, findings = await surgery.look("--ca-file", str(ca_file))
    finally:
        await face.stop()
    assert (code, findings["listen.http"]["verdict"], findings["listen.http_tls"]["verdict"]) == (0, "ok", "ok")


def test_certificate_that_is_not_there_is_found(surgery: Surgery) -> None:
    surgery.config["listen"]["otlp_grpc_tls"] = {"cert_file": "/none/a.pem", "key_file": "/none/b.pem"}
    code, findings = surgery.findings()
    assert (code, findings["listen.otlp_grpc_tls"]["verdict"]) == (1, "fail")


# databases


@pytest.fixture
def stored(surgery: Surgery) -> Iterator[JournalStore]:
    """Store and journal of a service that has run, and still does."""
    surgery.run()
    file = surgery.folder / "millrace.yaml"
    made = CliRunner().invoke(app, ["tokens", "create", "--scope", "operator", "--config", str(file)])
    assert made.exit_code == 0, made.output
    journal = JournalStore.open(f"sqlite:///{surgery.data_dir / 'journal.db'}", "collector-0", 7)
    yield journal
    journal.close()


def dump(file: Path) -> list[str]:
    connection = sqlite3.connect(file)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def test_databases_are_written_to_and_left_as_they_were(surgery: Surgery, stored: JournalStore) -> None:
    files = [surgery.data_dir / name for name in ("millrace.db", "journal.db")]
    before = [dump(file) for file in files]
    code, findings = surgery.findings()
    assert code == 0
    for check in ("store", "journal"):
        assert findings[check]["said"].endswith("answers, and can be written to")
    assert [dump(file) for file in files] == before
    # It owns the journal as before.
    stored.append([(TenantId("acme"), 1, b"entry")])


def test_store_of_a_newer_version_is_found(surgery: Surgery, stored: JournalStore) -> None:
    with sqlite3.connect(surgery.data_dir / "millrace.db") as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    connection.close()
    code, findings = surgery.findings()
    assert (code, findings["store"]["verdict"], findings["journal"]["verdict"]) == (1, "fail", "ok")
    assert "install the version" in findings["store"]["mend"]


def test_damaged_store_is_found(surgery: Surgery) -> None:
    surgery.data_dir.mkdir()
    (surgery.data_dir / "millrace.db").write_bytes(b"")
    code, findings = surgery.findings()
    assert (code, findings["store"]["verdict"]) == (1, "fail")
    assert "the file is empty" in findings["store"]["said"]


def test_database_that_does_not_answer_is_found_without_its_password(surgery: Surgery) -> None:
    surgery.config["store"] = {"url": f"postgresql://u:s3cret@127.0.0.1:{surgery.grpc}/millrace"}
    ended = surgery.run()
    assert ended.exit_code == 1
    assert "fail store: " in ended.stdout
    assert "s3cret" not in ended.output


def test_postgresql_is_written_to_and_left_as_it_was(surgery: Surgery, postgres: Postgres) -> None:
    url = postgres.new_database()
    surgery.config["store"] = {"url": url}
    ended = surgery.run()
    assert ended.exit_code == 0, ended.output
    for check in ("store", "journal"):
        assert f"{check}: {url.rpartition('/')[2]} on 127.0.0.1: answers, and can be written to" in ended.stdout
    assert postgres.password not in ended.output
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall() == []
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    code, findings = surgery.findings()
    assert (code, findings["store"]["verdict"], findings["journal"]["verdict"]) == (1, "fail", "fail")
    assert "read-only" in findings["store"]["said"]


def test_directory_that_cannot_be_written_to_is_found(surgery: Surgery) -> None:
    # /proc takes no files, not even of root.
    surgery.config["data_dir"] = "/proc/millrace"
    code, findings = surgery.findings()
    assert (code, findings["data directory"]["verdict"]) == (1, "fail")
    assert findings["data directory"]["mend"].startswith("set data_dir")


# endpoints and clocks


async def endpoint_findings(surgery: Surgery, receiver: Receiver, **endpoint: Any) -> tuple[int, dict[str, str], str]:
    surgery.config["remote_write"] = [{"url": receiver.url, "name": "main", "remote_timeout": "300ms", **endpoint}]
    code, findings = await surgery.look(environ={"WRITE_TOKEN": "s3cret"})
    return code, findings["endpoint main of single-tenant"], findings["clock"]["verdict"]


def dated(status: int, offset_s: float = 0.0) -> Answer:
    return Answer(status, {"Date": format_datetime(datetime.now(UTC) + timedelta(seconds=offset_s), usegmt=True)})


async def test_endpoint_that_takes_an_empty_write_is_well(surgery: Surgery) -> None:
    async with Receiver() as receiver:
        receiver.otherwise = dated(204)
        secret = {"headers_from": {"Authorization": {"env": "WRITE_TOKEN"}}}
        code, finding, clock = await endpoint_findings(surgery, receiver, **secret)
        assert (code, finding["verdict"], clock) == (0, "ok", "ok")
        (request,) = receiver.requests
        assert request.header("authorization") == "s3cret"
        assert request.body == b"\x00"


async def test_endpoint_that_knows_only_version_1_is_asked_again(surgery: Surgery) -> None:
    async with Receiver() as receiver:
        receiver.script = [415]
        code, finding, clock = await endpoint_findings(surgery, receiver)
        assert (code, finding["verdict"]) == (0, "ok")
        assert [request.header("x-prometheus-remote-write-version") for request in receiver.requests] == [
            "2.0.0",
            "0.1.0",
        ]
        # It does not say what time it has.
        assert clock == "warn"


@pytest.mark.parametrize(
    ("status", "verdict", "mend"),
    [
        (401, "fail", "see authorization"),
        (403, "fail", "allowed to do"),
        (404, "fail", "/api/v1/write"),
        (503, "warn", "ask whoever runs it"),
        (422, "warn", "see in its log"),
    ],
)
async def test_endpoint_that_does_not_take_it_is_found(surgery: Surgery, status: int, verdict: str, mend: str) -> None:
    async with Receiver() as receiver:
        receiver.otherwise = Answer(status, body=b"no, not with s3cret")
        secret = {"authorization": {"credentials": "s3cret"}}
        code, finding, _ = await endpoint_findings(surgery, receiver, **secret)
        assert (code, finding["verdict"]) == (int(verdict == "fail"), verdict)
        assert mend in finding["mend"]
        assert "not with ***" in finding["said"]


async def test_endpoint_that_cannot_be_reached_is_found(surgery: Surgery) -> None:
    async with Receiver() as receiver:
        pass
    code, finding, _ = await endpoint_findings(surgery, receiver)
    assert (code, finding["verdict"]) == (1, "fail")
    assert "network ConnectError" in finding["said"]


async def test_secret_that_is_not_there_is_found(surgery: Surgery) -> None:
    async with Receiver() as receiver:
        secret = {"authorization": {"credentials_file": "/none/token"}}
        code, finding, _ = await endpoint_findings(surgery, receiver, **secret)
        assert (code, finding["verdict"], receiver.requests) == (1, "fail", [])
        assert "/none/token" in finding["said"]


@pytest.mark.parametrize(("offset_s", "verdict"), [(12, "warn"), (-12, "warn"), (600, "fail"), (-600, "fail")])
async def test_clock_that_differs_from_the_endpoints_is_found(surgery: Surgery, offset_s: float, verdict: str) -> None:
    async with Receiver() as receiver:
        receiver.otherwise = dated(204, offset_s)
        code, _, clock = await endpoint_findings(surgery, receiver)
        assert (code, clock) == (int(verdict == "fail"), verdict)


async def test_endpoint_of_a_tenant_may_not_be_of_our_network(surgery: Surgery) -> None:
    async with Receiver() as receiver:
        file = surgery.folder / "runtime.yaml"
        entry = {"metrics_generator": {"remote_write": [{"url": "http://localhost:1/", "name": "own"}]}}
        file.write_text(yaml.safe_dump({"overrides": {"acme": entry, "globex": {}}}))
        surgery.config |= {
            "multitenancy_enabled": True,
            "overrides": {"per_tenant_override_config": str(file)},
            "remote_write": [{"url": receiver.url, "name": "main"}],
        }
        code, findings = await surgery.look()
        assert code == 1
        assert "remote_write_targets" in findings["endpoint own of acme"]["said"]
        assert findings["endpoint main of globex"]["verdict"] == "ok"
        assert receiver.requests[0].header("x-scope-orgid") == "globex"
        _, findings = await surgery.look("--tenant", "globex")
        assert "endpoint own of acme" not in findings


def test_tenants_that_share_an_endpoint_but_for_their_names_count_once() -> None:
    config = parse_service_config(b"multitenancy_enabled: true\nremote_write: [{url: 'http://h/'}]\n", {})
    own = {"metrics_generator": {"remote_write_headers": {"X-Own": "1"}}}
    runtime = {f"t{number}": Overrides() for number in range(50)} | {"other": Overrides.model_validate(own)}
    found = targets(config, OverridesInForce(runtime=runtime), None)
    assert [str(each.tenant) for each in found] == ["t0", "other"]
    assert [str(each.tenant) for each in targets(config, OverridesInForce(), TenantId("me"))] == ["me"]
    assert len(targets(config, OverridesInForce(), None)) == 1


@pytest.mark.parametrize(
    ("date", "skew"),
    [
        ("Thu, 01 Jan 1970 00:16:40 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:16:39 GMT", 0.2),
        ("Thu, 01 Jan 1970 00:16:30 GMT", 9.2),
        ("Thu, 01 Jan 1970 00:16:50 GMT", -9.4),
        ("yesterday", None),
        (None, None),
    ],
)
def test_date_has_whole_seconds_and_is_compared_with_both_moments(date: str | None, skew: float | None) -> None:
    assert skew_s(date, 1000.2, 1000.6) == (skew if skew is None else pytest.approx(skew))


def test_the_worst_clock_is_said() -> None:
    finding = clock_finding([0.0, -7.0, 3.0])
    assert (finding.verdict, finding.said) == (Verdict.WARN, "7 s behind an endpoint's")


# traces of ourselves


@pytest.mark.parametrize(
    ("status", "verdict", "mend"),
    [(200, "ok", ""), (503, "warn", "ask whoever runs it"), (401, "fail", "headers and tls_config of tracing")],
)
async def test_receiver_of_our_own_spans_is_sent_none_and_judged(
    surgery: Surgery, status: int, verdict: str, mend: str
) -> None:
    async with Receiver() as receiver:
        receiver.otherwise = Answer(status, body=b"not with s3cret")
        address = receiver.url.replace("/api/v1/write", "")
        surgery.config["tracing"] = {"endpoint": address, "headers_from": {"X-Key": {"env": "KEY"}}}
        code, findings = await surgery.look(environ={"KEY": "s3cret"})
        assert (code, findings["tracing"]["verdict"]) == (int(verdict == "fail"), verdict)
        assert mend in findings["tracing"]["mend"]
        assert "s3cret" not in str(findings)
        (request,) = receiver.requests
        assert (request.target, request.header("x-key")) == ("/v1/traces", "s3cret")
        assert ExportTraceServiceRequest.FromString(gzip.decompress(request.body)) == ExportTraceServiceRequest()


async def test_receiver_of_our_own_spans_that_cannot_be_reached_is_found(surgery: Surgery) -> None:
    surgery.config["tracing"] = {"endpoint": f"http://127.0.0.1:{free_ports([0])[0]}"}
    code, findings = await surgery.look()
    assert (code, findings["tracing"]["verdict"]) == (1, "fail")
    assert "ConnectError" in findings["tracing"]["said"]


async def test_without_traces_there_is_nothing_to_look_at(surgery: Surgery) -> None:
    assert "tracing" not in (await surgery.look())[1]
