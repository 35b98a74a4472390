"""When a tenant's series are collected, and the timestamp they get. Pure: reads no clock, does not sleep."""

import hashlib

# A new series gets its zero sample 1 ms after the previous collection: the value must lie later still.
_MIN_STEP_MS = 2


class CollectionSchedule:
    """The collections of one tenant: once per interval, at a phase of its own.

    The phase is a stable hash of the tenant, so that the tenants' collections are spread over the interval
    and a tenant keeps its rhythm through restarts. Collections that were missed are not made up for: series
    are cumulative, and one collection says it all.

    Wait until ``due_ms(now) <= now``, then call ``begin(now)``.
    """

    def __init__(self, tenant: str, interval_s: float, now_ms: int, last_timestamp_ms: int = 0) -> None:
        """Start the schedule.

        Args:
            tenant: whose phase it is.
            interval_s: time between collections.
            now_ms: the first collection is due within one interval from here.
            last_timestamp_ms: newest timestamp that was ever sent for the tenant, or that of its registry's
                start; every timestamp given out is later (remote-write §2.5 point 3).
        """
        digest = hashlib.blake2b(tenant.encode(), digest_size=8).digest()
        self._phase = int.from_bytes(digest) / 2**64
        self._interval_ms = _to_ms(interval_s)
        self._last_timestamp_ms = last_timestamp_ms
        self._start_interval(now_ms)

    @property
    def interval_s(self) -> float:
        """The interval in force, or from the next collection on."""
        return self._interval_ms / 1000

    def due_ms(self, now_ms: int) -> int:
        """Return when the next collection is due; it is due now if that is not after ``now_ms``.

        If the clock was set back beyond the start of the running interval, a new one starts there: a tenant
        must not fall silent until the clock has caught up.
        """
        if now_ms < self._begun_ms:
            self._start_interval(now_ms)
        return self._due_ms

    def set_interval(self, interval_s: float) -> None:
        """Change the interval; the running one ends as planned."""
        self._interval_ms = _to_ms(interval_s)

    def begin(self, now_ms: int) -> int:
        """Begin a collection, due or not; return its timestamp. The next is due at the phase's next turn."""
        self._start_interval(now_ms)
        return self.next_timestamp_ms(now_ms)

    def next_timestamp_ms(self, now_ms: int) -> int:
        """Return ``now_ms``, or as much later as strictly increasing timestamps need; it is then used up."""
        self._last_timestamp_ms = max(now_ms, self._last_timestamp_ms + _MIN_STEP_MS)
        return self._last_timestamp_ms

    def _start_interval(self, now_ms: int) -> None:
        offset_ms = int(self._phase * self._interval_ms)
        self._begun_ms = now_ms
        self._due_ms = now_ms + self._interval_ms - (now_ms - offset_ms) % self._interval_ms


def _to_ms(interval_s: float) -> int:
    interval_ms = round(interval_s * 1000)
    if interval_ms < 1:
        raise ValueError(f"the collection interval must be at least 0.001 s, not {interval_s} s")
    return interval_ms
