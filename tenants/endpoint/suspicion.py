"""Whether it is the batch that a receiver answers with 500, and not the receiver. Pure: reads no clock, sends nothing.

Some answer so to a request that they will never take, such as one with native histograms that are switched off
(remote-write §0 point 5): sent again for ever, it would block everything behind it.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

PATIENCE_MS: Final = 300_000
"""So long a batch that is answered 500 may just have come at a bad time."""

MAX_DIVISIONS: Final = 64
"""Of one batch. What still fails then is dropped as large as it is: a batch must not cost thousands of requests."""

_MEMORY_MS: Final = 3_600_000
"""So long after one was found the next is looked for at once: it comes with every collection."""

_EVIDENCE_MS: Final = 60_000
"""So long after a delivery the endpoint is taken to work."""

_MIN_ATTEMPTS: Final = 3
_MIN_PIECE_ATTEMPTS: Final = 2


class Step(Enum):
    """What to do with what was answered 500."""

    WAIT = auto()
    DIVIDE = auto()
    TURN = auto()
    """Nothing is known of the endpoint: try the other pieces first."""
    DROP = auto()


@dataclass(slots=True)
class Trouble:
    """A batch that is answered with 500.

    Attributes:
        since_ms: when it was first.
        deliveries: how many the endpoint had taken by then.
        divisions: how often it was divided.
    """

    since_ms: int
    deliveries: int
    divisions: int = 0


class Suspicion:
    """What one endpoint takes and what it does not. Nothing is dropped while it takes nothing at all."""

    def __init__(self) -> None:
        self._deliveries = 0
        self._delivered_ms = 0
        self._found_ms: int | None = None

    def delivered(self, now_ms: int) -> None:
        """Note that the endpoint has taken something."""
        self._deliveries += 1
        self._delivered_ms = now_ms

    def begin(self, now_ms: int) -> Trouble:
        """Note that a batch is answered with 500 for the first time."""
        return Trouble(now_ms, self._deliveries)

    def is_alone(self, trouble: Trouble) -> bool:
        """Whether the endpoint has taken others since: then they need not wait for this one."""
        return self._deliveries > trouble.deliveries

    def next_step(self, trouble: Trouble, attempts: int, series: int, now_ms: int) -> Step:
        """Say what to do with a batch, or the piece of it that has failed so many times."""
        if not self._is_patience_over(trouble, attempts, now_ms):
            return Step.WAIT
        if series > 1 and trouble.divisions < MAX_DIVISIONS:
            trouble.divisions += 1
            return Step.DIVIDE
        if attempts < _MIN_PIECE_ATTEMPTS:
            return Step.WAIT
        if self.is_alone(trouble) and now_ms - self._delivered_ms <= _EVIDENCE_MS:
            self._found_ms = now_ms
            return Step.DROP
        return Step.TURN

    def _is_patience_over(self, trouble: Trouble, attempts: int, now_ms: int) -> bool:
        if trouble.divisions:
            return True
        is_known = self._found_ms is not None and now_ms - self._found_ms < _MEMORY_MS
        return now_ms - trouble.since_ms >= PATIENCE_MS or (is_known and attempts >= _MIN_ATTEMPTS)
