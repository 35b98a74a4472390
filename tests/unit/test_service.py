import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from cluster import ray_compat
from cluster import service as service_module
from cluster.controller import Standing
from cluster.errors import StartError
from cluster.face_server import FaceServer
from cluster.gateway.gateway import Ports
from cluster.gateway.listen import CannotListenError
from cluster.measurements import Measurements, families
from cluster.placement import Layout, Scale
from cluster.runtime_watch import RuntimeWatch
from cluster.service import MillraceService, load_runtime_file, serve
from tenants.control.caller import Caller
from tenants.control.problem import ProblemError
from tenants.identity import TenantId
from tenants.identity.token_table import TokenTable
from tenants.settings import RuntimeFile, RuntimeOverrides, ServiceConfig
from tenants.settings.in_force import OverridesChange, OverridesInForce, applied
from tenants.store.audit import AuditStore
from tenants.store.database import Database
from tests.unit.actor_handle import ActorHandle
from tests.unit.conditions import until
from tests.unit.disk import PATH, Disk
from tests.unit.tenant_work import config

TEXT = """
listen: {http: "127.0.0.1:0"}
cluster: {drain_timeout: 1s}
overrides: {per_tenant_override_period: 100ms}
"""


class Controller:
    """The controller, as far as the service sees it."""

    def __init__(self) -> None:
        self.overrides = OverridesInForce()
        self.starts: list[tuple[ServiceConfig, OverridesInForce]] = []
        self.drains: list[float] = []
        self.scale = Scale(0, 0)
        self.start_error: Exception | None = None
        self.rescale_error: Exception | None = None
        self.drain_answer: bool | Exception = True
        self.is_away = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def _answer(self) -> None:
        await self.answers.wait()
        if self.is_away:
            raise ConnectionError("the actor is restarting")

    @property
    def version(self) -> int:
        return self.overrides.version

    async def start(
        self,
        settings: ServiceConfig,
        overrides: OverridesInForce,
        _tokens_version: int,
        _tokens: TokenTable,
        scale: Scale,
    ) -> dict[str, Ports]:
        await self._answer()
        self.starts.append((settings, overrides))
        if self.start_error:
            raise self.start_error
        self.overrides, self.scale = overrides, scale
        return {"gateway-0": Ports(4317, 4318)}

    async def put_overrides(self, change: OverridesChange) -> bool:
        await self._answer()
        latter = applied(self.overrides, change)
        self.overrides = latter or self.overrides
        return latter is not None

    async def put_tokens(self, _version: int, _tokens: TokenTable) -> None:
        await self._answer()

    async def standing(self) -> Standing:
        return Standing((self.version, True), await self.layout(), {})

    async def rescale(self, scale: Scale) -> None:
        await self._answer()
        if self.rescale_error:
            raise self.rescale_error
        self.scale = scale

    async def layout(self) -> Layout:
        await self._answer()
        names = tuple(f"shard-host-{index}" for index in range(self.scale.shard_hosts))
        return Layout(self.scale.version, names, (), True)

    async def is_ready(self) -> bool:
        await self._answer()
        return self.version > 0

    async def measure(self) -> dict[str, Measurements]:
        await self._answer()
        return {"gateway-0": [("millrace_actor_up", (), 1.0)]}

    async def tenants(self) -> dict[TenantId, Any]:
        await self._answer()
        return {TenantId("acme"): "figures"}

    async def drain(self, deadline_s: float) -> bool:
        await self._answer()
        self.drains.append(deadline_s)
        if isinstance(self.drain_answer, Exception):
            raise self.drain_answer
        # Nothing is drained by a controller that was not started in this life.
        return self.drain_answer and self.version > 0


class Ray:
    """The controller's handle, and what became of it."""

    def __init__(self, store_url: str) -> None:
        self.store_url = store_url
        self.handle = ActorHandle(Controller())
        self.killed = 0
        self.journal: list[str] = []

    @property
    def controller(self) -> Controller:
        controller: Controller = self.handle.actor
        return controller

    def restart_controller(self) -> Controller:
        self.handle.actor = Controller()
        return self.controller


class Face:
    """The service's own port, without a port."""

    def __init__(self, _app: Any, listen: str, _tls: Any = None) -> None:
        assert listen == "127.0.0.1:0"

    async def start(self) -> int:
        return 8080

    async def stop(self) -> None:
        pass


@pytest.fixture
async def ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ray:
    made = Ray(f"sqlite:///{tmp_path}/millrace.db")

    def kill(_handle: ActorHandle) -> None:
        made.killed += 1

    monkeypatch.setattr(ray_compat, "create_actor", lambda *_, **__: made.handle)
    monkeypatch.setattr(ray_compat, "kill", kill)
    monkeypatch.setattr(service_module, "_controller_class", lambda: Controller)
    monkeypatch.setattr(service_module, "FaceServer", Face)
    monkeypatch.setattr(service_module, "_WATCH_INTERVAL_S", 0.01)
    monkeypatch.setattr(service_module, "_ANSWER_TIMEOUT_S", 0.2)
    return made


def service(ray: Ray, runtime: RuntimeWatch | None = None, text: str = TEXT) -> MillraceService:
    return MillraceService(config(text), runtime or RuntimeWatch(None), Database.open(ray.store_url))


class Running:
    """A service that runs until it is told to stop by a signal."""

    def __init__(self, ray: Ray, runtime: RuntimeWatch | None = None) -> None:
        self.service = service(ray, runtime)
        self.exit = asyncio.ensure_future(self.service.run())

    async def until_ready(self) -> None:
        async with asyncio.timeout(20):
            while not await self.service.is_ready():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        signal.raise_signal(number)
        async with asyncio.timeout(20):
            return await self.exit


def silently() -> Any:
    return structlog.testing.capture_logs()


# The way from start to end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_drains_and_ends_with_0(ray: Ray, number: signal.Signals) -> None:
    running = Running(ray)
    assert running.service.status()["state"] == "starting"
    assert not await running.service.is_ready()
    with silently() as logs:
        await running.until_ready()
        status = running.service.status()
        assert (status["state"], status["gateways"]) == (
            "running",
            {"gateway-0": {"otlp_grpc": 4317, "otlp_http": 4318}},
        )
        assert await running.stop(number) == 0
    assert (running.service.status()["state"], await running.service.is_ready()) == ("draining", False)
    assert (ray.controller.drains, ray.killed) == ([1.0], 1)
    ready = next(line for line in logs if line["event"] == "service is ready")
    assert ready["otlp_grpc"] == "127.0.0.1:4317"
    assert ready["http"] == "127.0.0.1:8080"


async def test_something_left_unsent_ends_with_1(ray: Ray) -> None:
    running = Running(ray)
    with silently() as logs:
        await running.until_ready()
        ray.controller.drain_answer = False
        assert await running.stop() == 1
    assert logs[-1]["event"] == "not everything that was accepted could be sent"
    assert ray.killed == 1


async def test_controller_that_dies_while_draining_ends_with_1(ray: Ray) -> None:
    running = Running(ray)
    with silently() as logs:
        await running.until_ready()
        ray.controller.drain_answer = ConnectionError("died")
        assert await running.stop() == 1
    assert "service could not be drained" in [line["event"] for line in logs]
    assert ray.killed == 1


async def test_controller_that_hangs_cannot_hold_up_the_end(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "_DRAIN_GRACE_S", -0.7)
    running = Running(ray)
    with silently():
        await running.until_ready()
        ray.controller.answers.clear()
        assert await running.stop() == 1
    assert ray.killed == 1
    ray.controller.answers.set()


async def test_signal_while_starting_is_obeyed(ray: Ray) -> None:
    ray.controller.answers.clear()
    running = Running(ray)
    with silently():
        await until(lambda: ray.handle.arguments)
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: running.service.status()["state"] == "draining")
        ray.controller.answers.set()
        async with asyncio.timeout(20):
            await running.exit
    assert ray.killed == 1


class RayError(Exception):
    """How Ray hands over what was raised in an actor."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


@pytest.mark.parametrize(
    "error",
    [
        CannotListenError("127.0.0.1:4317", "in use"),
        RayError(CannotListenError("127.0.0.1:4317", "in use")),
        RayError(StartError("cannot listen on 127.0.0.1:4317: in use")),
    ],
)
async def test_what_is_in_the_way_of_a_start_is_said_in_one_sentence(ray: Ray, error: Exception) -> None:
    ray.controller.start_error = error
    with pytest.raises(StartError) as caught:
        await service(ray).run()
    assert str(caught.value) == "cannot listen on 127.0.0.1:4317: in use"


async def test_bug_in_the_start_is_not_hidden(ray: Ray) -> None:
    ray.controller.start_error = RayError(ValueError("bug"))
    with pytest.raises(RayError):
        await service(ray).run()


async def test_port_of_the_service_that_is_taken_is_said(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "FaceServer", FaceServer)
    with socket.create_server(("127.0.0.1", 0)) as other:
        text = TEXT.replace("127.0.0.1:0", f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(StartError, match="cannot listen on 127"):
            await service(ray, text=text).run()
    assert ray.controller.starts == []


# The controller


async def test_controller_that_was_restarted_is_started_again(ray: Ray) -> None:
    running = Running(ray)
    with silently() as logs:
        await running.until_ready()
        first = ray.controller.starts
        again = ray.restart_controller()
        await until(lambda: again.starts)
        assert again.starts == first
        await asyncio.sleep(0.05)
        assert len(again.starts) == 1
        assert await running.stop() == 0
    assert [line["event"] for line in logs].count("controller was restarted and is told everything again") == 1


async def test_controller_restarted_just_before_the_end_is_started_to_drain(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_WATCH_INTERVAL_S", 60)
    running = Running(ray)
    with silently():
        await running.until_ready()
        again = ray.restart_controller()
        assert await running.stop() == 0
    assert (len(again.starts), again.drains) == (1, [1.0])


async def test_questions_are_answered_while_the_controller_is_away(ray: Ray) -> None:
    running = Running(ray)
    with silently() as logs:
        await running.until_ready()
        assert await running.service.tenants() == {TenantId("acme"): "figures"}
        assert "gateway-0" in await running.service.measure()
        ray.controller.is_away = True
        assert not await running.service.is_ready()
        assert await running.service.tenants() == {}
        measured = await running.service.measure()
        assert measured["controller"] == [("millrace_actor_up", (), 0.0)]
        assert {name for name, _, _ in measured["service"]} >= {"millrace_build_info", "millrace_settings_version"}
        assert "millrace_actor_up" in {family.name for family in families(measured)}
        assert [line["event"] for line in logs].count("controller does not answer") == 1
        ray.controller.is_away = False
        await running.until_ready()
        assert await running.stop() == 0


async def test_controller_that_is_slow_does_not_hold_up_an_answer(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(ray)
    with silently():
        await running.until_ready()
        monkeypatch.setattr(service_module, "_ANSWER_TIMEOUT_S", 0.02)
        ray.controller.answers.clear()
        async with asyncio.timeout(20):
            assert not await running.service.is_ready()
        ray.controller.answers.set()
        assert await running.stop() == 0


# The runtime file


def entries(shards: int) -> str:
    return f"overrides: {{acme: {{metrics_generator: {{shards: {shards}}}}}}}"


@pytest.fixture
def disk() -> Disk:
    return Disk(entries(2))


def pushed(ray: Ray) -> list[int]:
    return [shards_of(change.runtime) for (change,) in ray.handle.sent("put_overrides")]


def shards_of(runtime: RuntimeOverrides) -> int:
    shards = runtime["acme"].metrics_generator.shards
    assert shards is not None
    return shards


async def test_overrides_in_force_go_with_the_start_and_newer_ones_follow(ray: Ray, disk: Disk) -> None:
    running = Running(ray, RuntimeWatch(RuntimeFile(PATH, disk.read)))
    with silently():
        await running.until_ready()
        (start,) = ray.controller.starts
        assert shards_of(start[1].runtime) == 2
        disk.text = entries(3)
        await until(lambda: pushed(ray) == [3])
        await until(lambda: ray.controller.version > start[1].version)
        disk.text = "overrides: []"
        await until(lambda: not running.service.status()["overrides"]["last_reload_successful"])
        disk.text = entries(4)
        await until(lambda: pushed(ray) == [3, 4])
        versions = [change.version for (change,) in ray.handle.sent("put_overrides")]
        assert versions == sorted(set(versions))
        status = running.service.status()["overrides"]
        assert (status["version"], status["entries"], status["last_reload_successful"]) == (versions[-1], 1, True)
        assert await running.stop() == 0


async def test_overrides_that_the_controller_missed_reach_it_when_it_is_back(ray: Ray, disk: Disk) -> None:
    running = Running(ray, RuntimeWatch(RuntimeFile(PATH, disk.read)))
    with silently() as logs:
        await running.until_ready()
        ray.controller.is_away = True
        disk.text = entries(7)
        await until(lambda: "runtime file could not be put in force" in [line["event"] for line in logs])
        ray.controller.is_away = False
        await until(lambda: shards_of(ray.controller.overrides.runtime) == 7)
        assert len(ray.controller.starts) == 1
        assert await running.stop() == 0


async def test_watch_on_the_file_survives_its_own_bugs(ray: Ray, disk: Disk) -> None:
    running = Running(ray, RuntimeWatch(RuntimeFile(PATH, disk.read)))
    with silently() as logs:
        await running.until_ready()
        disk.bugs.append(RuntimeError("bug"))
        await until(lambda: not disk.bugs)
        disk.text = entries(5)
        await until(lambda: pushed(ray) == [5])
        assert await running.stop() == 0
    assert "runtime file could not be put in force" in [line["event"] for line in logs]


# Another number of shard hosts


OPERATOR = Caller("token:1", "127.0.0.1")


async def test_wish_of_an_operator_outlives_the_controller_and_is_written_down(ray: Ray) -> None:
    running = Running(ray)
    with silently():
        await running.until_ready()
        assert (await running.service.cluster())["shard_hosts"]["is_done"]
        await running.service.rescale(3, OPERATOR)
        await until(lambda: ray.controller.scale.shard_hosts == 3)
        ray.restart_controller()
        await until(lambda: ray.controller.scale.shard_hosts == 3)
        await running.until_ready()
        audit = AuditStore(Database.open(ray.store_url)).listed(None, None, 10)
        assert [(entry.actor, entry.action, entry.detail) for entry in audit] == [
            ("token:1", "cluster.rescale", {"shard_hosts": 3})
        ]
        assert await running.stop() == 0


async def test_hosts_that_cannot_be_started_are_told_of_and_given_up(ray: Ray) -> None:
    running = Running(ray)
    with silently():
        await running.until_ready()
        ray.controller.rescale_error = StartError("shard-host-9 did not come up")
        await running.service.rescale(10, OPERATOR)
        await until(lambda: bool(running.service._scale.problem))
        ray.controller.rescale_error = None
        await until(lambda: ray.controller.scale == running.service._scale.scale)
        scaled = (await running.service.cluster())["shard_hosts"]
        assert (scaled["wanted"], scaled["problem"]) == (0, "shard-host-9 did not come up")
        assert await running.stop() == 0


async def test_service_that_is_not_running_is_not_rescaled(ray: Ray) -> None:
    with pytest.raises(ProblemError, match="starting or draining"):
        await service(ray).rescale(3, OPERATOR)
    scaled = await service(ray).cluster()
    assert (scaled["shard_hosts"]["running"], scaled["shard_hosts"]["is_done"]) == ([], False)


# The whole process


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[list[Any], Callable[[str], ServiceConfig]]:
    journal: list[Any] = []

    async def run(self: MillraceService) -> int:
        journal.append("run")
        return 1

    monkeypatch.setattr(service_module, "set_up_logging", lambda *_: None)
    monkeypatch.setattr(ray_compat, "start", lambda address: journal.append(("start", address)))
    monkeypatch.setattr(ray_compat, "stop", lambda: journal.append("stop"))
    monkeypatch.setattr(MillraceService, "run", run)
    return journal, lambda text: config(f"data_dir: '{tmp_path / 'data'}'\n{text}")


def test_ray_is_left_whatever_the_service_returns(
    process: tuple[list[Any], Callable[[str], ServiceConfig]], tmp_path: Path
) -> None:
    journal, made = process
    with silently():
        assert serve(made(""), None) == 1
        assert serve(made(""), "ray:6379") == 1
    assert journal == [("start", None), "run", "stop", ("start", "ray:6379"), "run", "stop"]
    assert (tmp_path / "data").is_dir()


def test_faults_are_found_before_ray_is_started(
    process: tuple[list[Any], Callable[[str], ServiceConfig]], tmp_path: Path
) -> None:
    journal, made = process
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"data_dir .* cannot be made: Not a directory"):
        serve(config(f"data_dir: '{tmp_path / 'file' / 'data'}'"), None)
    missing = made(f"overrides: {{per_tenant_override_config: '{tmp_path / 'missing.yaml'}'}}")
    with pytest.raises(StartError, match="No such file"):
        serve(missing, None)
    assert journal == []


def test_runtime_file_is_read_if_one_is_configured(tmp_path: Path) -> None:
    assert load_runtime_file(config("")).overrides == {}
    path = tmp_path / "overrides.yaml"
    path.write_text(entries(2))
    configured = load_runtime_file(config(f"overrides: {{per_tenant_override_config: '{path}'}}"))
    assert list(configured.overrides) == ["acme"]


def test_ray_is_not_imported_before_its_environment_is_prepared() -> None:
    """Ray reads its environment when it is imported: where it listens, and the token that keeps strangers out."""
    script = "import sys, cluster.service, cluster.cli; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_variables_of_the_runtime_file_are_filled_in_when_that_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "overrides.yaml"
    path.write_text("overrides: {acme: {metrics_generator: {trace_id_label_name: '${MILLRACE_TEST_LABEL}'}}}")
    monkeypatch.setenv("MILLRACE_TEST_LABEL", "tid")
    text = f"overrides: {{per_tenant_override_config: '{path}', expand_env: true}}"
    assert load_runtime_file(config(text)).overrides["acme"].metrics_generator.trace_id_label_name == "tid"
    with pytest.raises(StartError, match="trace_id_label_name"):
        load_runtime_file(config(text.replace("true", "false")))
    monkeypatch.delenv("MILLRACE_TEST_LABEL")
    with pytest.raises(StartError, match="'MILLRACE_TEST_LABEL' is not set"):
        load_runtime_file(config(text))
