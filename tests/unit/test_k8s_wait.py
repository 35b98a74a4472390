"""The script that holds back `millrace serve` until the Ray cluster has the slots that it fills."""

import runpy
import sys
from collections.abc import Iterator, Mapping

import pytest

from tests.unit.k8s_manifests import ROOT

SCRIPT = runpy.run_path(str(ROOT / "k8s" / "base" / "wait_for_slots.py"))
WANTED = {"gateway_slot": 2, "shard_slot": 2, "collector_slot": 1}
ALL_OF_THEM = {**WANTED, "CPU": 8.0}
ONE_OF_EACH = dict.fromkeys(WANTED, 1.0)


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        assert self.now_s < 1000, "it waits for ever"


def waited_s(offers: Iterator[Mapping[str, float]], patience_s: float = 180.0) -> float:
    time = Time()
    SCRIPT["wait"](lambda: next(offers), WANTED, patience_s, lambda: time.now_s, time.sleep)
    return time.now_s


def after(looks: int, then: Mapping[str, float], before: Mapping[str, float]) -> Iterator[Mapping[str, float]]:
    for _ in range(looks):
        yield before
    while True:
        yield then


def test_nothing_is_waited_for_when_all_slots_are_there() -> None:
    assert waited_s(after(0, ALL_OF_THEM, {})) == 0


@pytest.mark.parametrize("before", [{}, ONE_OF_EACH, {**WANTED, "collector_slot": 0}])
def test_missing_slots_are_waited_for(before: dict[str, float], capsys: pytest.CaptureFixture[str]) -> None:
    assert waited_s(after(3, ALL_OF_THEM, before)) == 3 * SCRIPT["LOOK_EVERY_S"]
    # Said once, not at every look.
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_node_that_does_not_come_is_not_waited_for_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    assert waited_s(after(0, ONE_OF_EACH, {}), patience_s=60) == 60
    assert "starting without gateway_slot: 1 of 2, shard_slot: 1 of 2" in capsys.readouterr().out


def test_without_one_slot_of_a_kind_nothing_starts() -> None:
    lacking = {"gateway_slot": 2.0, "shard_slot": 2.0}
    assert waited_s(after(200, ONE_OF_EACH, lacking), patience_s=60) == 200 * SCRIPT["LOOK_EVERY_S"]


def test_slots_are_read_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []

    class Ray:
        cluster_resources = staticmethod(lambda: ALL_OF_THEM)
        shutdown = staticmethod(lambda: called.append("shutdown"))

        @staticmethod
        def init(**options: object) -> None:
            called.append(options["address"])

    monkeypatch.setitem(sys.modules, "ray", Ray)
    SCRIPT["main"](["head:6379", "180", "gateway_slot=2", "shard_slot=2", "collector_slot=1"])
    assert called == ["head:6379", "shutdown"]
