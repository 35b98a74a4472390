"""What is already known about secrets that were presented: so that each is checked the slow way once.

Of a secret only a digest is kept, under a key that lives and dies with the process. No more is kept than a few words
for each token that exists: whatever strangers send, this does not grow.
"""

import hashlib
import hmac
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tenants.identity.token import RandomBytes, Token
from tenants.identity.token_table import KnownToken

_KEY_BYTES: Final = 32
_REMEMBERED_WRONG: Final = 4
_FREE_FAILURES: Final = 3
_FIRST_WAIT_MS: Final = 1_000
# Short enough that an owner gets through while somebody else is guessing.
_LONGEST_WAIT_MS: Final = 8_000


@dataclass(slots=True)
class _Verdict:
    """Of one token: its secret's digest once that is known, and wrong ones tried before."""

    secret_hash: str
    right: bytes | None = None
    wrong: deque[bytes] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_WRONG))
    failures: int = 0
    not_before_ms: int = 0


class Verdicts:
    """Verdicts about secrets, by token. One event loop owns it.

    A verdict is about one stored hash: with another hash under the same id everything is open again.
    """

    def __init__(self, random_bytes: RandomBytes) -> None:
        self._key = random_bytes(_KEY_BYTES)
        self._verdicts: dict[str, _Verdict] = {}

    def __len__(self) -> int:
        return len(self._verdicts)

    def digest(self, token: Token) -> bytes:
        """Return what is kept of a presented token."""
        return hashlib.blake2b(token.secret.encode(), key=self._key, digest_size=32).digest()

    def of(self, known: KnownToken, digest: bytes) -> bool | None:
        """Return whether the secret is the token's; None: it has to be checked.

        Once the right one is known, every other is wrong: guessing costs no work then.
        """
        verdict = self._of(known)
        if verdict is None:
            return None
        if verdict.right is not None:
            return hmac.compare_digest(verdict.right, digest)
        return False if any(hmac.compare_digest(wrong, digest) for wrong in verdict.wrong) else None

    def wait_ms(self, known: KnownToken, now_ms: int) -> int:
        """Return how long no further secret of this token is to be checked, after several wrong ones; 0: it may be."""
        verdict = self._of(known)
        return max(0, verdict.not_before_ms - now_ms) if verdict else 0

    def note(self, known: KnownToken, digest: bytes, *, is_right: bool, now_ms: int) -> None:
        """Remember what a check found. The wait doubles with every wrong secret from the third on, up to 8 s."""
        verdict = self._of(known)
        if verdict is None:
            verdict = self._verdicts[known.token_id] = _Verdict(known.secret_hash)
        if is_right:
            verdict.right = digest
            verdict.wrong.clear()
            return
        verdict.wrong.append(digest)
        verdict.failures += 1
        if (excess := verdict.failures - _FREE_FAILURES) >= 0:
            wait_ms = min(_LONGEST_WAIT_MS, _FIRST_WAIT_MS << min(excess, 16))
            verdict.not_before_ms = now_ms + wait_ms

    def keep(self, token_ids: Iterable[str]) -> None:
        """Forget all other tokens."""
        kept = set(token_ids)
        self._verdicts = {name: verdict for name, verdict in self._verdicts.items() if name in kept}

    def _of(self, known: KnownToken) -> _Verdict | None:
        verdict = self._verdicts.get(known.token_id)
        return verdict if verdict is not None and verdict.secret_hash == known.secret_hash else None
