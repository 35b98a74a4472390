"""Why somebody was not let through, as a value; what each protocol answers is its own to say."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Denial(StrEnum):
    """What the client is told."""

    UNAUTHENTICATED = "unauthenticated"
    """Who they are is not proven. Final."""

    FORBIDDEN = "forbidden"
    """It is known who they are, and they may not. Final."""

    UNAVAILABLE = "unavailable"
    """It could not be checked now. Worth another try."""


class DenialReason(StrEnum):
    """Why, for the operator: labels of a counter that never change. Clients cannot tell one bad token from another."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REVOKED = "revoked"
    WRONG_SECRET = "wrong_secret"  # noqa: S105  (no secret, but what is said of one)
    WRONG_TENANT = "wrong_tenant"
    LACKS_SCOPE = "lacks_scope"
    SLOWED = "slowed"
    OVERLOADED = "overloaded"
    NO_TABLE = "no_table"


_DENIALS: Final = {
    DenialReason.WRONG_TENANT: Denial.FORBIDDEN,
    DenialReason.LACKS_SCOPE: Denial.FORBIDDEN,
    DenialReason.SLOWED: Denial.UNAVAILABLE,
    DenialReason.OVERLOADED: Denial.UNAVAILABLE,
    DenialReason.NO_TABLE: Denial.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Denied:
    """Somebody was not let through.

    Attributes:
        reason: for the operator.
        message: for the client: how to mend it. The same for every token that is no good.
        retry_after_s: when to try again, in seconds; only where that can help.
    """

    reason: DenialReason
    message: str
    retry_after_s: float | None = None

    @property
    def denial(self) -> Denial:
        """What the client is told."""
        return _DENIALS.get(self.reason, Denial.UNAUTHENTICATED)
