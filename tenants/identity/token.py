"""API tokens: their text, and what is stored instead of it.

``mrt_<id>_<secret>``: the id names the token in lists, logs and the audit; the secret is shown once, to whoever made
the token. Only a hash of it is kept, which takes long to compute on purpose. Nothing here knows which tokens exist.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NoReturn

RandomBytes = Callable[[int], bytes]
"""Draw so many unpredictable bytes."""

_TEXT: Final = re.compile(r"mrt_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_ID_BYTES: Final = 8
_SECRET_BYTES: Final = 32

# 16 MiB and about 50 ms for each check: a stolen table is of no use, and two checks at once leave a process its memory.
_LOG2_N: Final = 14
_R: Final = 8
_P: Final = 1
_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32
_MAX_MEMORY_BYTES: Final = 32 << 20
_HASH_TEXT: Final = re.compile(
    r"\$scrypt\$ln=([1-9][0-9]?),r=([1-9][0-9]?),p=([1-4])\$([A-Za-z0-9+/]{22,86})\$([A-Za-z0-9+/]{43})"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as its owner has it. Its secret is in no ``repr`` or ``str``, and it cannot be pickled.

    Attributes:
        token_id: 16 hexadecimal digits.
        secret: 43 characters of URL-safe Base64.
    """

    token_id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What its owner sends. A secret."""
        return f"mrt_{self.token_id}_{self.secret}"

    def __reduce__(self) -> NoReturn:
        """Stay in this process."""
        raise TypeError("a token is a secret and cannot be pickled; pass on its token_id")


def new_token(random_bytes: RandomBytes = secrets.token_bytes) -> Token:
    """Make a token that nobody can guess."""
    secret = base64.urlsafe_b64encode(random_bytes(_SECRET_BYTES)).rstrip(b"=").decode()
    return Token(random_bytes(_ID_BYTES).hex(), secret)


def parse_token(text: str) -> Token | None:
    """Read a token; None if the text is none. The text is a secret either way."""
    match = _TEXT.fullmatch(text)
    return Token(match[1], match[2]) if match else None


def hash_secret(token: Token, random_bytes: RandomBytes = secrets.token_bytes) -> str:
    """Return what may be stored of a token's secret, in the PHC string format. Blocks for about 50 ms."""
    salt = random_bytes(_SALT_BYTES)
    digest = _scrypt(token, salt, _LOG2_N, _R, _P)
    return f"$scrypt$ln={_LOG2_N},r={_R},p={_P}${_encode(salt)}${_encode(digest)}"


def check_hash(secret_hash: str) -> None:
    """Check a stored hash, quickly.

    Raises:
        ValueError: :func:`verify` could not use it.
    """
    _parameters(secret_hash)


def verify(token: Token, secret_hash: str) -> bool:
    """Return whether a hash is that of the token's secret. Blocks for about 50 ms, without the GIL.

    Raises:
        ValueError: the hash is not one of :func:`hash_secret`, or would take more than 32 MiB.
    """
    log2_n, r, p, salt, digest = _parameters(secret_hash)
    return hmac.compare_digest(_scrypt(token, salt, log2_n, r, p), digest)


def _parameters(secret_hash: str) -> tuple[int, int, int, bytes, bytes]:
    match = _HASH_TEXT.fullmatch(secret_hash)
    if match is None or 128 * int(match[2]) << int(match[1]) > _MAX_MEMORY_BYTES:
        raise ValueError("is no hash of a secret that can be checked here")
    return int(match[1]), int(match[2]), int(match[3]), _decode(match[4]), _decode(match[5])


def _scrypt(token: Token, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        token.secret.encode(), salt=salt, n=1 << log2_n, r=r, p=p, maxmem=2 * _MAX_MEMORY_BYTES, dklen=_HASH_BYTES
    )


def _encode(value: bytes) -> str:
    return base64.b64encode(value).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
