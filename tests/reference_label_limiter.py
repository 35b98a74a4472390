"""The reference model's limit of values per label (processors §4.8), with sets where the reference has sketches.

Sets are what the sketches estimate exactly as long as a label has a few hundred values. Whether a label is over its
limit is looked at when a label set comes and the last look is 15 s old: first the window moves on, then the labels are
judged, then the values of the label set are recorded.
"""

from collections import Counter as Tally

from tests.reference_labels import Entity
from tests.reference_spans import nanoseconds

OVERFLOW_VALUE = "__cardinality_overflow__"
UNTRACKED = frozenset({"__name__", "__type__", "__unit__"})
CHECK_NS = nanoseconds(15)
SLOT_NS = nanoseconds(300)
DEFAULT_STALE_NS = nanoseconds(900)


def window_slots(stale_s: float) -> int:
    """Return how many slots of five minutes the window has (processors §4.10)."""
    stale_ns = nanoseconds(stale_s)
    if stale_ns <= nanoseconds(60) or stale_ns < SLOT_NS:
        stale_ns = DEFAULT_STALE_NS
    return max(2, (stale_ns + SLOT_NS) // SLOT_NS)


class LabelLimiter:
    """One tenant's limit of values per label; ``limit`` may change and acts at the next look, 0 is none."""

    def __init__(self, limit: int, stale_s: float) -> None:
        self.limit = limit
        self._limit_in_force = limit
        self._slots = window_slots(stale_s)
        self._slot = 0
        self._windows: dict[str, list[set[str]]] = {}
        self._over: set[str] = set()
        self._limited: Tally[str] = Tally()
        self._estimates: dict[str, int] = {}
        self._looked_ns: int | None = None
        self._moved_ns = 0

    def apply(self, entity: Entity, now_ns: int) -> Entity:
        """Record the values of a label set, and return it with those of labels over the limit replaced."""
        if self._looked_ns is None:
            self._moved_ns = now_ns
        if self._looked_ns is None or now_ns - self._looked_ns >= CHECK_NS:
            self._looked_ns = now_ns
            self._look(now_ns)
        if not self._limit_in_force:
            return entity
        return tuple((name, self._applied(name, value)) for name, value in entity)

    def stats(self) -> dict[str, tuple[int, int]]:
        """Return (values replaced, values in the window at the last look) of every label ever recorded."""
        return {name: (self._limited[name], self._estimates.get(name, 0)) for name in self._windows}

    def _look(self, now_ns: int) -> None:
        elapsed = now_ns - self._moved_ns
        if elapsed >= SLOT_NS:
            self._moved_ns = now_ns
            for _ in range(min(elapsed // SLOT_NS, self._slots)):
                self._slot = (self._slot + 1) % self._slots
                for window in self._windows.values():
                    window[self._slot].clear()
        self._limit_in_force = self.limit
        if not self.limit:
            return
        for name, window in self._windows.items():
            self._estimates[name] = len(set().union(*window))
        self._over = {name for name, values in self._estimates.items() if values > self.limit}

    def _applied(self, name: str, value: str) -> str:
        if name in UNTRACKED:
            return value
        window = self._windows.setdefault(name, [set() for _ in range(self._slots)])
        window[self._slot].add(value)
        if name not in self._over:
            return value
        self._limited[name] += 1
        return OVERFLOW_VALUE
