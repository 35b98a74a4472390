"""Whether a tenant may send a request, by its state and its rate, and what it is told (tenancy §4.2, §4.4, §5.1).

Looks at the size of a request and not into it. What each protocol answers is its own to say.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tenants.identity.tenant_id import TenantId
from tenants.limits.rate import Hopeless, Random, RateLimit, RateLimiter, RetryAfter
from tenants.settings.ingestion import IngestionSettings
from tenants.settings.tenant_settings import TenantSettings
from tenants.settings.tenant_state import TenantState

MAX_WARNED: Final = 10_000
"""Tenants of which is known when they were warned. Beyond it the one warned first may be warned too soon."""

_WARN_EVERY_NS: Final = 60_000_000_000


class AdmissionReason(StrEnum):
    """Immutable ids of what stands against a request: clients see them, counters carry them as label."""

    RATE_LIMITED = "rate_limited"
    TOO_LARGE = "too_large"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class AdmissionRefused:
    """A request was not admitted.

    Attributes:
        reason: what stands against it.
        message: for the client: which limit it met, and how to mend that.
        retry_after_s: when to try again, in seconds; None where that does not help or is not to be told.
    """

    reason: AdmissionReason
    message: str
    retry_after_s: float | None = None


class Admission:
    """Admits requests, or not. One event loop owns it.

    Args:
        random: spreads the times at which clients come back.
        gateways: how many gateways share a rate where the strategy is global.
    """

    def __init__(self, random: Random, gateways: int) -> None:
        self._limiter = RateLimiter(random)
        self._gateways = gateways
        self._warned_ns: OrderedDict[TenantId, int] = OrderedDict()

    def put_gateways(self, gateways: int) -> None:
        """Share rates between so many from now on; 0, as nobody knows, gives this one the whole (tenancy §4.2)."""
        self._gateways = gateways

    def admit(self, settings: TenantSettings, size: int, now_ns: int) -> AdmissionRefused | None:
        """Admit a request of ``size`` bytes, which then counts against the tenant's rate, or say why not."""
        if settings.state is TenantState.BLOCKED:
            return AdmissionRefused(
                AdmissionReason.BLOCKED, f"tenant {settings.tenant} is blocked; only the operator can change that"
            )
        ingestion = settings.ingestion
        limit = self._limit(ingestion)
        match self._limiter.take(settings.tenant, limit, size, now_ns):
            case None:
                return None
            case RetryAfter(seconds):
                message = f"{_exceeded(settings, limit, size)}; send less, or have ingestion.rate_limit_bytes raised"
                is_told = ingestion.retry_info_enabled
                return AdmissionRefused(AdmissionReason.RATE_LIMITED, message, seconds if is_told else None)
            case Hopeless.NEVER_FITS:
                message = (
                    f"{size} bytes of tenant {settings.tenant} are more than its burst of {limit.burst_bytes} bytes; "
                    "send smaller batches, or have ingestion.burst_size_bytes raised"
                )
                return AdmissionRefused(AdmissionReason.TOO_LARGE, message)
            case Hopeless.BLOCKED:
                message = f"{_exceeded(settings, limit, size)}; a rate or burst of 0 refuses everything"
                return AdmissionRefused(AdmissionReason.RATE_LIMITED, message)

    def warning(self, settings: TenantSettings, now_ns: int) -> str:
        """Return what an accepted client should know, at most once a minute for each tenant; mostly nothing."""
        if settings.is_generating:
            return ""
        warned_ns = self._warned_ns.get(settings.tenant)
        if warned_ns is not None and now_ns - warned_ns < _WARN_EVERY_NS:
            return ""
        self._warned_ns[settings.tenant] = now_ns
        self._warned_ns.move_to_end(settings.tenant)
        if len(self._warned_ns) > MAX_WARNED:
            self._warned_ns.popitem(last=False)
        if settings.state is TenantState.PAUSED:
            return f"spans are accepted, and no metrics generated: tenant {settings.tenant} is paused by the operator"
        return (
            f"spans are accepted, and no metrics generated: tenant {settings.tenant} has no active processor "
            "(metrics_generator.processors)"
        )

    def _limit(self, ingestion: IngestionSettings) -> RateLimit:
        shared_by = self._gateways if ingestion.rate_strategy == "global" else 1
        return RateLimit(ingestion.rate_limit_bytes, ingestion.burst_size_bytes, max(1, shared_by))


def _exceeded(settings: TenantSettings, limit: RateLimit, size: int) -> str:
    """Say it as the reference does, for whoever looks for these words (tenancy §4.4)."""
    total = f"{limit.rate_bytes} bytes/s" if settings.ingestion.rate_strategy == "global" else "none"
    return (
        f"RATE_LIMITED: ingestion rate limit (local: {limit.local_rate_bytes} bytes/s, global: {total}, "
        f"burst: {limit.burst_bytes} bytes) exceeded while adding {size} bytes for tenant {settings.tenant}"
    )
