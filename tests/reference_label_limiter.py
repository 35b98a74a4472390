"""The reference model's limit of values per label (processors §4.8), with sets where the reference has sketches.

Sets are what the sketches estimate exactly as long as a label has a few hundred values. Whether a label is over its
limit is looked at when a label set comes and the last look is 15 s old, before the values of that label set are
recorded. The window is a number of slots of five minutes of the clock, the running one included.
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
        self._last_seen: dict[str, dict[str, int]] = {}
        self._over: set[str] = set()
        self._limited: Tally[str] = Tally()
        self._estimates: dict[str, int] = {}
        self._looked_ns: int | None = None

    def apply(self, entity: Entity, now_ns: int) -> Entity:
        """Record the values of a label set, and return it with those of labels over the limit replaced."""
        slot = now_ns // SLOT_NS
        if self._looked_ns is None or now_ns - self._looked_ns >= CHECK_NS:
            self._looked_ns = now_ns
            self._look(slot)
        if not self._limit_in_force:
            return entity
        return tuple((name, self._applied(name, value, slot)) for name, value in entity)

    def stats(self) -> dict[str, tuple[int, int]]:
        """Return (values replaced, values in the window at the last look) of every label ever recorded."""
        return {name: (self._limited[name], self._estimates.get(name, 0)) for name in self._last_seen}

    def _look(self, slot: int) -> None:
        self._limit_in_force = self.limit
        if not self.limit:
            return
        for name, values in self._last_seen.items():
            self._estimates[name] = sum(seen > slot - self._slots for seen in values.values())
        self._over = {name for name, values in self._estimates.items() if values > self.limit}

    def _applied(self, name: str, value: str, slot: int) -> str:
        if name in UNTRACKED:
            return value
        self._last_seen.setdefault(name, {})[value] = slot
        if name not in self._over:
            return value
        self._limited[name] += 1
        return OVERFLOW_VALUE
