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
"""Beyond it the session that was not used for longest ends."""

IDLE_S: Final = 12 * 3600.0
"""A session that is not used for so long has ended."""


@dataclass(slots=True, repr=False)
class Session:
    """One browser that is signed in. Has no printed form: it holds a secret.

    Attributes:
        token: that it was opened with.
        used_s: when it was last used, by the clock of the sessions.
    """

    token: str
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

    def open(self, token: str) -> str:
        """Open one with a token that was found good; returns the value of the cookie."""
        cookie = secrets.token_urlsafe(32)
        self._forget_idle()
        while len(self._open) >= MAX_SESSIONS:
            self._open.popitem(last=False)
        self._open[_key(cookie)] = Session(token, self._clock_s())
        return cookie

    def find(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie, and note that it is used; None if there is none."""
        if not cookie:
            return None
        self._forget_idle()
        key = _key(cookie)
        session = self._open.get(key)
        if session is not None:
            session.used_s = self._clock_s()
            self._open.move_to_end(key)
        return session

    def close(self, cookie: str | None) -> None:
        """End the session of a cookie, if there is one."""
        if cookie:
            self._open.pop(_key(cookie), None)

    def _forget_idle(self) -> None:
        now_s = self._clock_s()
        # In the order in which they were used.
        while self._open and now_s - next(iter(self._open.values())).used_s > IDLE_S:
            self._open.popitem(last=False)


def _key(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()
