"""What the header ``Authorization`` holds: a token, as ``Bearer`` or as the password of ``Basic``.

Reads it and forgets it; whether the token is any good is the authenticator's to say.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from tenants.identity.token import Token, parse_token

AUTHORIZATION_HEADER: Final = "authorization"
"""HTTP header and gRPC metadata key, in lower case."""

_MAX_CHARACTERS: Final = 1024


class NoCredentials(Enum):
    """Why there is no token."""

    MISSING = auto()
    MALFORMED = auto()


@dataclass(frozen=True, slots=True)
class Credentials:
    """What was presented; not yet checked.

    Attributes:
        token: the token.
        user: the user name of ``Basic``: a tenant, as hosted services have it; empty: none was named.
    """

    token: Token
    user: str = ""


def parse_credentials(values: Sequence[str]) -> Credentials | NoCredentials:
    """Read all values of the header, of which there may be one. The scheme's case does not matter (RFC 9110 §11.1)."""
    if not values or (len(values) == 1 and not values[0].strip()):
        return NoCredentials.MISSING
    if len(values) > 1 or len(values[0]) > _MAX_CHARACTERS:
        return NoCredentials.MALFORMED
    scheme, _, rest = values[0].strip(" ").partition(" ")
    user, text = "", rest.lstrip(" ")
    if scheme.lower() == "basic":
        pair = _decode(text)
        if pair is None:
            return NoCredentials.MALFORMED
        # A user name has no colon, and everything behind the first is the password (RFC 7617 §2).
        user, _, text = pair.partition(":")
    elif scheme.lower() != "bearer":
        return NoCredentials.MALFORMED
    token = parse_token(text)
    return NoCredentials.MALFORMED if token is None else Credentials(token, user)


def _decode(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return None
