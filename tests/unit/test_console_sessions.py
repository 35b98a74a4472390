"""Sessions end when they are not used, when there are too many, and when somebody signs out."""

import pytest

from tenants.console import sessions as module
from tenants.console.sessions import IDLE_S, MAX_SESSIONS_OF_OWNER, MAX_SESSIONS_OF_TOKEN, Sessions


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def is_open(sessions: Sessions, cookie: str) -> bool:
    return sessions.key(cookie) is not None


def use(sessions: Sessions, cookie: str) -> str | None:
    key = sessions.key(cookie)
    return None if key is None else sessions.token(key, is_use=True)


def test_a_cookie_leads_to_its_token_and_is_not_it(clock: Clock) -> None:
    sessions = Sessions(clock)
    first, second = sessions.open("secret", "acme"), sessions.open("secret", "acme")
    assert first != second
    key = sessions.key(first)
    assert key is not None
    assert sessions.token(key, is_use=False) == "secret"
    assert "secret" not in f"{first}{key!r}{sessions.__dict__}"
    assert sessions.key(None) is sessions.key("") is sessions.key("other") is None
    sessions.close(first)
    assert sessions.token(key, is_use=True) is None
    assert is_open(sessions, second)


def test_a_session_that_is_used_goes_on_and_another_ends(clock: Clock) -> None:
    sessions = Sessions(clock)
    used, looked_at, idle = (sessions.open("token", "acme") for _ in range(3))
    for _ in range(3):
        clock.now_s += IDLE_S * 0.6
        assert use(sessions, used) == "token"
        # To look at one is no use of it.
        key = sessions.key(looked_at)
        assert key is None or sessions.token(key, is_use=False) == "token"
    assert not is_open(sessions, looked_at)
    assert not is_open(sessions, idle)
    assert len(sessions) == 1


def test_beyond_the_bound_the_one_that_was_not_used_for_longest_ends(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 2)
    sessions = Sessions(clock)
    first, second = sessions.open("a", "acme"), sessions.open("b", "globex")
    assert use(sessions, first) == "a"
    third = sessions.open("c", "initech")
    assert [is_open(sessions, each) for each in (first, second, third)] == [True, False, True]


def test_a_token_and_a_tenant_sign_out_none_but_their_own(clock: Clock) -> None:
    sessions = Sessions(clock)
    globex, colleague = sessions.open("theirs", "globex"), sessions.open("ours", "acme")
    of_token = [sessions.open("mine", "acme") for _ in range(MAX_SESSIONS_OF_TOKEN + 5)]
    assert [is_open(sessions, each) for each in of_token] == [False] * 5 + [True] * MAX_SESSIONS_OF_TOKEN
    assert is_open(sessions, colleague)
    # Tokens can be made and revoked without end.
    for number in range(MAX_SESSIONS_OF_OWNER):
        sessions.open(f"token {number}", "acme")
    assert not is_open(sessions, colleague)
    assert is_open(sessions, globex)
    assert len(sessions) == MAX_SESSIONS_OF_OWNER + 1
