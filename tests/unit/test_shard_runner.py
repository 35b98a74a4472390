from typing import Any

import pytest

from tenants import _engine
from tenants.processing.flush_record import Claimed, FlushRecord, Place, ShardKey
from tenants.processing.frame_group import FrameGroup, FrameHead
from tenants.processing.profile import TenantProfile
from tenants.processing.shard_runner import MAX_OUTBOX, ShardRunner
from tests.unit.tenant_work import (
    ACME,
    NOW_NS,
    SECOND_NS,
    book,
    collected,
    edges_on,
    group,
    overrides,
    request,
    span,
    spans_on,
)

KEY = ShardKey(ACME, 0, 1)
EPOCH = 7
MINUTE_NS = 60 * SECOND_NS


def profile(**generator: Any) -> TenantProfile:
    return book(overrides(acme=generator or spans_on())).get(ACME)


PLAIN = profile()
CLIENT = request(spans=[span(kind=3, trace_id=b"\x05" * 16, span_id=b"\x06" * 8)], service="shop")
SERVER = request(
    spans=[span(kind=2, trace_id=b"\x05" * 16, span_id=b"\x09" * 8, parent_span_id=b"\x06" * 8)], service="stock"
)


class Tenant:
    """A runner, and what its collector makes of the records."""

    def __init__(self, settings: TenantProfile = PLAIN) -> None:
        self.profile = settings
        self.epoch = EPOCH
        self.runner = ShardRunner(KEY, Claimed(EPOCH, b""), settings, NOW_NS)
        self.registry = _engine.Registry(settings.plan, NOW_NS // 1_000_000)
        self.mirror = _engine.Mirror(600 * SECOND_NS)
        self.merged = 0

    def apply(self, *names: str, at_ns: int = NOW_NS, body: bytes = b"") -> Place | None:
        return self.apply_group(group(self.profile, *names, body=body), at_ns)

    def apply_group(self, frames: FrameGroup, at_ns: int = NOW_NS) -> Place | None:
        (head,) = frames.heads
        return self.runner.apply(head, memoryview(frames.payload), self.profile, at_ns)

    def flush(self, *, at_ns: int = NOW_NS) -> tuple[FlushRecord, ...]:
        return self.runner.flush(Place(self.epoch, self.merged), self.profile, at_ns)

    def merge(self, records: tuple[FlushRecord, ...], *, at_ns: int = NOW_NS) -> None:
        for record in records:
            if record.place.epoch == self.epoch and record.place.sequence == self.merged + 1:
                self.registry.merge(self.epoch, record.data, NOW_NS)
                self.mirror.apply(KEY.index, KEY.count, record.data, at_ns)
                self.merged += 1

    def begin_successor(self, at_ns: int = NOW_NS) -> None:
        """The runner is lost; its successor claims the range."""
        self.epoch += 1
        state = self.mirror.claim(KEY.index, KEY.count, at_ns)
        self.runner = ShardRunner(KEY, Claimed(self.epoch, state), self.profile, at_ns)
        self.merged = 0

    def calls(self) -> dict[str, float]:
        return collected(self.registry)


def test_quiet_shard_has_nothing_to_say() -> None:
    tenant = Tenant()
    assert tenant.flush() == ()
    tenant.apply("a")
    tenant.merge(tenant.flush())
    assert tenant.flush() == ()


def test_records_come_again_under_their_number_until_they_are_acknowledged() -> None:
    tenant = Tenant()
    tenant.apply("a")
    first = tenant.flush()
    assert [record.key for record in first] == [KEY]
    assert tenant.flush() == first
    tenant.apply("a", "b")
    both = tenant.flush()
    assert both[:1] == first
    assert both[1].place.sequence == first[0].place.sequence + 1
    tenant.merge(both)
    tenant.apply("b")
    third = tenant.flush()
    assert [record.place.sequence for record in third] == [both[1].place.sequence + 1]
    tenant.merge(third)
    assert tenant.calls() == {"a": 2, "b": 2}


def test_shard_counts_in_place_while_its_outbox_is_full() -> None:
    tenant = Tenant()
    for _ in range(MAX_OUTBOX + 5):
        tenant.apply("a")
        waiting = tenant.flush()
    assert len(waiting) == MAX_OUTBOX
    assert tenant.runner.stats()["outbox_records"] == MAX_OUTBOX
    tenant.merge(waiting)
    tenant.merge(tenant.flush())
    assert tenant.calls() == {"a": MAX_OUTBOX + 5}


def test_damaged_frame_is_refused_and_counts_nothing() -> None:
    tenant = Tenant()
    frames = group(PLAIN, "a")
    damaged = bytearray(frames.payload)
    damaged[10] ^= 1
    with pytest.raises(_engine.MalformedFrame):
        tenant.apply_group(FrameGroup(frames.heads, bytes(damaged)))
    assert tenant.flush() == ()
    # It is not taken for one that was counted.
    tenant.apply_group(frames)
    tenant.merge(tenant.flush())
    assert tenant.calls() == {"a": 1}


# What comes again


def test_place_of_a_frame_is_the_record_that_will_hold_it() -> None:
    tenant = Tenant()
    assert tenant.apply("a") == Place(EPOCH, 1)
    assert tenant.apply("b") == Place(EPOCH, 1)
    waiting = tenant.flush()
    assert tenant.apply("a") == Place(EPOCH, 2)
    assert tenant.runner.durable == Place(EPOCH, 0)
    tenant.merge(waiting)
    tenant.flush()
    assert tenant.runner.durable == Place(EPOCH, 1)


def test_request_that_comes_again_is_counted_once_and_in_the_ledger_of_the_next_record() -> None:
    tenant = Tenant()
    frames = group(PLAIN, "a")
    assert tenant.apply_group(frames) == tenant.apply_group(frames) == Place(EPOCH, 1)
    tenant.merge(tenant.flush())
    # Its ledger is not in the record before.
    assert tenant.apply_group(frames) == Place(EPOCH, 2)
    tenant.apply("b")
    assert tenant.apply_group(frames) == Place(EPOCH, 2)
    tenant.merge(tenant.flush())
    assert tenant.calls() == {"a": 1, "b": 1}
    totals = tenant.registry.ledger_totals()
    assert (totals["gateway", "received"], totals["gateway", "duplicate"]) == (5, 3)


def test_request_is_forgotten_after_a_while() -> None:
    tenant = Tenant()
    frames = group(PLAIN, "a")
    tenant.apply_group(frames)
    tenant.merge(tenant.flush())
    for minute in range(1, 12):
        tenant.apply("b", at_ns=NOW_NS + minute * MINUTE_NS)
        tenant.merge(tenant.flush(at_ns=NOW_NS + minute * MINUTE_NS))
    tenant.apply_group(frames, NOW_NS + 11 * MINUTE_NS)
    tenant.merge(tenant.flush(at_ns=NOW_NS + 11 * MINUTE_NS))
    assert tenant.calls() == {"a": 2, "b": 11}


@pytest.mark.parametrize("is_pulled", [True, False], ids=["journal away", "collector away"])
def test_request_is_known_while_what_was_counted_waits_for_the_journal(is_pulled: bool) -> None:
    tenant = Tenant()
    frames = group(PLAIN, "a")
    tenant.apply_group(frames)
    waiting = tenant.flush()
    if not is_pulled:
        # Journalled, but its shard has not heard of it.
        tenant.merge(waiting)
    for minute in range(1, 61):
        tenant.apply("b", at_ns=NOW_NS + minute * MINUTE_NS)
        if is_pulled:
            tenant.flush(at_ns=NOW_NS + minute * MINUTE_NS)
    later_ns = NOW_NS + 60 * MINUTE_NS
    # Everything is journalled at once, and whoever sent the first request hears of it a little later.
    while records := tenant.flush(at_ns=later_ns):
        tenant.merge(records, at_ns=later_ns)
        later_ns += SECOND_NS
    later_ns += 5 * MINUTE_NS
    tenant.apply("b", at_ns=later_ns)
    tenant.merge(tenant.flush(at_ns=later_ns), at_ns=later_ns)
    tenant.apply_group(frames, later_ns)
    tenant.merge(tenant.flush(at_ns=later_ns), at_ns=later_ns)
    tenant.begin_successor(later_ns + SECOND_NS)
    tenant.apply_group(frames, later_ns + SECOND_NS)
    tenant.merge(tenant.flush(at_ns=later_ns + SECOND_NS))
    assert tenant.calls() == {"a": 1, "b": 61}


# Successors


def test_successor_knows_what_was_journalled_and_counts_the_rest_when_it_comes_again() -> None:
    tenant = Tenant()
    first, second = group(PLAIN, "a"), group(PLAIN, "b")
    tenant.apply_group(first)
    tenant.merge(tenant.flush())
    tenant.apply_group(second)
    tenant.flush()  # lost on its way
    tenant.begin_successor()
    assert tenant.apply_group(first) == Place(EPOCH + 1, 1)
    assert tenant.apply_group(second) == Place(EPOCH + 1, 1)
    tenant.merge(tenant.flush())
    assert tenant.calls() == {"a": 1, "b": 1}


def test_successor_goes_on_with_the_half_edges() -> None:
    tenant = Tenant(profile(**edges_on()))
    tenant.apply(body=CLIENT)
    tenant.merge(tenant.flush())
    tenant.begin_successor()
    assert tenant.runner.stats()["open_edges"] == 1
    tenant.apply(body=SERVER)
    tenant.merge(tenant.flush())
    assert (tenant.runner.stats()["open_edges"], tenant.registry.stats()["edges"]) == (0, 1)
    assert tenant.mirror.stats()["open_edges"] == 0


def test_released_runner_hands_over_everything_and_counts_no_more() -> None:
    tenant = Tenant(profile(**edges_on()))
    tenant.apply(body=CLIENT)
    released = tenant.runner.release(NOW_NS)
    assert released == tenant.runner.release(NOW_NS) == tenant.flush()
    assert tenant.apply(body=SERVER) is None
    assert (tenant.runner.is_retired, tenant.runner.is_spent) == (True, False)
    tenant.merge(released)
    assert tenant.flush() == ()
    assert tenant.runner.is_spent
    # The half edge waits for its other half elsewhere.
    assert tenant.mirror.stats()["open_edges"] == 1
    assert tenant.registry.stats()["expired_edges_client"] == 0


# Settings


def test_change_of_settings_hands_over_what_was_counted_under_the_old_ones() -> None:
    tenant = Tenant(profile(**spans_on(processor={"span_metrics": {"histogram_buckets": [1, 2]}})))
    tenant.apply("a")
    before = tenant.registry
    tenant.profile = profile(**spans_on(processor={"span_metrics": {"histogram_buckets": [5]}}))
    tenant.apply("a")
    records = tenant.flush()
    assert len(records) == 2
    tenant.merge(records)
    assert collected(before) == {"a": 2}


def test_equal_settings_in_another_object_change_nothing() -> None:
    tenant = Tenant()
    tenant.apply("a")
    tenant.merge(tenant.flush())
    tenant.flush()
    tenant.profile = profile()
    assert tenant.profile.plan is not PLAIN.plan
    tenant.apply("a")
    tenant.registry = _engine.Registry(tenant.profile.plan, NOW_NS // 1_000_000)
    # Nothing is defined again, so who knows nothing cannot read it.
    with pytest.raises(_engine.MalformedFrame):
        tenant.merge(tenant.flush())


def test_half_edges_outlive_a_change_of_settings() -> None:
    tenant = Tenant(profile(**edges_on()))
    tenant.apply(body=CLIENT)
    tenant.profile = profile(**edges_on(processor={"service_graphs": {"dimensions": ["x"]}}))
    tenant.apply(body=SERVER)
    tenant.merge(tenant.flush())
    assert tenant.registry.stats()["edges"] == 1
    assert tenant.registry.stats()["active_series"] > 0
    assert tenant.runner.stats()["open_edges"] == 0


# Edges and the end


def test_edges_expire_without_news_from_the_tenant() -> None:
    tenant = Tenant(profile(**edges_on()))
    tenant.apply(body=request(spans=[span(kind=3)], service="shop"))
    tenant.merge(tenant.flush())
    assert tenant.runner.stats()["open_edges"] == 1
    tenant.merge(tenant.flush(at_ns=NOW_NS + 10 * SECOND_NS))
    assert tenant.runner.stats()["open_edges"] == 0
    assert tenant.registry.stats()["expired_edges_client"] == 1


def test_shard_retires_when_all_is_handed_over_and_it_was_idle_for_long() -> None:
    tenant = Tenant()
    tenant.apply("a")
    late = NOW_NS + 700 * SECOND_NS
    assert not tenant.runner.retire_if_idle(late)  # not flushed
    waiting = tenant.flush()
    assert not tenant.runner.retire_if_idle(late)  # not acknowledged
    tenant.merge(waiting)
    tenant.flush()
    assert not tenant.runner.retire_if_idle(late)  # its series are not forgotten yet
    tenant.merge(tenant.flush(at_ns=late))
    tenant.flush(at_ns=late)
    assert not tenant.runner.retire_if_idle(NOW_NS)  # used since
    assert tenant.runner.retire_if_idle(late)
    assert tenant.apply("a", at_ns=late) is None
    assert tenant.calls() == {"a": 1}


def test_shard_that_has_forgotten_its_series_does_not_retire_before_their_last_record_is_acknowledged() -> None:
    tenant = Tenant()
    tenant.apply("a")
    tenant.flush()
    late = NOW_NS + 700 * SECOND_NS
    waiting = tenant.flush(at_ns=late)
    assert tenant.runner.stats()["entities"] == 0
    assert not tenant.runner.retire_if_idle(late)
    tenant.merge(waiting)
    while tenant.flush(at_ns=late):
        tenant.merge(tenant.flush(at_ns=late))
    assert tenant.runner.retire_if_idle(late)


def test_what_comes_again_to_a_part_of_its_range_waits_for_no_record() -> None:
    """The ledger tells of a duplicate in the range of its trace, and nowhere else."""
    tenant = Tenant()
    trace_id = b"\x01" * 16
    frames = group(PLAIN, body=request(spans=[span("a", trace_id=trace_id)]))
    (head,) = frames.heads
    tenant.apply_group(frames)
    tenant.merge(tenant.flush())
    of_trace = _engine.trace_hash(trace_id) >> 63
    for index in range(2):
        key = ShardKey(ACME, index, 2)
        half = ShardRunner(key, Claimed(EPOCH + 1, tenant.mirror.claim(index, 2, NOW_NS)), PLAIN, NOW_NS)
        again = FrameHead(key, (0, 1), head.fingerprint, head.length)
        place = half.apply(again, memoryview(frames.payload), PLAIN, NOW_NS)
        assert half.durable == Place(EPOCH + 1, 0)
        assert place == Place(EPOCH + 1, int(index == of_trace))
        assert len(half.flush(None, PLAIN, NOW_NS)) == int(index == of_trace)
