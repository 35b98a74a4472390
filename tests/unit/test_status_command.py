"""``millrace status`` against the service's own port."""

import json
from pathlib import Path

import pytest

from tenants.endpoint import EndpointState
from tests.unit.served_service import Face, ServedService, counters


async def test_service_that_is_well_is_shown_and_ends_with_0(tmp_path: Path) -> None:
    async with ServedService(tmp_path) as service:
        service.face.has("acme", counters())
        shown = await service.run("status")
        assert shown.exit_code == 0, shown.output
        lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
        assert f"service {service.url}, running since 2026-01-01T00:00:00+00:00, ready" in lines
        assert "gateways gateway-0: OTLP/gRPC 4317, OTLP/HTTP 4318" in lines
        assert "settings version 1, runtime file good, 2 entries" in lines
        assert "tenants 1 with 7 active series" in lines
        assert "gateway-0 up 9" in lines
        assert lines[-1] == "no problems"


async def test_json_says_the_same(tmp_path: Path) -> None:
    async with ServedService(tmp_path) as service:
        found = json.loads((await service.run("status", "--json")).stdout)
        assert found["is_ready"] is True
        assert found["actors"]["gateway-0"] == {"is_up": True, "settings_version": 9}
        assert found["problems"] == []


def _not_ready(face: Face) -> None:
    face.ready = False


def _draining(face: Face) -> None:
    face.state = "draining"


def _down(face: Face) -> None:
    face.measured["shard-host-0"] = [("millrace_actor_up", (), 0.0)]


def _behind(face: Face) -> None:
    face.measured["shard-host-0"] = [("millrace_actor_up", (), 1.0), ("millrace_settings_version", (), 0.0)]


def _bad_file(face: Face) -> None:
    face.is_reloaded = False


def _paused(face: Face) -> None:
    face.has("acme", counters(state=EndpointState.PAUSED_NOT_FOUND, last_error="http_404: [red]no"))


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (_not_ready, "spans are not accepted now"),
        (_draining, "the service is draining"),
        (_down, "shard-host-0 does not answer"),
        (_behind, "shard-host-0 has version 0 of the settings, not 1"),
        (_bad_file, "the runtime file has faults"),
        (_paused, "acme: endpoint main is paused_not_found: http_404: [red]no"),
    ],
)
async def test_each_problem_is_said_and_ends_with_1(tmp_path: Path, trouble: object, said: str) -> None:
    async with ServedService(tmp_path) as service:
        assert callable(trouble)
        trouble(service.face)
        shown = await service.run("status")
        assert shown.exit_code == 1
        assert f"problem: {said}" in shown.stdout
        found = json.loads((await service.run("status", "--json")).stdout)
        assert [problem.startswith(said) for problem in found["problems"]] == [True]


async def test_many_problems_are_cut_short(tmp_path: Path) -> None:
    async with ServedService(tmp_path) as service:
        for number in range(25):
            service.face.has(f"t{number}", counters(state=EndpointState.CRASHED))
        shown = await service.run("status")
        assert shown.stdout.count("problem: ") == 20
        assert "and 5 more" in shown.stdout
