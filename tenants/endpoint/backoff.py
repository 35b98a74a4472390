"""How long to wait after a failure. Pure: neither sleeps nor reads a clock."""

import random
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_S = 300.0
"""Longest pause that a receiver can ask for: a wrong ``Retry-After`` must not silence a tenant for a day."""

# Within ±10 %, two pauses at the ceiling differ by less than the factor 0.8 that the public test suite of
# senders allows (remote-write §5.5, TestBackoffBehavior); full jitter would fail it.
_JITTER = 0.1


@dataclass(slots=True)
class Backoff:
    """Exponential pauses of one endpoint, shared by all its batches.

    Attributes:
        min_s: the first pause.
        max_s: the longest pause, before jitter.
        rng: source of the jitter.
    """

    min_s: float
    max_s: float
    rng: random.Random
    _next_s: float = field(init=False)
    _last_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._next_s = self.min_s

    def reset(self) -> None:
        """Begin at ``min_s`` again: the endpoint works."""
        self._next_s = self.min_s
        self._last_s = 0.0

    def set_bounds(self, min_s: float, max_s: float) -> None:
        """Go on between other bounds, from where it is."""
        self.min_s, self.max_s = min_s, max_s
        self._next_s = min(max(self._next_s, min_s), max_s)
        self._last_s = 0.0

    def next_pause_s(self, retry_after_s: float | None) -> float:
        """Return the seconds to wait before the next attempt: no less than before, unless that was asked for.

        Args:
            retry_after_s: what the receiver asked for, from :func:`parse_retry_after`. It is never undercut;
                as in Prometheus, later pauses go on from it (remote-write §1.7).
        """
        base_s, spread = self._next_s, self.rng.uniform(-_JITTER, _JITTER)
        if retry_after_s is not None and retry_after_s > base_s:
            base_s, spread = retry_after_s, abs(spread)
            self._last_s = 0.0
            pause_s = base_s * (1 + spread)
        else:
            # Jitter alone must not make a pause shorter than the one before.
            self._last_s = pause_s = max(self._last_s, base_s * (1 + spread))
        self._next_s = min(2 * base_s, self.max_s)
        return pause_s


def parse_retry_after(text: str | None, now_ms: int) -> float | None:
    """Read a ``Retry-After`` header: seconds or an HTTP date (RFC 9110 §10.2.3).

    Returns:
        Seconds from now, 0 or more and at most ``MAX_RETRY_AFTER_S``; ``None`` if absent or unreadable.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdecimal():
        # Python refuses to convert very long digit strings; whatever has so many digits is over the limit.
        return MAX_RETRY_AFTER_S if len(text) > 9 else min(float(text), MAX_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(text)
        until_ms = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1000
    except (ValueError, OverflowError):
        return None
    return min(max(until_ms - now_ms, 0.0) / 1000, MAX_RETRY_AFTER_S)
