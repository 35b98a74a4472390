"""What the view draws at one moment, and the short memory behind its trend column.

Plain data: the view never asks a receiver or a child itself, so every state can be drawn without them.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from cluster.demo.red import RedRow, TenantReading

TREND_POINTS = 12
TREND_STEP_S = 5.0


class Phase(Enum):
    """Where the demo stands; the value is what the user reads."""

    STARTING = "starting"
    WAITING = "waiting for the first collection"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Sent:
    """What one tenant's traffic was told so far."""

    traces: int = 0
    acknowledged: int = 0
    not_taken: int = 0
    """Spans rejected, refused or lost."""


@dataclass(frozen=True, slots=True)
class TenantFrame:
    """One tenant's part of a frame. ``trends`` has each service's last p95 in seconds, oldest first."""

    tenant: str
    about: str
    sent: Sent = Sent()
    reading: TenantReading | None = None
    trends: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frame:
    """All that is on the screen at one moment."""

    phase: Phase
    age_s: float
    detail: str
    tenants: Sequence[TenantFrame]
    look_here: Sequence[tuple[str, str]]
    """What and where: the lines at the foot."""


class Trends:
    """The last p95 values of each service of one tenant; services that are gone are forgotten."""

    def __init__(self) -> None:
        self._values: dict[str, deque[float]] = {}
        self._recorded_at_s = float("-inf")

    def record(self, at_s: float, rows: Iterable[RedRow]) -> None:
        """Take the rows' p95, unless :data:`TREND_STEP_S` have not passed since the last time."""
        if at_s - self._recorded_at_s < TREND_STEP_S:
            return
        self._recorded_at_s = at_s
        before, self._values = self._values, {}
        for row in rows:
            values = before.get(row.service) or deque(maxlen=TREND_POINTS)
            values.append(row.p95_s or 0.0)
            self._values[row.service] = values

    def snapshot(self) -> dict[str, tuple[float, ...]]:
        """Return the values as they are now."""
        return {service: tuple(values) for service, values in self._values.items()}
