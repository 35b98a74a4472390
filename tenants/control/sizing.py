"""How many shards a tenant needs whose number is not fixed, from the rate at which it sends (design §2).

Sizes are powers of two, so that a range is always a part of, or made of, whole former ranges. They are kept for all
tenants; those whose number is fixed do not look at theirs. Forgotten when the process ends: then they are found anew.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from tenants.control.figures import ReadFigures
from tenants.control.growth import Counts, grown
from tenants.control.in_force import SettingsInForce
from tenants.settings.overrides import MAX_SHARDS

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

SIZING_INTERVAL_S: Final = 10.0
"""Time between two readings."""

_MEAN_S: Final = 60.0
"""The rate is a mean in which what was sent this long ago weighs a third of what is sent now."""

_PEAK_S: Final = 600.0
"""A peak is forgotten in about this time: a tenant that pauses keeps its shards for a while."""

_SPARE: Final = 0.75
"""Half of the shards have to be enough with this part of what they take, or a reading could double them again."""

_SILENT: Final = 1.0
"""Spans a second below which nothing is remembered of a tenant."""


@dataclass(slots=True)
class _Rate:
    """Spans a second of one tenant: the mean of the last minute, and the peak of the last ones."""

    mean: float = 0.0
    peak: float = 0.0

    def add(self, spans: int, seconds: float) -> None:
        weight = 1.0 - math.exp(-seconds / _MEAN_S)
        self.mean += weight * (spans / seconds - self.mean)
        self.peak = max(self.mean, self.peak * math.exp(-seconds / _PEAK_S))


class ShardSizing:
    """Reads rates and puts sizes in force. One event loop owns it.

    Args:
        read: what all processes counted.
        in_force: where sizes go.
        shard_hosts: how many there are; 0: nobody knows at the moment.
        spans_per_second: that one shard should take.
        clock_s: a clock that never goes back.
    """

    def __init__(
        self,
        read: ReadFigures,
        in_force: SettingsInForce,
        shard_hosts: Callable[[], int],
        spans_per_second: int,
        clock_s: Callable[[], float],
    ) -> None:
        self._read = read
        self._in_force = in_force
        self._shard_hosts = shard_hosts
        self._spans_per_second = spans_per_second
        self._clock_s = clock_s
        self._read_at_s = clock_s()
        self._last: Mapping[str, Mapping[str, Counts]] = {}
        self._rates: dict[str, _Rate] = {}

    async def look(self) -> None:
        """Read once, and change the sizes of the tenants that need it."""
        by_process, now_s = await self._read(), self._clock_s()
        latest = {process: {name: (own.spans,) for name, own in of.items()} for process, of in by_process.items()}
        received = {name: spans for name, (spans,) in grown(self._last, latest).items() if not name.startswith("__")}
        elapsed_s = max(1e-3, now_s - self._read_at_s)
        self._last, self._read_at_s = latest, now_s
        for tenant in self._rates.keys() | received.keys():
            self._rates.setdefault(tenant, _Rate()).add(received.get(tenant, 0), elapsed_s)
        sizes = self._in_force.overrides.sizes
        hosts = self._shard_hosts()
        if hosts:
            changed = {
                tenant: size
                for tenant in self._rates.keys() | sizes.keys()
                if (size := self._size(tenant, sizes.get(tenant, 1), hosts)) != sizes.get(tenant, 1)
            }
            if changed:
                log.info("tenants are divided as their rates demand", shards=changed)
                self._in_force.put(sizes={tenant: size if size > 1 else None for tenant, size in changed.items()})
                self._in_force.push_soon()
        for tenant in [tenant for tenant, rate in self._rates.items() if rate.peak < _SILENT]:
            del self._rates[tenant]

    def _size(self, tenant: str, size: int, hosts: int) -> int:
        rate = self._rates.get(tenant) or _Rate()
        while rate.mean > size * self._spans_per_second and size < MAX_SHARDS:
            size *= 2
        # One step at a time: what a peak was good for is found out slowly.
        if size > 1 and rate.peak < _SPARE * size / 2 * self._spans_per_second:
            size //= 2
        # The greatest power of two that is not above it.
        return min(size, 1 << (min(hosts, MAX_SHARDS).bit_length() - 1))
