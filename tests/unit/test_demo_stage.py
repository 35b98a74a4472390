"""The demo as a whole, with a stand-in for the service: what it starts, shows, counts and ends."""

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from cluster.demo.children import Child, tail
from cluster.demo.errors import ChildFailedError
from cluster.demo.frame import Phase
from cluster.demo.run import run_demo
from cluster.demo.stage import Stage
from cluster.demo.workspace import Workspace, choose_ports
from tenants.identity.tenant_id import TenantId
from tenants.processing.plan import plan_json
from tenants.settings.runtime_file import Loaded, RuntimeFile
from tenants.settings.service_config import load_service_config
from tenants.settings.tenant_settings import resolve
from tests.overrides_in_force import in_force

SERVE = (sys.executable, "-m", "tests.unit.demo_service")
WAIT_S = 30.0


@pytest.fixture
def no_prometheus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.demo.receiver.shutil.which", lambda _: None)


def pause(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def stage_in(directory: Path, serve: tuple[str, ...] = SERVE) -> Stage:
    return Stage(
        Workspace(directory),
        choose_ports(ephemeral=True),
        ephemeral_ports=True,
        clock_s=time.monotonic,
        serve=serve,
    )


def watch_until(stage: Stage, is_enough: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_enough():
        stage.watch()
        assert time.monotonic() < deadline, stage.frame()
        time.sleep(0.05)


def test_millrace_accepts_what_the_demo_configures(tmp_path: Path) -> None:
    listen = choose_ports(ephemeral=True)
    workspace = Workspace(tmp_path)
    workspace.write_settings(listen, "http://127.0.0.1:1/api/v1/write")
    config = load_service_config(workspace.service_config, {})
    assert config.overrides.per_tenant_override_config == workspace.overrides
    loaded = RuntimeFile(workspace.overrides, Path.read_bytes).poll()
    assert isinstance(loaded, Loaded), loaded
    acme, globex = (resolve(config, in_force(loaded.overrides), TenantId(tenant)) for tenant in ("acme", "globex"))
    stranger = resolve(config, in_force(loaded.overrides), TenantId("stranger"))
    assert dict(acme.external_labels)["tenant"] == "acme"
    assert acme.collection_interval.seconds == globex.collection_interval.seconds == 5
    assert acme.is_generating
    assert globex.is_generating
    assert not stranger.is_generating
    plans = [json.loads(plan_json(settings)) for settings in (acme, globex)]
    assert [plan["span_metrics"]["dimensions"] for plan in plans] == [
        [],
        ["cloud.region", "http.response.status_code"],
    ]
    assert all(plan["service_graphs"]["wait_s"] == 5 for plan in plans)


def test_taken_ports_are_replaced_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_4317(usual: Iterable[int]) -> list[int]:
        return [5_000 if port == 4317 else port for port in usual]

    monkeypatch.setattr("cluster.demo.workspace.free_ports", without_4317)
    listen = choose_ports(ephemeral=False)
    assert (listen.otlp_grpc, listen.otlp_http, listen.http) == (5_000, 4318, 8080)
    assert listen.moved == ("4317 is taken, otlp_grpc listens on 5000",)
    assert choose_ports(ephemeral=True).moved == ()


@pytest.mark.integration
@pytest.mark.usefixtures("no_prometheus")
def test_the_tables_fill_and_every_acknowledged_span_is_counted(tmp_path: Path) -> None:
    stage = stage_in(tmp_path)
    phases: list[Phase] = []
    try:
        assert stage.frame().phase is Phase.STARTING
        assert stage.start(pause)
        assert stage.frame().phase is Phase.WAITING
        watch_until(stage, lambda: stage.frame().phase is Phase.RUNNING)
        watch_until(stage, lambda: all(sent.acknowledged > 200 for sent, _ in stage.totals.values()))
        stage.finish(lambda: phases.append(stage.frame().phase))
    finally:
        stage.close()
    assert phases == [Phase.STOPPING]
    assert stage.frame().phase is Phase.ENDED
    where = dict(stage.frame().look_here)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/console/   sign in with mrt_\S+", where["Console"])
    for sent, counted in stage.totals.values():
        assert counted == sent.acknowledged > 200
        assert sent.not_taken == 0
    services = [{row.service for row in tenant.reading.red} for tenant in stage.frame().tenants if tenant.reading]
    assert len(services) == 2
    assert not services[0] & services[1]


@pytest.mark.integration
@pytest.mark.usefixtures("no_prometheus")
def test_a_child_that_dies_ends_the_watch_and_all_others_are_stopped(tmp_path: Path) -> None:
    stage = stage_in(tmp_path)
    try:
        assert stage.start(pause)
        assert stage._millrace is not None
        os.kill(stage._millrace.pid, signal.SIGKILL)
        with pytest.raises(ChildFailedError, match=r"millrace ended by itself \(signal 9\)"):
            watch_until(stage, lambda: False)
    finally:
        stage.close()
    assert stage._traffic is not None
    with pytest.raises(ChildFailedError, match="traffic ended by itself"):
        stage._traffic.check()


CRASHING_AT_ITS_END = """
import http.server, signal, sys, yaml

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

def stop(*_):
    print("could not flush")
    sys.exit(3)

signal.signal(signal.SIGTERM, stop)
with open(sys.argv[2]) as config:
    port = yaml.safe_load(config)["listen"]["http"].split(":")[1]
http.server.HTTPServer(("127.0.0.1", int(port)), Ready).serve_forever()
"""


@pytest.mark.integration
@pytest.mark.usefixtures("no_prometheus")
def test_a_service_that_does_not_end_with_code_0_is_a_failure(tmp_path: Path) -> None:
    stage = stage_in(tmp_path, (sys.executable, "-c", CRASHING_AT_ITS_END))
    try:
        assert stage.start(pause)
        with pytest.raises(ChildFailedError, match="millrace stopped with exit code 3") as failed:
            stage.finish(lambda: None)
    finally:
        stage.close()
    assert "could not flush" in tail(failed.value.log)


@pytest.mark.usefixtures("no_prometheus")
def test_a_service_that_ends_at_start_is_reported_with_its_log(tmp_path: Path) -> None:
    stage = stage_in(tmp_path, (sys.executable, "-c", "import sys; sys.exit('bad luck')"))
    try:
        with pytest.raises(ChildFailedError, match=r"exit code 1") as failed:
            stage.start(pause)
    finally:
        stage.close()
    assert tail(failed.value.log) == "bad luck"


@pytest.mark.usefixtures("no_prometheus")
def test_an_interrupted_start_stops_what_was_started(tmp_path: Path) -> None:
    stage = stage_in(tmp_path, (sys.executable, "-c", "import time; time.sleep(60)"))
    stops = iter([False, False, True])
    try:
        assert not stage.start(lambda _: next(stops))
    finally:
        stage.close()
    assert stage._millrace is not None
    assert stage._millrace.stop(0) == -signal.SIGTERM


@pytest.mark.integration
@pytest.mark.usefixtures("no_prometheus")
def test_the_demo_runs_for_its_time_and_says_what_was_counted(capfd: pytest.CaptureFixture[str]) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run_demo(1.5, True, serve=SERVE) == 0
    last = capfd.readouterr().out.splitlines()[-1]
    assert re.match(r"Millrace demo ended after \d+ s of traffic\. acme: ", last)
    found = re.findall(r"(\d[\d ]*) spans acknowledged, (\d[\d ]*) counted in traces_spanmetrics_calls_total\.", last)
    assert len(found) == 2
    assert all(acknowledged == counted for acknowledged, counted in found)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.integration
@pytest.mark.usefixtures("no_prometheus")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_cleanly(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    watch = Stage.watch

    def watch_and_signal(stage: Stage) -> None:
        watch(stage)
        if stage.playing_s > 0.2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Stage, "watch", watch_and_signal)
    assert run_demo(None, True, serve=SERVE) == 0
    assert "Millrace demo ended after" in capfd.readouterr().out


@pytest.mark.usefixtures("no_prometheus")
def test_a_failure_prints_the_log_and_where_the_files_are(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_demo(3.0, True, serve=(sys.executable, "-c", "import sys; sys.exit('bad luck')")) == 1
    printed = capfd.readouterr().out
    assert "bad luck" in printed
    directory = re.search(r"The demo ended: millrace ended by itself \(exit code 1\)\. Its files are in (\S+)", printed)
    assert directory is not None
    kept = Path(directory[1])
    assert (kept / "millrace.log").read_text().strip() == "bad luck"
    shutil.rmtree(kept)


def test_a_child_that_ignores_the_request_to_stop_is_killed_and_reported(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    program = "\n".join(
        [
            "import pathlib, signal, time",
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
            f"pathlib.Path({str(ready)!r}).touch()",
            "time.sleep(60)",
        ]
    )
    child = Child("deaf", [sys.executable, "-c", program], tmp_path / "log")
    assert child.wait_until(ready.exists, 20, pause)
    with pytest.raises(ChildFailedError, match="deaf did not stop within 0 s and was killed"):
        child.stop(0.2)
    assert child.stop(0) == -signal.SIGKILL


def test_a_child_that_is_never_ready_is_reported(tmp_path: Path) -> None:
    child = Child("slow", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    try:
        with pytest.raises(ChildFailedError, match="slow was not ready after 0 s"):
            child.wait_until(lambda: False, 0.2, pause)
    finally:
        child.stop(10)


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == ""
    log.write_bytes(b"".join(b"line %d\n" % index for index in range(10_000)) + b"\xff end")
    assert tail(log, 2) == "line 9999\n\ufffd end"
