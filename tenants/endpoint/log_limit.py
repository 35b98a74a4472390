"""Keeps one failing endpoint from filling the log."""


class LogLimit:
    """Lets one line through per interval and counts those it holds back."""

    def __init__(self, interval_ms: int = 60_000) -> None:
        self._interval_ms = interval_ms
        self._last_ms: int | None = None
        self._withheld = 0

    def admit(self, now_ms: int) -> int | None:
        """Ask to write a line.

        Returns:
            ``None``: stay silent. Otherwise write, and say that this many were withheld before it.
        """
        # The distance, not the difference: a clock that is set back must not silence the log for as long.
        if self._last_ms is not None and abs(now_ms - self._last_ms) < self._interval_ms:
            self._withheld += 1
            return None
        withheld, self._withheld, self._last_ms = self._withheld, 0, now_ms
        return withheld
