"""Settings of native histograms (processors §4.4, appendix C), the same for all histograms of a tenant."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from tenants.settings.scalars import Duration, between
from tenants.settings.schema import COUNT, RATIO

HistogramMode = Literal["classic", "native", "both"]

DEFAULT_BUCKET_FACTOR = 1.1
DEFAULT_MAX_BUCKETS = 100
DEFAULT_MIN_RESET_DURATION = Duration.parse("15m")


def _zero_is_absent(value: object) -> object:
    """Let the next layer answer: the reference takes a zero for "not set" (tenancy §2.2). False is not zero here."""
    return None if value == 0 and not isinstance(value, bool) else value


def _check_factor(factor: float) -> float:
    # Written so that NaN fails too.
    if not 1 < factor < float("inf"):
        raise ValueError("should be a finite number greater than 1, or 0 to inherit it")
    return factor


BucketFactor = Annotated[
    Annotated[float, AfterValidator(_check_factor), RATIO] | None,
    BeforeValidator(_zero_is_absent),
]
"""Greatest ratio of two neighbouring bounds; zero counts as absent."""

TenantBucketFactor = Annotated[float, AfterValidator(_check_factor), RATIO]
"""Documents of tenants have null for "not set" (tenancy §2.4)."""

MaxBuckets = Annotated[Annotated[int, Field(ge=1, le=10_000), COUNT] | None, BeforeValidator(_zero_is_absent)]
"""Most buckets of one series before its resolution is reduced; zero counts as absent."""

MinResetDuration = Annotated[Duration, between("0s", "87600h")]
"""Zero is a value of its own: a histogram that lost resolution then never starts anew (appendix C)."""
