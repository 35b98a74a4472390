"""How often a tenant may ask for changes: all tenants share one store, and one process that checks what they send."""

import math
from collections.abc import Callable
from typing import Final

from tenants.control.problem import ProblemError, ProblemKind
from tenants.identity.tenant_id import TenantId
from tenants.limits.rate import RateLimit, RateLimiter, RetryAfter

WRITES_PER_SECOND: Final = 5
WRITES_AT_ONCE: Final = 60

# A token for each change, where for spans it is one for each byte.
_LIMIT: Final = RateLimit(rate_bytes=WRITES_PER_SECOND, burst_bytes=WRITES_AT_ONCE)


class WriteLimiter:
    """The changes of all tenants. One event loop owns it.

    Args:
        clock_ns: a time that never goes back, in nanoseconds.
        random: draws a number from 0 to 1, for times to wait.
    """

    def __init__(self, clock_ns: Callable[[], int], random: Callable[[], float]) -> None:
        self._clock_ns = clock_ns
        self._limiter = RateLimiter(random)

    def take(self, tenant: TenantId) -> None:
        """Count one change, whatever will become of it.

        Raises:
            ProblemError: there were too many; it says when to try again.
        """
        refused = self._limiter.take(tenant, _LIMIT, 1, self._clock_ns())
        if isinstance(refused, RetryAfter):
            raise ProblemError(
                ProblemKind.TOO_MANY_REQUESTS,
                f"a tenant may ask for {WRITES_PER_SECOND} changes a second, and {WRITES_AT_ONCE} at once; "
                "wait as long as Retry-After says",
                headers={"Retry-After": str(math.ceil(refused.seconds))},
            )
