"""How many bytes a tenant may send: a token bucket for each tenant, in every gateway by itself (tenancy §4.2).

Exact: whole numbers only, so that nothing is lost or won between one request and the next. Knows no settings and no
protocol, and has no clock: times are passed in, in nanoseconds of one that never goes back.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from tenants.identity.tenant_id import TenantId

MAX_BUCKETS: Final = 20_000
"""Buckets that are held. Beyond it the one not used for longest is forgotten, and its tenant starts with a full one."""

_SECOND_NS: Final = 1_000_000_000
_LEAST_DELAY_NS: Final = _SECOND_NS
_GREATEST_DELAY_NS: Final = 60 * _SECOND_NS
_JITTER: Final = 0.2

Random = Callable[[], float]
"""Draws a number from 0 to 1."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What a tenant may send.

    Attributes:
        rate_bytes: a second, of all gateways that share it; 0 blocks.
        burst_bytes: at once, in each gateway, and so the largest request; 0 blocks.
        shared_by: gateways that share the rate, at least 1.
    """

    rate_bytes: int
    burst_bytes: int
    shared_by: int = 1

    @property
    def is_block(self) -> bool:
        """Whether everything is refused: zero is no missing limit (tenancy §4.1)."""
        return not (self.rate_bytes and self.burst_bytes)

    @property
    def local_rate_bytes(self) -> int:
        """This gateway's part of the rate, rounded down, for people."""
        return self.rate_bytes // self.shared_by


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """There are too few tokens now; there will be enough."""

    seconds: float


class Hopeless(Enum):
    """No wait helps; the limit has to change, or the request."""

    NEVER_FITS = auto()
    """The request is larger than the burst."""

    BLOCKED = auto()
    """The rate or the burst is zero."""


class TokenBucket:
    """The tokens of one tenant, a byte each. Full at first; any change of the limit keeps the tokens."""

    __slots__ = ("_at_ns", "_limit", "_tokens")

    def __init__(self, limit: RateLimit, now_ns: int) -> None:
        self._limit = limit
        self._at_ns = now_ns
        # In parts of a byte of which a nanosecond brings `rate_bytes`: refilling is a multiplication and no division.
        self._tokens = limit.burst_bytes * self._parts

    @property
    def tokens(self) -> int:
        """Whole tokens at the last use."""
        return self._tokens // self._parts

    def put_limit(self, limit: RateLimit, now_ns: int) -> None:
        """Go on with another limit, and no more tokens than its burst. Until now the former one was in force."""
        if limit == self._limit:
            return
        self._refill(now_ns)
        self._tokens = self._tokens * limit.shared_by // self._limit.shared_by
        self._limit = limit
        self._tokens = min(self._tokens, limit.burst_bytes * self._parts)

    def take(self, size: int, now_ns: int, random: Random) -> RetryAfter | Hopeless | None:
        """Take ``size`` tokens, all or none.

        Returns:
            None if they were there. Otherwise why not; a time to wait is at least 1 s and at most 60 s, give or take a
            fifth, so that clients do not all come back at once (tenancy D-19).
        """
        if self._limit.is_block:
            return Hopeless.BLOCKED
        if size > self._limit.burst_bytes:
            return Hopeless.NEVER_FITS
        self._refill(now_ns)
        missing = size * self._parts - self._tokens
        if missing <= 0:
            self._tokens = -missing
            return None
        wait_ns = -(-missing // self._limit.rate_bytes)
        clamped_ns = min(max(wait_ns, _LEAST_DELAY_NS), _GREATEST_DELAY_NS)
        return RetryAfter(clamped_ns / _SECOND_NS * (1 - _JITTER + 2 * _JITTER * random()))

    def is_full(self, now_ns: int) -> bool:
        """Whether it cannot be told from a new one."""
        self._refill(now_ns)
        return self._tokens == self._limit.burst_bytes * self._parts

    @property
    def _parts(self) -> int:
        return _SECOND_NS * self._limit.shared_by

    def _refill(self, now_ns: int) -> None:
        elapsed_ns = max(0, now_ns - self._at_ns)
        self._at_ns += elapsed_ns
        most = self._limit.burst_bytes * self._parts
        self._tokens = min(most, self._tokens + elapsed_ns * self._limit.rate_bytes)


class RateLimiter:
    """The buckets of all tenants. One event loop owns it.

    A bucket that is full again is forgotten in time, as the next one of its tenant would be the same.
    """

    def __init__(self, random: Random, max_buckets: int = MAX_BUCKETS) -> None:
        self._random = random
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[TenantId, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, tenant: TenantId, limit: RateLimit, size: int, now_ns: int) -> RetryAfter | Hopeless | None:
        """Take ``size`` tokens of the tenant, under the limit that is in force for it now; see :class:`TokenBucket`."""
        bucket = self._buckets.get(tenant)
        if bucket is None:
            if limit.is_block:
                # Whoever is refused everything costs nothing either.
                return Hopeless.BLOCKED
            bucket = self._buckets[tenant] = TokenBucket(limit, now_ns)
            self._forget(now_ns)
        else:
            bucket.put_limit(limit, now_ns)
            self._buckets.move_to_end(tenant)
        return bucket.take(size, now_ns, self._random)

    def _forget(self, now_ns: int) -> None:
        # Two for each new one: there are never many that need not be there, and no call is a long one.
        for tenant in [name for name, _ in zip(self._buckets, range(2), strict=False)][: len(self._buckets) - 1]:
            if self._buckets[tenant].is_full(now_ns):
                del self._buckets[tenant]
        while len(self._buckets) > self._max_buckets:
            self._buckets.popitem(last=False)
