"""Usage by tenant and day, for billing: what processes counted, read now and then, and added up in the store.

Counters of a process begin at zero when it restarts; what it counted after the last reading is then missing, at most a
few seconds' worth. A day is a day of UTC; what is counted between two readings belongs to the day of the later one.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime

from tenants.control.figures import ReadFigures, summed
from tenants.store.usage import UsageDay, UsageStore


@dataclass(frozen=True, slots=True)
class _Reading:
    spans: int
    bytes: int
    samples_sent: int


_NOTHING = _Reading(0, 0, 0)


class UsageMeter:
    """Adds up usage. One event loop owns it; the store is asked in threads."""

    def __init__(self, store: UsageStore, read: ReadFigures, clock_ms: Callable[[], int]) -> None:
        self._store = store
        self._read = read
        self._clock_ms = clock_ms
        self._last: dict[tuple[str, str], _Reading] = {}
        self._unsaved: list[UsageDay] = []

    async def read(self) -> None:
        """Read all processes once and store what is new. What the store does not take is kept for the next time."""
        by_process = await self._read()
        day = datetime.fromtimestamp(self._clock_ms() / 1000, UTC).date()
        grown: dict[str, list[int]] = {}
        for process, figures in by_process.items():
            for tenant, counted in figures.items():
                now = _Reading(counted.spans, counted.bytes, counted.samples_sent)
                before = self._last.get((process, tenant), _NOTHING)
                self._last[(process, tenant)] = now
                sums = grown.setdefault(tenant, [0, 0, 0])
                for index, (was, is_now) in enumerate(
                    (
                        (before.spans, now.spans),
                        (before.bytes, now.bytes),
                        (before.samples_sent, now.samples_sent),
                    )
                ):
                    sums[index] += is_now - was if is_now >= was else is_now
            self._forget(process, figures.keys())
        totals = summed(by_process)
        rows = [
            UsageDay(
                day=day,
                tenant=tenant,
                spans=spans,
                bytes=size,
                samples_sent=samples,
                active_series_max=totals[tenant].active_series,
                active_series_sum=totals[tenant].active_series,
                active_series_readings=1,
            )
            for tenant, (spans, size, samples) in grown.items()
        ]
        self._unsaved = _merged([*self._unsaved, *rows])
        await asyncio.to_thread(self._store.add, self._unsaved)
        self._unsaved = []

    async def days(self, tenant: str | None, first: date, last: date) -> list[UsageDay]:
        """Return stored usage, by day and tenant; of one tenant, or of all."""
        return await asyncio.to_thread(self._store.read, tenant, first, last)

    async def forget_before(self, time_ms: int) -> None:
        """Remove the days that had ended by a time."""
        day = datetime.fromtimestamp(time_ms / 1000, UTC).date()
        await asyncio.to_thread(self._store.forget_before, day)

    def _forget(self, process: str, tenants: object) -> None:
        """Forget the tenants that a process measures no more: they begin at zero again."""
        gone = [key for key in self._last if key[0] == process and key[1] not in tenants]  # type: ignore[operator]
        for key in gone:
            del self._last[key]


def _merged(rows: list[UsageDay]) -> list[UsageDay]:
    """Return one row for each day and tenant."""
    merged: dict[tuple[date, str], UsageDay] = {}
    for row in rows:
        key = (row.day, row.tenant)
        other = merged.get(key)
        merged[key] = row if other is None else other.plus(row)
    return list(merged.values())
