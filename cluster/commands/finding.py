"""What ``millrace doctor`` finds: one line for each thing that it looked at."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    """The service runs, and somebody should know."""
    FAIL = "fail"
    """The service does not start, or does not do its work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what it is.
        verdict: how it is.
        said: what was found; no secret.
        mend: what to do; empty where there is nothing to do.
    """

    check: str
    verdict: Verdict
    said: str
    mend: str = ""


def ok(check: str, said: str) -> Finding:
    """Say that all is well."""
    return Finding(check, Verdict.OK, said)


def warn(check: str, said: str, mend: str) -> Finding:
    """Say what somebody should know."""
    return Finding(check, Verdict.WARN, said, mend)


def fail(check: str, said: str, mend: str) -> Finding:
    """Say what keeps the service from its work."""
    return Finding(check, Verdict.FAIL, said, mend)
