"""Rates of what was really sent, an hour of it, and a bound on for whom."""

import pytest

from tenants.control import timeline as module
from tenants.control.figures import TenantFigures
from tenants.control.timeline import MAX_POINTS, Timeline


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


def _figures(spans: int, active_series: int = 0) -> TenantFigures:
    return TenantFigures(spans=spans, bytes=10 * spans, active_series=active_series)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timeline(clock: Clock) -> Timeline:
    return Timeline(clock)


def test_a_rate_is_what_came_between_two_readings(timeline: Timeline, clock: Clock) -> None:
    timeline.add({"gateway0": {"acme": _figures(1000)}, "collector0": {"acme": _figures(0, 7)}})
    assert timeline.rate("acme") is None
    clock.now_ms += 10_000
    timeline.add({"gateway0": {"acme": _figures(1500)}, "collector0": {"acme": _figures(0, 9)}})
    rate = timeline.rate("acme")
    assert rate is not None
    assert (rate.spans, rate.bytes, rate.active_series) == (50.0, 500.0, 9)
    assert timeline.rate("globex") is None


def test_a_restarted_process_gives_no_rate_below_or_above_the_truth(timeline: Timeline, clock: Clock) -> None:
    for counted in ({"gateway0": 1000}, {"gateway0": 200}, {"gateway0": 300, "gateway1": 99_000}):
        timeline.add({process: {"acme": _figures(spans)} for process, spans in counted.items()})
        clock.now_ms += 10_000
    assert [point.spans for point in timeline.points("acme")] == [20.0, 10.0]


def test_readings_in_quick_succession_do_not_shorten_the_hour(timeline: Timeline, clock: Clock) -> None:
    for turn in range(2 * MAX_POINTS):
        timeline.add({"gateway0": {"acme": _figures(turn * 100)}})
        clock.now_ms += 5_050
    first, *_, last = timeline.points("acme")
    assert last.at_ms - first.at_ms > 59 * 60_000


def test_points_are_bounded_and_the_silent_are_forgotten(timeline: Timeline, clock: Clock) -> None:
    for turn in range(MAX_POINTS + 5):
        timeline.add({"gateway0": {"acme": _figures(100), "globex": _figures(turn)}})
        clock.now_ms += 10_000
    assert len(timeline.points("globex")) == MAX_POINTS
    timeline.add({"gateway0": {"acme": _figures(101), "globex": _figures(turn)}})
    clock.now_ms += 10_000
    assert len(timeline) == 2
    for _ in range(MAX_POINTS):
        timeline.add({"gateway0": {"acme": _figures(101), "globex": _figures(turn)}})
        clock.now_ms += 10_000
    assert len(timeline) == 0


def test_tenants_beyond_the_bound_are_left_out_and_counted(
    timeline: Timeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_TENANTS", 2)
    for spans in (0, 10):
        timeline.add({"gateway0": {name: _figures(spans) for name in ("a", "b", "c", "__other__")}})
        clock.now_ms += 10_000
    assert (len(timeline), timeline.left_out) == (2, 1)
    assert timeline.rate("c") is None
