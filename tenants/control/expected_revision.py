"""What a request says of the revision that it wants to change: the header ``If-Match`` (tenancy §3.8, D-15)."""

import re
from dataclasses import dataclass

from tenants.control.problem import ProblemError, ProblemKind

_REVISION = re.compile(r'"?([0-9]{1,18})"?')


@dataclass(frozen=True, slots=True)
class Expected:
    """The revision that has to be the current one.

    Attributes:
        revision: 0: nothing may be there; None: anything that is there.
    """

    revision: int | None

    def check(self, current: int) -> None:
        """Compare with the current revision, 0 if there is nothing.

        Raises:
            ProblemError: it is another one.
        """
        if (current == 0) if self.revision is None else (self.revision != current):
            raise mismatch(current)


def mismatch(current: int) -> ProblemError:
    """Return the problem of an expectation that does not hold."""
    there = f"revision {current} is the current one" if current else "there is none"
    return ProblemError(
        ProblemKind.REVISION_MISMATCH,
        f"{there}; read it again, and send its revision in If-Match (0: nothing may be there yet)",
    )


def parse_if_match(value: str | None) -> Expected | None:
    """Read the header; None if it is absent or empty.

    Quotes are optional: the reference neither sends nor expects them. ``*`` is any that exists.

    Raises:
        ProblemError: it is neither a revision nor ``*``.
    """
    text = (value or "").strip()
    if not text or text == '""':
        return None
    if text == "*":
        return Expected(None)
    if match := _REVISION.fullmatch(text):
        return Expected(int(match[1]))
    raise ProblemError(ProblemKind.INVALID_REQUEST, "If-Match should be one revision, such as 3, or * for any")


def required(expected: Expected | None) -> Expected:
    """Return what was expected.

    Raises:
        ProblemError: nothing was.
    """
    if expected is None:
        raise ProblemError(
            ProblemKind.REVISION_REQUIRED,
            "send the revision that you want to change in If-Match; 0 if there is none yet",
        )
    return expected
