from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.endpoint.collection import CollectionSchedule

NOW_MS = 1_800_000_000_000


def dues(schedule: CollectionSchedule, count: int) -> list[int]:
    """Collect punctually ``count`` times; return when."""
    found = []
    now_ms = NOW_MS
    for _ in range(count):
        now_ms = schedule.due_ms(now_ms)
        schedule.begin(now_ms)
        found.append(now_ms)
    return found


def test_collections_are_one_interval_apart() -> None:
    times = dues(CollectionSchedule("acme", 15, NOW_MS), 5)
    assert NOW_MS < times[0] <= NOW_MS + 15_000
    assert [later - earlier for earlier, later in pairwise(times)] == [15_000] * 4


def test_phase_survives_a_restart_at_any_moment() -> None:
    phases = {
        CollectionSchedule("acme", 15, now_ms).due_ms(now_ms) % 15_000
        for now_ms in range(NOW_MS, NOW_MS + 40_000, 1_234)
    }
    assert len(phases) == 1


def test_phase_is_the_same_in_every_process_and_version() -> None:
    # A golden value: a change of the hash would shift every tenant's rhythm at an update.
    assert CollectionSchedule("acme", 15, NOW_MS).due_ms(NOW_MS) % 15_000 == 2_821


def test_tenants_are_spread_over_the_interval() -> None:
    slots = [0] * 15
    for number in range(3_000):
        due_ms = CollectionSchedule(f"tenant-{number}", 15, NOW_MS).due_ms(NOW_MS)
        slots[due_ms % 15_000 // 1_000] += 1
    assert min(slots) > 140  # 200 expected, standard deviation 14
    assert max(slots) < 260


def test_late_collection_does_not_shift_the_rhythm_and_missed_ones_are_not_made_up_for() -> None:
    schedule = CollectionSchedule("acme", 15, NOW_MS)
    first = schedule.due_ms(NOW_MS)
    schedule.begin(first + 7_000)
    assert schedule.due_ms(first + 7_000) == first + 15_000
    schedule.begin(first + 100_000)
    assert schedule.due_ms(first + 100_000) == first + 105_000


@pytest.mark.parametrize(("before_s", "after_s"), [(15, 60), (60, 15), (15, 7.5)])
def test_new_interval_begins_when_the_running_one_is_over(before_s: float, after_s: float) -> None:
    schedule = CollectionSchedule("acme", before_s, NOW_MS)
    due_ms = schedule.due_ms(NOW_MS)
    schedule.set_interval(after_s)
    assert schedule.interval_s == after_s
    for now_ms in (NOW_MS, NOW_MS + 1, due_ms - 1, due_ms, due_ms + 1):
        assert schedule.due_ms(now_ms) == due_ms
    schedule.begin(due_ms)
    next_ms = schedule.due_ms(due_ms)
    assert due_ms < next_ms <= due_ms + after_s * 1000
    schedule.begin(next_ms)
    assert schedule.due_ms(next_ms) == next_ms + after_s * 1000


def test_clock_set_back_delays_the_next_collection_by_one_interval_at_most() -> None:
    schedule = CollectionSchedule("acme", 15, NOW_MS)
    due_ms = schedule.due_ms(NOW_MS)
    schedule.begin(due_ms)
    back_ms = due_ms - 3_600_000
    next_ms = schedule.due_ms(back_ms)
    assert back_ms < next_ms <= back_ms + 15_000
    assert schedule.due_ms(next_ms) == next_ms  # and it does come due


@given(st.lists(st.integers(0, 10_000), min_size=2), st.integers(0, 10_000))
def test_timestamps_increase_whatever_the_clock_does(clock_ms: list[int], last_ms: int) -> None:
    schedule = CollectionSchedule("acme", 0.5, 0, last_timestamp_ms=last_ms)
    given_out = [last_ms]
    for position, now_ms in enumerate(clock_ms):
        given_out.append(schedule.begin(now_ms) if position % 2 else schedule.next_timestamp_ms(now_ms))
        assert given_out[-1] >= now_ms
        # The zero sample of a new series lies 1 ms after the one and strictly before the other.
        assert given_out[-2] + 1 < given_out[-1]


def test_timestamp_is_now_when_nothing_speaks_against_it() -> None:
    schedule = CollectionSchedule("acme", 15, NOW_MS)
    assert schedule.begin(NOW_MS + 5) == NOW_MS + 5


@pytest.mark.parametrize("interval_s", [0, -1, 0.0001])
def test_interval_without_length_is_refused(interval_s: float) -> None:
    with pytest.raises(ValueError, match="collection interval"):
        CollectionSchedule("acme", interval_s, NOW_MS)
