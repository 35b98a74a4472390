"""Whether a presented token is good, and whose it is. Knows no protocol and no tenant but the token's."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from tenants.identity.denied import DenialReason, Denied
from tenants.identity.token import RandomBytes, Token, verify
from tenants.identity.token_table import KnownToken, TokenTable
from tenants.identity.verdicts import Verdicts

# A check takes a core for 50 ms, and spans have to be received meanwhile.
_CHECKS_AT_ONCE: Final = 2
# What waits is answered within about two seconds, before clients give up.
_MOST_CHECKS: Final = 64
_RETRY_AFTER_S: Final = 1.0
_LOOK_INTERVAL_MS: Final = 1_000
_LOOK_S: Final = 2.0

_BAD_TOKEN: Final = "the token is not valid: it is unknown, has expired or was revoked; ask for a new one"  # noqa: S105


@dataclass(frozen=True, slots=True)
class _Check:
    """A secret that is being checked."""

    digest: bytes
    known: KnownToken
    outcome: "asyncio.Future[bool]"


class Authenticator:
    """Checks tokens against the table that was put last.

    A secret is checked the slow way, in a thread, the first time it is presented to this process; after that a keyed
    digest is compared. Revocation and expiry count at once, whatever is remembered. One event loop owns it.
    Remembers nothing beyond the process.

    Args:
        clock_ms: Unix time in milliseconds.
        check: compares a token with a stored hash; blocks.
        random_bytes: draws the key of the digests.
        most_checks: secrets that wait for their check or are in it; further ones are told to try again.
        look: puts the tokens in force that another process has just made, and raises nothing; None: they come by
            themselves.
    """

    def __init__(
        self,
        clock_ms: Callable[[], int],
        check: Callable[[Token, str], bool] = verify,
        random_bytes: RandomBytes = secrets.token_bytes,
        most_checks: int = _MOST_CHECKS,
        look: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._clock_ms = clock_ms
        self._check_secret = check
        self._most_checks = most_checks
        self._version: int | None = None
        self._table = TokenTable()
        self._verdicts = Verdicts(random_bytes)
        self._checks: dict[str, _Check] = {}
        self._look = look
        self._looked_ms = 0
        self._looking: asyncio.Future[None] | None = None
        self._threads = ThreadPoolExecutor(_CHECKS_AT_ONCE, thread_name_prefix="token-check")

    def put_tokens(self, version: int, table: TokenTable) -> None:
        """Put a table in force, unless a newer one is. Can be repeated."""
        if self._version is not None and version <= self._version:
            return
        self._version, self._table = version, table
        self._verdicts.keep(table.tokens)

    async def authenticate(self, token: Token) -> KnownToken | Denied:
        """Return whose token it is. Suspends only while it is looked for, or its secret is checked the first time."""
        if self._look is not None and token.token_id not in self._table.tokens:
            await self._look_for_new(self._look)
        digest = self._verdicts.digest(token)
        found = self._judge(token, digest)
        if found is None:
            if refused := await self._check(self._table.tokens[token.token_id], token, digest):
                return refused
            # The table may have changed meanwhile.
            found = self._judge(token, digest)
        return found or _later(DenialReason.OVERLOADED, _RETRY_AFTER_S)

    def close(self) -> None:
        """Let go of the threads; nothing may be asked any more."""
        if self._looking is not None:
            self._looking.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look_for_new(self, look: Callable[[], Awaitable[None]]) -> None:
        """Wait until new tokens are looked for; once a second, so that whoever guesses does not keep the store busy."""
        now_ms = self._clock_ms()
        is_due = now_ms - self._looked_ms >= _LOOK_INTERVAL_MS
        if self._looking is None or (self._looking.done() and is_due):
            self._looking, self._looked_ms = asyncio.ensure_future(look()), now_ms
        await asyncio.wait([self._looking], timeout=_LOOK_S)

    def _judge(self, token: Token, digest: bytes) -> KnownToken | Denied | None:
        """Say what can be said without checking the secret; None: it has to be checked."""
        if self._version is None:
            return _later(DenialReason.NO_TABLE, _RETRY_AFTER_S)
        known = self._table.tokens.get(token.token_id)
        if known is None:
            return Denied(DenialReason.UNKNOWN, _BAD_TOKEN)
        if known.revoked_ms is not None:
            return Denied(DenialReason.REVOKED, _BAD_TOKEN)
        if known.expires_ms is not None and known.expires_ms <= self._clock_ms():
            return Denied(DenialReason.EXPIRED, _BAD_TOKEN)
        is_right = self._verdicts.of(known, digest)
        if is_right is None:
            return None
        return known if is_right else Denied(DenialReason.WRONG_SECRET, _BAD_TOKEN)

    async def _check(self, known: KnownToken, token: Token, digest: bytes) -> Denied | None:
        """Have the secret checked; what comes of it is among the verdicts then."""
        if wait_ms := self._verdicts.wait_ms(known, self._clock_ms()):
            return _later(DenialReason.SLOWED, wait_ms / 1000)
        check = self._checks.get(token.token_id)
        if check is None:
            if len(self._checks) >= self._most_checks:
                return _later(DenialReason.OVERLOADED, _RETRY_AFTER_S)
            check = self._start(known, token, digest)
        elif check.digest != digest:
            # One secret of a token at a time: whoever guesses takes up one place, however many connections they have.
            return _later(DenialReason.SLOWED, _RETRY_AFTER_S)
        # All requests that bring this token wait for one check, which goes on when one of them goes away.
        await asyncio.shield(check.outcome)
        return None

    def _start(self, known: KnownToken, token: Token, digest: bytes) -> _Check:
        loop = asyncio.get_running_loop()
        outcome = loop.run_in_executor(self._threads, self._check_secret, token, known.secret_hash)
        check = self._checks[known.token_id] = _Check(digest, known, outcome)
        outcome.add_done_callback(lambda _: self._end(check))
        return check

    def _end(self, check: _Check) -> None:
        del self._checks[check.known.token_id]
        if check.outcome.cancelled() or check.outcome.exception():
            return
        if check.known.token_id in self._table.tokens:
            self._verdicts.note(check.known, check.digest, is_right=check.outcome.result(), now_ms=self._clock_ms())


def _later(reason: DenialReason, retry_after_s: float) -> Denied:
    return Denied(reason, "the token cannot be checked now; send the request again", retry_after_s)
