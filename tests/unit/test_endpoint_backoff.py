import random

import pytest

from tenants.endpoint.backoff import MAX_RETRY_AFTER_S, Backoff, parse_retry_after
from tests.unit.fake_clock import START_MS  # 2027-01-15T08:00:00Z


class ExtremeRandom(random.Random):
    """Always the same end of the range."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self._end = end

    def uniform(self, a: float, b: float) -> float:
        return a if self._end == "low" else b


def test_pauses_double_from_the_shortest_to_the_longest_within_ten_percent() -> None:
    for end, factor in (("low", 0.9), ("high", 1.1)):
        backoff = Backoff(0.03, 5.0, ExtremeRandom(end))
        pauses = [backoff.next_pause_s(None) / factor for _ in range(11)]
        assert pauses == pytest.approx([0.03, 0.06, 0.12, 0.24, 0.48, 0.96, 1.92, 3.84, 5, 5, 5])


def test_success_begins_anew() -> None:
    backoff = Backoff(0.03, 5.0, ExtremeRandom("high"))
    for _ in range(5):
        backoff.next_pause_s(None)
    backoff.reset()
    assert backoff.next_pause_s(None) == pytest.approx(0.033)


@pytest.mark.parametrize("end", ["low", "high"])
def test_receivers_wish_is_never_undercut_and_later_pauses_go_on_from_it(end: str) -> None:
    backoff = Backoff(0.03, 5.0, ExtremeRandom(end))
    assert backoff.next_pause_s(2.0) == pytest.approx(2.2)
    assert backoff.next_pause_s(None) == pytest.approx(4.0 * (0.9 if end == "low" else 1.1))
    assert 60 <= backoff.next_pause_s(60.0) <= 66.0001
    assert backoff.next_pause_s(None) <= 5.5


def test_receivers_wish_for_less_does_not_shorten_the_pause() -> None:
    backoff = Backoff(1.0, 5.0, ExtremeRandom("low"))
    assert backoff.next_pause_s(0.0) == pytest.approx(0.9)


def test_new_bounds_hold_from_the_next_pause_on() -> None:
    backoff = Backoff(0.03, 5.0, ExtremeRandom("high"))
    for _ in range(12):
        backoff.next_pause_s(None)
    backoff.set_bounds(0.1, 2.0)
    assert backoff.next_pause_s(None) == pytest.approx(2.2)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("86400", MAX_RETRY_AFTER_S),
        ("9" * 5000, MAX_RETRY_AFTER_S),
        ("Fri, 15 Jan 2027 08:00:42 GMT", 42.0),
        ("Friday, 15-Jan-27 08:00:42 GMT", 42.0),
        ("Fri Jan 15 08:00:42 2027", 42.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_S),
        ("Fri, 31 Dec 0001 23:59:59 +2359", 0.0),
        ("Fri, 31 Feb 2027 08:00:42 GMT", None),
        ("Fri, 15 Jan 99999999999999999999 08:00:42 GMT", None),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("²", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, START_MS) == seconds
