"""The receivers: one contract for both, and what the built-in one refuses."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import snappy

from cluster.demo import memory
from cluster.demo.errors import ChildFailedError, ReceiverError
from cluster.demo.memory import MemoryReceiver
from cluster.demo.ports import free_port, free_ports
from cluster.demo.prometheus import PrometheusReceiver
from cluster.demo.readings import Receiver
from cluster.demo.receiver import start_receiver
from tests.unit.demo_bodies import Written, message, varint

HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


@pytest.fixture(params=["memory", pytest.param("prometheus", marks=[needs_prometheus, pytest.mark.integration])])
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    if request.param == "memory":
        started: Receiver = MemoryReceiver()
    else:
        started = start_receiver(tmp_path, "127.0.0.1:9", ephemeral_ports=True)
        assert isinstance(started, PrometheusReceiver)
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def built_in() -> Iterator[MemoryReceiver]:
    started = MemoryReceiver()
    try:
        yield started
    finally:
        started.close()


def post(url: str, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.post(url, content=body, headers=HEADERS | (headers or {}), trust_env=False)


def test_what_is_written_is_read_by_tenant_label_and_time(receiver: Receiver) -> None:
    now_ms = time.time_ns() // 1_000_000

    def counter(tenant: str, service: str, status: str, per_s: float) -> Written:
        labels = {"__name__": "calls_total", "tenant": tenant, "service": service, "status_code": status}
        return Written(labels, [(now_ms - ago_s * 1000, per_s * (40 - ago_s)) for ago_s in range(35, -1, -5)])

    bucket = Written(
        {"__name__": "latency_bucket", "tenant": "acme", "service": "cart", "le": "1"},
        [(now_ms, 1.0)],
        [("4bf92f35", now_ms - 500, 0.75)],
    )
    series = [
        counter("acme", "cart", "UNSET", 8.0),
        counter("acme", "cart", "ERROR", 2.0),
        counter("acme", "email", "UNSET", 4.0),
        counter("globex", "orders", "UNSET", 100.0),
        bucket,
    ]
    assert post(receiver.write_url, snappy.compress(message(series))).is_success
    rates = receiver.rates("acme", "calls_total", ("service",), 30)
    assert dict(rates) == {("cart",): pytest.approx(10.0, rel=0.02), ("email",): pytest.approx(4.0, rel=0.02)}
    by_two = receiver.rates("acme", "calls_total", ("service", "status_code"), 30)
    assert by_two[("cart", "ERROR")] == pytest.approx(2.0, rel=0.02)
    assert receiver.rates("acme", "calls_total", ("no_such_label",), 30).keys() == {("",)}
    assert receiver.rates("initech", "calls_total", ("service",), 30) == {}
    assert receiver.total("acme", "calls_total") == pytest.approx(40 * 14.0)
    assert receiver.total("initech", "calls_total") == 0
    (exemplar,) = receiver.exemplars("acme", "latency_bucket", 30)
    assert (exemplar.trace_id, exemplar.value, exemplar.timestamp_ms) == ("4bf92f35", 0.75, now_ms - 500)
    assert exemplar.labels["service"] == "cart"
    assert receiver.exemplars("globex", "latency_bucket", 30) == []
    receiver.check()
    assert all(what and where for what, where in receiver.look_here())


def test_a_write_may_be_repeated(receiver: Receiver) -> None:
    now_ms = time.time_ns() // 1_000_000
    labels = {"__name__": "calls_total", "tenant": "acme"}
    body = snappy.compress(message([Written(labels, [(now_ms - 1000, 1.0), (now_ms, 7.0)])]))
    post(receiver.write_url, body)
    post(receiver.write_url, body)
    assert receiver.total("acme", "calls_total") == 7.0


@needs_prometheus
@pytest.mark.integration
def test_prometheus_listens_on_loopback_and_tells_when_it_is_gone(tmp_path: Path) -> None:
    receiver = start_receiver(tmp_path, "127.0.0.1:9", ephemeral_ports=True)
    assert isinstance(receiver, PrometheusReceiver)
    assert receiver.write_url.startswith("http://127.0.0.1:")
    receiver._child.stop(15)
    with pytest.raises(ReceiverError, match="does not answer"):
        receiver.rates("acme", "calls_total", (), 30)
    with pytest.raises(ChildFailedError, match="prometheus ended by itself"):
        receiver.check()
    receiver.close()


def test_a_receiver_that_does_not_start_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "prometheus"
    broken.write_text("#!/bin/sh\necho no thanks; exit 3\n")
    broken.chmod(0o755)
    with pytest.raises(ChildFailedError, match=r"prometheus ended by itself \(exit code 3\)") as failed:
        PrometheusReceiver(str(broken), tmp_path, "127.0.0.1:9", ephemeral_ports=True)
    assert "no thanks" in failed.value.log.read_text()


def test_the_built_in_receiver_is_used_where_there_is_no_prometheus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    receiver = start_receiver(tmp_path, "127.0.0.1:9", ephemeral_ports=True)
    receiver.close()
    assert isinstance(receiver, MemoryReceiver)
    assert receiver.write_url.startswith("http://127.0.0.1:")


GOOD = snappy.compress(message([Written({"__name__": "up", "tenant": "acme"}, [(1, 1.0)])]))
BOMB = varint(memory.MAX_MESSAGE_BYTES + 1) + b"\x00a"


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (GOOD, {"Content-Type": "application/json"}, 415, "application/x-protobuf"),
        (GOOD, {"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}, 415, "1.0"),
        (GOOD, {"Content-Encoding": "gzip"}, 415, "snappy"),
        (b"\xff\xff not snappy", {}, 400, "not a snappy block"),
        (b"", {}, 400, "not a snappy block"),
        (snappy.compress(b"\x0b"), {}, 400, "wire type 3"),
        (snappy.compress(message([Written({"a": "b"})])[:-1]), {}, 400, "at byte"),
        (BOMB, {}, 413, "message over"),
        (b"\x80" * 5 + BOMB, {}, 400, "not a snappy block"),
        (b"x" * (memory.MAX_BODY_BYTES + 1), {}, 413, "body over"),
    ],
)
def test_a_bad_write_is_refused_with_its_reason_and_the_next_is_taken(
    built_in: MemoryReceiver, body: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    try:
        answer = post(built_in.write_url, body, headers)
    except httpx.WriteError:
        # The body was refused before all of it was sent.
        assert status == 413
    else:
        assert (answer.status_code, says in answer.text) == (status, True), answer.text
    assert post(built_in.write_url, GOOD).status_code == 204
    assert built_in.total("acme", "up") == 1.0


def test_the_unread_body_of_a_refused_write_is_not_taken_for_the_next_request(
    built_in: MemoryReceiver,
) -> None:
    with httpx.Client(headers=HEADERS, trust_env=False) as client:
        refused = client.post(built_in.write_url, content=GOOD, headers={"Content-Encoding": "gzip"})
        assert (refused.status_code, refused.headers["Connection"]) == (415, "close")
        assert client.post(built_in.write_url, content=GOOD).status_code == 204


def test_a_write_without_length_is_refused(built_in: MemoryReceiver) -> None:
    answer = httpx.post(built_in.write_url, content=iter([GOOD]), headers=HEADERS, trust_env=False)
    assert answer.status_code == 411


def test_unknown_paths_are_refused_and_the_series_page_lists_the_newest_values(
    built_in: MemoryReceiver,
) -> None:
    base = built_in.write_url.removesuffix("/api/v1/write")
    assert post(f"{base}/api/v1/push", GOOD).status_code == 404
    assert httpx.get(f"{base}/metrics", trust_env=False).status_code == 404
    assert post(built_in.write_url, GOOD).status_code == 204
    assert httpx.get(f"{base}/series", trust_env=False).text == 'up{tenant="acme"} 1\n'


def test_at_the_series_bound_the_writer_is_told(built_in: MemoryReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.demo.store.MAX_SERIES", 1)
    series = [Written({"__name__": name, "tenant": "acme"}, [(1, 1.0)]) for name in ("a", "b", "c")]
    answer = post(built_in.write_url, snappy.compress(message(series)))
    assert (answer.status_code, "2 series not stored" in answer.text) == (400, True)
    assert built_in.total("acme", "a") == 1.0


def test_a_preferred_port_is_taken_only_if_nobody_listens_on_it(built_in: MemoryReceiver) -> None:
    taken = int(built_in.write_url.split(":")[2].split("/")[0])
    assert free_port(taken) != taken
    assert len(set(free_ports([0] * 50))) == 50
    free = free_port()
    assert free_port(free) == free
