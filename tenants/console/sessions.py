"""Who is signed in: a cookie's value to the token that was shown once. In memory: a restart signs everybody out.

The token stays here and is sent with every question to the API, so that one that is revoked or ends is of no use in
the console either. The cookie is random, and means nothing anywhere else.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_SESSIONS: Final = 10_000
"""Beyond each of these bounds the session that was not used for longest ends, of those that the bound counts."""

MAX_SESSIONS_OF_TOKEN: Final = 20

MAX_SESSIONS_OF_OWNER: Final = 200
"""Tokens alone would not do: a tenant makes and revokes as many as it likes."""

IDLE_S: Final = 12 * 3600.0
"""A session that is not used for so long has ended."""


@dataclass(slots=True, repr=False)
class Session:
    """One browser that is signed in. Has no printed form: it holds a secret.

    Attributes:
        token: that it was opened with.
        owner: whose it is.
        used_s: when it was last used, by the clock of the sessions.
    """

    token: str
    owner: str
    used_s: float


class Sessions:
    """The open sessions. One event loop owns them."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        # By the hash of the cookie: who can read this memory's dump of keys cannot use them.
        self._open: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._open)

    def open(self, token: str, owner: str) -> str:
        """Open one with a token that was found good, for the tenant that it is of; returns the value of the cookie."""
        cookie = secrets.token_urlsafe(32)
        self._forget_idle()
        self._make_room(MAX_SESSIONS_OF_TOKEN, lambda session: session.token == token)
        self._make_room(MAX_SESSIONS_OF_OWNER, lambda session: session.owner == owner)
        self._make_room(MAX_SESSIONS, lambda _: True)
        self._open[_key(cookie)] = Session(token, owner, self._clock_s())
        return cookie

    def key(self, cookie: str | None) -> bytes | None:
        """Return what names the session of a cookie here; None if there is none. This is no use of it."""
        if not cookie:
            return None
        key = _key(cookie)
        return None if self.token(key, is_use=False) is None else key

    def token(self, key: bytes, *, is_use: bool) -> str | None:
        """Return the token of a session; None if it has ended.

        Args:
            key: of the session.
            is_use: whether it is used now, and so goes on.
        """
        self._forget_idle()
        session = self._open.get(key)
        if session is None:
            return None
        if is_use:
            session.used_s = self._clock_s()
            self._open.move_to_end(key)
        return session.token

    def close(self, cookie: str | None) -> None:
        """End the session of a cookie, if there is one."""
        if cookie:
            self._open.pop(_key(cookie), None)

    def _make_room(self, bound: int, is_counted: Callable[[Session], bool]) -> None:
        counted = [key for key, session in self._open.items() if is_counted(session)]
        for key in counted[: max(0, len(counted) + 1 - bound)]:
            del self._open[key]

    def _forget_idle(self) -> None:
        now_s = self._clock_s()
        # In the order in which they were used.
        while self._open and now_s - next(iter(self._open.values())).used_s > IDLE_S:
            self._open.popitem(last=False)


def _key(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()
