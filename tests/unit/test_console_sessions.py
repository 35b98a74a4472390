"""Sessions end when they are not used, when there are too many, and when somebody signs out."""

import pytest

from tenants.console import sessions as module
from tenants.console.sessions import IDLE_S, Sessions


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_cookie_leads_to_its_token_and_is_not_it(clock: Clock) -> None:
    sessions = Sessions(clock)
    first, second = sessions.open("secret"), sessions.open("secret")
    assert first != second
    found = sessions.find(first)
    assert found is not None
    assert found.token == "secret"
    assert "secret" not in f"{first}{found!r}"
    assert sessions.find(None) is sessions.find("") is sessions.find("other") is None
    sessions.close(first)
    assert sessions.find(first) is None
    assert sessions.find(second) is not None


def test_a_session_that_is_used_goes_on_and_another_ends(clock: Clock) -> None:
    sessions = Sessions(clock)
    used, idle = sessions.open("a"), sessions.open("b")
    for _ in range(3):
        clock.now_s += IDLE_S * 0.6
        assert sessions.find(used) is not None
    assert sessions.find(idle) is None
    assert len(sessions) == 1


def test_beyond_the_bound_the_one_that_was_not_used_for_longest_ends(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 2)
    sessions = Sessions(clock)
    first, second = sessions.open("a"), sessions.open("b")
    assert sessions.find(first) is not None
    third = sessions.open("c")
    assert sessions.find(second) is None
    assert sessions.find(first) is not None
    assert sessions.find(third) is not None
