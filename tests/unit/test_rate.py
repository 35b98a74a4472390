"""The token bucket of a tenant, against a model in fractions (tenancy §4.2)."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.identity import TenantId
from tenants.limits.rate import Hopeless, RateLimit, RateLimiter, RetryAfter, TokenBucket
from tests.unit.tenant_work import ACME, SECOND_NS

GLOBEX = TenantId("globex")
LIMIT = RateLimit(rate_bytes=2000, burst_bytes=2000)


def in_the_middle() -> float:
    return 0.5


def took(bucket: TokenBucket, size: int, now_ns: int = 0) -> bool:
    return bucket.take(size, now_ns, in_the_middle) is None


def test_burst_at_once_then_as_fast_as_the_rate() -> None:  # case 93
    bucket = TokenBucket(LIMIT, 0)
    assert [took(bucket, 1000) for _ in range(3)] == [True, True, False]
    assert not took(bucket, 1000, SECOND_NS // 2 - 1)
    assert took(bucket, 1000, SECOND_NS // 2)
    assert not took(bucket, 1, SECOND_NS // 2)
    assert took(bucket, 2000, 100 * SECOND_NS)
    assert not took(bucket, 1, 100 * SECOND_NS)


@pytest.mark.parametrize(
    ("limit", "size", "hopeless"),
    [
        (LIMIT, 2001, Hopeless.NEVER_FITS),
        (RateLimit(10**12, 2000), 2001, Hopeless.NEVER_FITS),
        (RateLimit(0, 2000), 1, Hopeless.BLOCKED),
        (RateLimit(2000, 0), 1, Hopeless.BLOCKED),
        (RateLimit(0, 0), 0, Hopeless.BLOCKED),
    ],
)
def test_what_no_wait_helps_is_told_apart_and_takes_nothing(limit: RateLimit, size: int, hopeless: Hopeless) -> None:
    bucket = TokenBucket(limit, 0)
    assert bucket.take(size, 0, in_the_middle) is hopeless
    assert bucket.tokens == limit.burst_bytes


@pytest.mark.parametrize(
    ("rate", "jitter", "seconds"),
    [
        (1000, 0.5, 2.0),  # 2000 bytes are missing
        (2000, 0.5, 1.0),
        (10**9, 0.5, 1.0),
        (100, 0.5, 20.0),
        (1, 0.5, 60.0),
        (1000, 0.0, 1.6),
        (1000, 1.0, 2.4),
        (10**9, 0.0, 0.8),
        (1, 1.0, 72.0),
    ],
)
def test_time_to_retry_is_that_of_the_missing_tokens(rate: int, jitter: float, seconds: float) -> None:
    bucket = TokenBucket(RateLimit(rate, 2000), 0)
    assert took(bucket, 2000)
    waits = bucket.take(2000, 0, lambda: jitter)
    assert isinstance(waits, RetryAfter)
    assert waits.seconds == pytest.approx(seconds)


def test_gateways_share_the_rate_and_not_the_burst() -> None:  # case 97
    bucket = TokenBucket(RateLimit(8000, 2000, shared_by=4), 0)
    assert took(bucket, 2000)
    assert not took(bucket, 2000, SECOND_NS - 1)
    assert took(bucket, 2000, SECOND_NS)
    assert RateLimit(8000, 2000, shared_by=4).local_rate_bytes == 2000


def test_clock_that_stands_or_goes_back_brings_nothing() -> None:
    bucket = TokenBucket(LIMIT, SECOND_NS)
    assert took(bucket, 2000, SECOND_NS)
    assert not took(bucket, 1, 0)
    assert not took(bucket, 1001, SECOND_NS * 3 // 2)


def test_other_limit_keeps_the_tokens() -> None:
    bucket = TokenBucket(LIMIT, 0)
    assert took(bucket, 500)
    bucket.put_limit(RateLimit(1, 10_000), 0)
    assert bucket.tokens == 1500
    bucket.put_limit(RateLimit(1, 100), 0)
    assert bucket.tokens == 100
    bucket.put_limit(RateLimit(0, 100), 0)
    bucket.put_limit(RateLimit(5, 1000), 9 * SECOND_NS)
    assert bucket.tokens == 100
    bucket.put_limit(RateLimit(5, 1000, shared_by=3), 19 * SECOND_NS)
    assert bucket.tokens == 150


limits = st.builds(
    RateLimit,
    st.integers(0, 50) | st.integers(0, 10**12),
    st.integers(0, 50) | st.integers(0, 10**12),
    st.integers(1, 7),
)
pauses_ns = st.sampled_from([0, 1, 7, SECOND_NS]) | st.integers(0, 100 * SECOND_NS)
sizes = st.integers(0, 60) | st.integers(0, 10**12)


@given(limits, st.lists(st.tuples(pauses_ns, sizes), max_size=60))
def test_never_admits_more_than_the_burst_and_the_rate_of_the_time(
    limit: RateLimit, steps: list[tuple[int, int]]
) -> None:
    bucket = TokenBucket(limit, 0)
    now_ns, admitted = 0, 0
    for pause_ns, size in steps:
        now_ns += pause_ns
        admitted += size if took(bucket, size, now_ns) else 0
        earned = Fraction(limit.rate_bytes * now_ns, SECOND_NS * limit.shared_by)
        assert admitted <= (0 if limit.is_block else limit.burst_bytes + earned)


@given(limits, st.lists(st.tuples(pauses_ns, sizes, st.none() | limits), max_size=60))
def test_tokens_are_those_of_an_exact_bucket_also_when_the_limit_changes(
    limit: RateLimit, steps: list[tuple[int, int, RateLimit | None]]
) -> None:
    bucket = TokenBucket(limit, 0)
    exact, now_ns = Fraction(limit.burst_bytes), 0
    for pause_ns, size, other in steps:
        now_ns += pause_ns
        earned = Fraction(limit.rate_bytes * pause_ns, SECOND_NS * limit.shared_by)
        exact = min(Fraction(limit.burst_bytes), exact + earned)
        if other is not None:
            # Between numbers of gateways parts of a token are rounded down.
            limit = replace(other, shared_by=limit.shared_by)
            bucket.put_limit(limit, now_ns)
            exact = min(exact, Fraction(limit.burst_bytes))
        assert bucket.is_full(now_ns) == (exact == limit.burst_bytes)
        assert bucket.tokens == int(exact)
        is_taken = took(bucket, size, now_ns)
        assert is_taken == (not limit.is_block and size <= exact)
        exact -= size if is_taken else 0


@given(limits, st.lists(st.tuples(pauses_ns, limits), max_size=20))
def test_other_number_of_gateways_never_makes_a_token(limit: RateLimit, steps: list[tuple[int, RateLimit]]) -> None:
    bucket = TokenBucket(limit, 0)
    took(bucket, limit.burst_bytes // 3)
    now_ns = 0
    for pause_ns, other in steps:
        now_ns += pause_ns
        bucket.is_full(now_ns)
        before = bucket.tokens
        bucket.put_limit(other, now_ns)
        assert before - 1 <= bucket.tokens <= before or bucket.tokens == other.burst_bytes < before


@given(limits, st.lists(pauses_ns, max_size=30), st.integers(0, 10**12))
def test_tokens_only_grow_while_nothing_is_taken(limit: RateLimit, pauses: list[int], size: int) -> None:
    bucket = TokenBucket(limit, 0)
    took(bucket, size)
    before, now_ns = bucket.tokens, 0
    for pause_ns in pauses:
        now_ns += pause_ns
        is_full = bucket.is_full(now_ns)
        assert before <= bucket.tokens <= limit.burst_bytes
        assert not is_full or bucket.tokens == limit.burst_bytes
        before = bucket.tokens


@given(limits.filter(lambda limit: not limit.is_block), st.data())
def test_after_the_time_to_retry_there_are_enough_tokens(limit: RateLimit, data: st.DataObject) -> None:
    bucket = TokenBucket(limit, 0)
    assert took(bucket, limit.burst_bytes)
    size = data.draw(st.integers(1, limit.burst_bytes))
    waits = bucket.take(size, 0, in_the_middle)
    assert isinstance(waits, RetryAfter)
    assert 1 <= waits.seconds <= 60
    if waits.seconds < 60:
        assert took(bucket, size, round(waits.seconds * SECOND_NS) + 1)


# All tenants


def limiter(max_buckets: int = 100) -> RateLimiter:
    return RateLimiter(in_the_middle, max_buckets)


def test_tenants_do_not_share_a_bucket() -> None:
    tenants = limiter()
    assert tenants.take(ACME, LIMIT, 2000, 0) is None
    assert isinstance(tenants.take(ACME, LIMIT, 1, 0), RetryAfter)
    assert tenants.take(GLOBEX, LIMIT, 2000, 0) is None


def test_limit_in_force_is_that_of_the_request() -> None:
    tenants = limiter()
    assert tenants.take(ACME, LIMIT, 1500, 0) is None
    assert tenants.take(ACME, RateLimit(1, 400), 450, 0) is Hopeless.NEVER_FITS
    assert tenants.take(ACME, LIMIT, 400, 0) is None
    assert isinstance(tenants.take(ACME, LIMIT, 1, 0), RetryAfter)


def test_who_is_blocked_gets_no_bucket_and_who_gets_blocked_keeps_its_tokens() -> None:
    tenants, block = limiter(), RateLimit(0, 0)
    assert tenants.take(GLOBEX, block, 1, 0) is Hopeless.BLOCKED
    assert len(tenants) == 0
    assert tenants.take(ACME, LIMIT, 2000, 0) is None
    assert tenants.take(ACME, RateLimit(0, 2000), 1, 0) is Hopeless.BLOCKED
    assert isinstance(tenants.take(ACME, LIMIT, 1, 0), RetryAfter)


def test_buckets_that_are_full_again_are_forgotten() -> None:
    tenants = limiter()
    for number in range(50):
        tenants.take(TenantId(f"t{number}"), LIMIT, 2000, 0)
    assert len(tenants) == 50
    tenants.take(TenantId("t0"), LIMIT, 2000, SECOND_NS)
    for number in range(100, 130):
        tenants.take(TenantId(f"t{number}"), LIMIT, 2000, SECOND_NS)
    assert len(tenants) == 31
    assert isinstance(tenants.take(TenantId("t0"), LIMIT, 2000, SECOND_NS), RetryAfter)


def test_buckets_are_bounded_whoever_sends() -> None:
    tenants = limiter(max_buckets=5)
    for number in range(50):
        assert tenants.take(TenantId(f"t{number}"), LIMIT, 2000, 0) is None
        assert len(tenants) <= 5
    assert isinstance(tenants.take(TenantId("t49"), LIMIT, 1, 0), RetryAfter)
    assert tenants.take(TenantId("t0"), LIMIT, 2000, 0) is None
