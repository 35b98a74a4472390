"""Why an export request was refused, and the one table that says what each protocol answers.

A refusal is a value: it travels from wherever it was decided to the receiver that spells it out as a gRPC
status or an HTTP answer. Nothing here decides whether to refuse.
"""

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from tenants.identity.denied import Denial, Denied
from tenants.identity.tenant_id import IdentityRefused

_MAX_MESSAGE_CHARACTERS = 500


class RefusalReason(StrEnum):
    """Immutable ids of the refusals: clients see them, counters carry them as label."""

    NO_ORG_ID = "no_org_id"
    INVALID_ORG_ID = "invalid_org_id"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    BLOCKED = "blocked"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    DRAINING = "draining"
    INTERNAL = "internal"


class Code(IntEnum):
    """The canonical status codes in use here: those of gRPC and of ``google.rpc.Status``."""

    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What the two protocols say to a refused client.

    Attributes:
        code: gRPC status, also the ``code`` of the Status in an HTTP body.
        http_status: HTTP status.
        is_retryable: whether the client may send the same request again. Clients decide by the code alone
            (OTLP, "Failures"), so this must agree with it: the tests hold the table to OTLP's lists. With
            RESOURCE_EXHAUSTED over gRPC they do so only if they are told when.
    """

    code: Code
    http_status: int
    is_retryable: bool


ANSWERS: Final[dict[RefusalReason, Answer]] = {
    # A forgotten header must be final: as UNAVAILABLE, clients would repeat it for ever (tenancy §1.4, D-3).
    RefusalReason.NO_ORG_ID: Answer(Code.UNAUTHENTICATED, 401, is_retryable=False),
    RefusalReason.INVALID_ORG_ID: Answer(Code.INVALID_ARGUMENT, 400, is_retryable=False),
    RefusalReason.UNAUTHENTICATED: Answer(Code.UNAUTHENTICATED, 401, is_retryable=False),
    RefusalReason.FORBIDDEN: Answer(Code.PERMISSION_DENIED, 403, is_retryable=False),
    RefusalReason.RATE_LIMITED: Answer(Code.RESOURCE_EXHAUSTED, 429, is_retryable=True),
    RefusalReason.BLOCKED: Answer(Code.PERMISSION_DENIED, 403, is_retryable=False),
    RefusalReason.MALFORMED: Answer(Code.INVALID_ARGUMENT, 400, is_retryable=False),
    # Over gRPC the transport itself refuses oversized messages, with RESOURCE_EXHAUSTED and no retry
    # information, which is as final for OTLP clients as this.
    RefusalReason.TOO_LARGE: Answer(Code.INVALID_ARGUMENT, 413, is_retryable=False),
    RefusalReason.UNSUPPORTED_MEDIA_TYPE: Answer(Code.INVALID_ARGUMENT, 415, is_retryable=False),
    RefusalReason.UNSUPPORTED_ENCODING: Answer(Code.UNIMPLEMENTED, 415, is_retryable=False),
    RefusalReason.NOT_FOUND: Answer(Code.UNIMPLEMENTED, 404, is_retryable=False),
    RefusalReason.METHOD_NOT_ALLOWED: Answer(Code.UNIMPLEMENTED, 405, is_retryable=False),
    RefusalReason.OVERLOADED: Answer(Code.UNAVAILABLE, 503, is_retryable=True),
    RefusalReason.UNAVAILABLE: Answer(Code.UNAVAILABLE, 503, is_retryable=True),
    RefusalReason.DRAINING: Answer(Code.UNAVAILABLE, 503, is_retryable=True),
    # Final although the fault is ours: what meets a bug once meets it again, and blocks the client's queue.
    RefusalReason.INTERNAL: Answer(Code.INTERNAL, 500, is_retryable=False),
}


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that was not taken; nothing of it was counted.

    Attributes:
        reason: selects the answer in :data:`ANSWERS`.
        message: for the client: what is wrong, and how to mend it.
        retry_after_s: when to try again, in seconds; only for retryable reasons. None leaves the client to
            its own back-off.

    Raises:
        ValueError: a time to retry was given for a reason that is final.
    """

    reason: RefusalReason
    message: str
    retry_after_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse a contradiction that clients would obey."""
        if self.retry_after_s is not None and not self.answer.is_retryable:
            raise ValueError(f"{self.reason} is final: it cannot carry retry_after_s")

    @property
    def answer(self) -> Answer:
        """What gRPC and HTTP say."""
        return ANSWERS[self.reason]

    @property
    def text(self) -> str:
        """The message as the client gets it: bounded, and ending with the reason's id."""
        message = self.message
        if len(message) > _MAX_MESSAGE_CHARACTERS:
            message = f"{message[: _MAX_MESSAGE_CHARACTERS - 1]}…"
        return f"{message} ({self.reason})"

    def status(self) -> Status:
        """Build the Status: the body over HTTP, ``grpc-status-details-bin`` over gRPC (OTLP, "Failures")."""
        status = Status(code=self.answer.code, message=self.text)
        if self.retry_after_s is not None:
            delay = Duration()
            delay.FromNanoseconds(round(self.retry_after_s * 1e9))
            status.details.add().Pack(RetryInfo(retry_delay=delay))
        return status

    def retry_after_header(self) -> str | None:
        """Return the value of HTTP ``Retry-After``: whole seconds, rounded up (tenancy §4.4)."""
        return None if self.retry_after_s is None else str(math.ceil(self.retry_after_s))


_DENIALS: Final = {
    Denial.UNAUTHENTICATED: RefusalReason.UNAUTHENTICATED,
    Denial.FORBIDDEN: RefusalReason.FORBIDDEN,
    Denial.UNAVAILABLE: RefusalReason.UNAVAILABLE,
}


def identity_refused(fault: IdentityRefused | Denied) -> Refused:
    """Turn the refusal of a tenant id or of credentials into the answer of the receivers (tenancy §1.4)."""
    if isinstance(fault, Denied):
        return Refused(_DENIALS[fault.denial], fault.message, fault.retry_after_s)
    reason = RefusalReason.NO_ORG_ID if fault.is_unauthenticated else RefusalReason.INVALID_ORG_ID
    return Refused(reason, fault.message)
