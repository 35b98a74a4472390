"""``millrace rescale``: what it asks the service for, and what it says."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.commands import waiting
from cluster.demo.ports import free_port

TENANT = "/api/admin/tenants/acme"


class FakeService:
    """The API as far as the command knows it. Every look brings a wish one step nearer to its end."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.tokens: set[str] = set()
        self.if_match: list[str | None] = []
        self.wanted = 2
        self.running = 2
        self.problem = ""
        self.steps = 2
        self.limits: dict[str, Any] = {
            "ingestion": {"rate_limit_bytes": 5},
            "metrics_generator": {"max_active_series": 9},
        }
        self.conflicts = 0
        self.everywhere = 6

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        self.asked.append((method, path, body))
        if path == "/api/admin/cluster":
            if method == "PATCH":
                self.wanted = body["shard_hosts"]
            else:
                self.steps = max(0, self.steps - 1)
            if not self.steps:
                self.running, self.everywhere = self.wanted, 7
            return 200, self.cluster()
        if method == "PATCH" and self.conflicts:
            self.conflicts -= 1
            return 412, {"detail": "another revision is there"}
        if method == "PATCH":
            if body["limits"]["metrics_generator"]["shards"] == 13:
                violations = [{"path": "metrics_generator.shards", "message": "is unlucky"}]
                return 400, {"detail": "the limits are not valid", "violations": violations}
            self.limits = body["limits"]
        return 200, {"limits": self.limits, "revision": 4}

    def cluster(self) -> dict[str, Any]:
        is_done = not self.steps
        hosts = [f"shard-host-{index}" for index in range(self.wanted if is_done else self.running)]
        leaving = [] if is_done or self.wanted > self.running else ["shard-host-1"]
        scaled = {
            "wanted": self.wanted,
            "running": hosts,
            "leaving": leaving,
            "missing": [],
            "is_done": is_done,
            "problem": self.problem,
        }
        return {"shard_hosts": scaled, "overrides": {"version": 7, "everywhere": self.everywhere}}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeService, int]]:
    fake = FakeService()
    monkeypatch.setattr(waiting, "_POLL_S", 0.001)

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            fake.tokens.add(self.headers["Authorization"])
            fake.if_match.append(self.headers["If-Match"])
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            status, answer = fake.answer(self.command, self.path, body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PATCH = respond  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield fake, server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def run(port: int, *arguments: str, token: str = "secret") -> Any:
    arguments = ("rescale", *arguments, "--url", f"http://127.0.0.1:{port}")
    # A proxy must not come between a machine and itself.
    environ = {"MILLRACE_TOKEN": token, "COLUMNS": "200", "HTTP_PROXY": "http://127.0.0.1:1"}
    return CliRunner().invoke(app, arguments, env=environ)


def test_hosts_are_asked_for_and_waited_for(service: tuple[FakeService, int]) -> None:
    fake, port = service
    answer = run(port, "--hosts", "3")
    assert (answer.exit_code, answer.stdout) == (0, "tenants are spread over 3 shard hosts\n")
    assert fake.asked[0] == ("PATCH", "/api/admin/cluster", {"shard_hosts": 3})
    assert fake.tokens == {"Bearer secret"}


def test_hosts_as_json(service: tuple[FakeService, int]) -> None:
    _, port = service
    answer = run(port, "--hosts", "1", "--json")
    assert answer.exit_code == 0
    assert json.loads(answer.stdout)["running"] == ["shard-host-0"]


def test_command_that_does_not_wait_ends_well(service: tuple[FakeService, int]) -> None:
    fake, port = service
    fake.steps = 10**6
    answer = run(port, "--hosts", "1", "--timeout", "0")
    assert (answer.exit_code, answer.stdout) == (0, "begun\n")


def test_what_is_not_everywhere_in_time_ends_with_1(service: tuple[FakeService, int]) -> None:
    fake, port = service
    fake.steps = 10**6
    for arguments in (("--hosts", "1"), ("acme", "--shards", "2")):
        answer = run(port, *arguments, "--timeout", "0.05")
        assert answer.exit_code == 1
        assert answer.stdout == "not everywhere after 0.05 s; it goes on, ask again later\n"


def test_hosts_that_cannot_be_started_are_a_fault(service: tuple[FakeService, int]) -> None:
    fake, port = service
    fake.problem = "shard-host-2 did not come up within 120 s; has the cluster room for them?"
    answer = run(port, "--hosts", "3")
    assert answer.exit_code == 2
    assert answer.stderr == f"millrace: {fake.problem}; everything is as before\n"


@pytest.mark.parametrize(
    ("written", "shards", "said"), [("4", 4, "acme has 4 shards"), ("auto", 0, "acme is sized by its rate")]
)
def test_shards_of_a_tenant_are_one_of_its_limits(
    service: tuple[FakeService, int], written: str, shards: int, said: str
) -> None:
    fake, port = service
    answer = run(port, "acme", "--shards", written)
    assert (answer.exit_code, answer.stdout) == (0, f"{said}\n")
    assert fake.limits == {
        "ingestion": {"rate_limit_bytes": 5},
        "metrics_generator": {"max_active_series": 9, "shards": shards},
    }
    assert fake.if_match[1] == '"4"'


def test_operator_who_was_faster_is_not_overwritten(service: tuple[FakeService, int]) -> None:
    fake, port = service
    fake.conflicts = 2
    assert run(port, "acme", "--shards", "2").exit_code == 0
    assert [path for method, path, _ in fake.asked if method == "GET"][:3] == [TENANT] * 3
    fake.conflicts = 100
    answer = run(port, "acme", "--shards", "2")
    assert answer.exit_code == 2
    assert "being changed by others" in answer.stderr


def test_refusal_is_passed_on_with_its_places(service: tuple[FakeService, int]) -> None:
    _, port = service
    answer = run(port, "acme", "--shards", "13")
    assert answer.exit_code == 2
    said = "the service refused (400): the limits are not valid; metrics_generator.shards: is unlucky"
    assert answer.stderr == f"millrace: {said}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say either --hosts N, or TENANT --shards N"),
        (("acme",), "say either --hosts N, or TENANT --shards N"),
        (("--shards", "2"), "say either --hosts N, or TENANT --shards N"),
        (("acme", "--hosts", "2"), "say either --hosts N, or TENANT --shards N"),
        (("acme", "--shards", "2", "--hosts", "2"), "say either --hosts N, or TENANT --shards N"),
        (("acme", "--shards", "65"), "--shards should be 1 to 64, or auto"),
        (("acme", "--shards", "0"), "--shards should be 1 to 64, or auto"),
        (("a/b", "--shards", "1"), "TENANT "),
    ],
)
def test_what_makes_no_sense_is_not_asked_for(
    service: tuple[FakeService, int], arguments: tuple[str, ...], said: str
) -> None:
    fake, port = service
    answer = run(port, *arguments)
    assert answer.exit_code == 2
    assert answer.stderr.startswith(f"millrace: {said}")
    assert fake.asked == []


def test_without_a_token_it_says_where_to_get_one(service: tuple[FakeService, int]) -> None:
    fake, port = service
    answer = run(port, "--hosts", "1", token=" ")
    assert answer.exit_code == 2
    assert "millrace tokens create --scope operator" in answer.stderr
    assert fake.asked == []


def test_service_that_is_not_there_is_named_without_the_token() -> None:
    port = free_port()
    answer = run(port, "--hosts", "1")
    assert answer.exit_code == 2
    assert f"no service answers at http://127.0.0.1:{port}" in answer.stderr
    assert "secret" not in answer.output + answer.stderr
    assert "Traceback" not in answer.output
