"""What both processors of the reference model ask of a span (processors §0.9, §1.3, §1.4)."""

from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True, slots=True)
class Batch:
    """One resource of a push and those of its spans that are left to process."""

    resource: Any
    spans: list[Any]


def nanoseconds(seconds: float) -> int:
    """Return a setting in seconds as whole nanoseconds."""
    return round(seconds * 1e9)


def duration_ns(span: Any) -> int:
    """Return how long a span took; 0 if it ends before it starts (processors §1.4)."""
    return max(0, int(span.end_time_unix_nano) - int(span.start_time_unix_nano))


def enum_text(enum: Any, number: int) -> bytes:
    """Return the OTLP name of a span kind or status code, or the number if it has none (processors §1.3)."""
    return (enum.Name(number) if number in enum.values() else str(number)).encode()


def is_error(span: Any) -> bool:
    """Return whether a span failed; a span without status did not."""
    return bool(span.status.code == Status.STATUS_CODE_ERROR)
