"""Why a change or a question of the API was refused, as a value that every way in can spell out (RFC 9457)."""

from collections.abc import Mapping
from enum import StrEnum

from tenants.settings.errors import Fault


class ProblemKind(StrEnum):
    """Immutable ids of problems: the last part of ``type`` in an answer."""

    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    INVALID_TENANT = "invalid-tenant"
    INVALID_REQUEST = "invalid-request"
    INVALID_DOCUMENT = "invalid-document"
    TOO_LARGE = "too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    CONFLICT = "conflict"
    RUNTIME_CONFLICT = "runtime-conflict"
    REVISION_MISMATCH = "revision-mismatch"
    REVISION_REQUIRED = "revision-required"
    TOO_MANY_REQUESTS = "too-many-requests"
    NOT_IN_FORCE_YET = "not-in-force-yet"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


STATUS: Mapping[ProblemKind, int] = {
    ProblemKind.UNAUTHENTICATED: 401,
    ProblemKind.FORBIDDEN: 403,
    ProblemKind.INVALID_TENANT: 400,
    ProblemKind.INVALID_REQUEST: 400,
    ProblemKind.INVALID_DOCUMENT: 400,
    ProblemKind.TOO_LARGE: 413,
    ProblemKind.UNSUPPORTED_MEDIA_TYPE: 415,
    ProblemKind.NOT_FOUND: 404,
    ProblemKind.METHOD_NOT_ALLOWED: 405,
    ProblemKind.CONFLICT: 409,
    ProblemKind.RUNTIME_CONFLICT: 409,
    ProblemKind.REVISION_MISMATCH: 412,
    ProblemKind.REVISION_REQUIRED: 428,
    ProblemKind.TOO_MANY_REQUESTS: 429,
    ProblemKind.NOT_IN_FORCE_YET: 504,
    ProblemKind.UNAVAILABLE: 503,
    ProblemKind.INTERNAL: 500,
}
"""What HTTP says (tenancy §3.7, D-13, D-14)."""


class ProblemError(Exception):
    """A request was refused; nothing was changed.

    Attributes:
        kind: selects the status.
        detail: what is wrong and how to mend it; never a secret.
        violations: everything that is wrong with a document, by path.
        headers: that the answer carries.
    """

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        violations: tuple[Fault, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.violations = violations
        self.headers = headers or {}

    @property
    def status(self) -> int:
        """What HTTP says."""
        return STATUS[self.kind]
