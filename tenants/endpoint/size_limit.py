"""How much one endpoint takes at once, where it answers 413. Pure: reads no clock, sends nothing.

It does not say how much that is, nor whether it is the size of the whole or one series of it that is too long. So a
refused batch is halved, and what was taken in the end is remembered for those that follow.
"""

from dataclasses import dataclass
from typing import Final

MAX_REFUSALS: Final = 20
"""In a row, of one batch: a hundred thousand series are halved into single ones with 17."""

MEMORY_MS: Final = 600_000
"""So long it is remembered: a receiver that was mended is used fully again."""

_MARGIN: Final = 1.25
"""Batches of one tenant are not quite of one size."""


@dataclass(slots=True)
class Excess:
    """A batch of which something was too large.

    Attributes:
        deliveries: how many the endpoint had taken by then.
        refusals: since something of it was taken.
        is_divided: it is not sent as a whole any more.
    """

    deliveries: int
    refusals: int = 0
    is_divided: bool = False


class SizeLimit:
    """What one endpoint has taken and refused, in compressed bytes, as far as that is remembered."""

    def __init__(self) -> None:
        self._since_ms = 0
        self._deliveries = 0
        self._largest_taken = 0
        self._largest_refused = 0
        self._least_refused: int | None = None  # of those larger than what was taken
        self._is_known = False
        self._takes_nothing = False

    def taken(self, size_bytes: int, excess: Excess | None, now_ms: int) -> None:
        """Note that something was taken, perhaps of a batch of which other parts were not."""
        self._forget(now_ms)
        self._deliveries += 1
        self._takes_nothing = False
        self._largest_taken = max(self._largest_taken, size_bytes)
        if self._least_refused is not None and self._least_refused <= self._largest_taken:
            self._least_refused = None
        if excess is not None:
            excess.refusals = 0

    def refused(self, size_bytes: int, excess: Excess | None, now_ms: int) -> Excess:
        """Note that a batch is too large, or a part of it."""
        self._forget(now_ms)
        self._largest_refused = max(self._largest_refused, size_bytes)
        if size_bytes > self._largest_taken:
            self._least_refused = min(self._least_refused or size_bytes, size_bytes)
        excess = excess or Excess(self._deliveries)
        excess.refusals += 1
        return excess

    def settled(self, excess: Excess) -> None:
        """Note that nothing is left of a batch of which something was too large."""
        self._is_known = self._is_known or self._largest_taken > 0
        if excess.is_divided and excess.deliveries == self._deliveries:
            self._takes_nothing = True

    def is_worth_dividing(self, excess: Excess) -> bool:
        """Whether there is hope that a part is taken of what is too large."""
        return not self._takes_nothing and excess.refusals < MAX_REFUSALS

    def fitting_bytes(self, size_bytes: int, now_ms: int) -> int | None:
        """Return what a batch has to be cut to before it is sent; None: send it as it is."""
        self._forget(now_ms)
        # What is larger than all that was refused may be taken: there it may have been a single series.
        if not self._is_known or size_bytes > _MARGIN * self._largest_refused:
            return None
        fitting = int(_MARGIN * self._largest_taken)
        if self._least_refused is not None:
            fitting = min(fitting, self._least_refused - 1)
        return fitting if size_bytes > fitting else None

    def _forget(self, now_ms: int) -> None:
        if abs(now_ms - self._since_ms) >= MEMORY_MS:
            self._since_ms = now_ms
            self._largest_taken = self._largest_refused = 0
            self._least_refused = None
            self._is_known = self._takes_nothing = False
