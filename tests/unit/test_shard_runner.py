from typing import Any

import pytest

from tenants import _engine
from tenants.processing.flush_record import FlushRecord, ShardKey
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
READER = ("collector-0", 1)
NEXT_READER = ("collector-0", 2)


def profile(**generator: Any) -> TenantProfile:
    return book(overrides(acme=generator or spans_on())).get(ACME)


PLAIN = profile()


class Tenant:
    """A runner and a registry that is fed by hand."""

    def __init__(self, settings: TenantProfile = PLAIN) -> None:
        self.profile = settings
        self.runner = ShardRunner(KEY, settings, NOW_NS)
        self.begin_registry()

    def begin_registry(self) -> None:
        self.registry = _engine.Registry(self.profile.plan, NOW_NS // 1_000_000)
        self.merged = 0

    def apply(self, *names: str, at_ns: int = NOW_NS, body: bytes = b"") -> bool:
        return self.runner.apply(memoryview(group(self.profile, *names, body=body).payload), self.profile, at_ns)

    def flush(self, *, reader: object = READER, at_ns: int = NOW_NS) -> tuple[FlushRecord, ...]:
        return self.runner.flush(reader, self.merged, self.profile, at_ns)  # type: ignore[arg-type]

    def merge(self, records: tuple[FlushRecord, ...]) -> None:
        for record in records:
            if record.sequence > self.merged:
                self.registry.merge(0, record.data, NOW_NS)
                self.merged = record.sequence

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
    assert both[1].sequence == first[0].sequence + 1
    tenant.merge(both)
    tenant.apply("b")
    third = tenant.flush()
    assert [record.sequence for record in third] == [both[1].sequence + 1]
    tenant.merge(third)
    assert tenant.calls() == {"a": 2, "b": 2}


def test_sequences_begin_above_those_of_a_former_shard_of_the_same_key() -> None:
    former, later = Tenant(), ShardRunner(KEY, PLAIN, NOW_NS + SECOND_NS)
    former.apply("a")
    later.apply(memoryview(group(PLAIN, "a").payload), PLAIN, NOW_NS + SECOND_NS)
    (old,), (new,) = former.flush(), later.flush(READER, 0, PLAIN, NOW_NS + SECOND_NS)
    assert new.sequence > old.sequence


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
    frame = bytearray(group(PLAIN, "a").payload)
    frame[10] ^= 1
    with pytest.raises(_engine.MalformedFrame):
        tenant.runner.apply(memoryview(bytes(frame)), PLAIN, NOW_NS)
    assert tenant.flush() == ()


# A collector that lost what it knew


def test_new_collector_can_read_what_waits_and_what_follows() -> None:
    tenant = Tenant()
    tenant.apply("a")
    tenant.merge(tenant.flush())
    tenant.apply("a", "b")
    tenant.flush()  # lost on its way
    tenant.begin_registry()
    tenant.merge(tenant.flush(reader=NEXT_READER))
    tenant.apply("a", "b", "c")
    tenant.merge(tenant.flush(reader=NEXT_READER))
    assert tenant.calls() == {"a": 2, "b": 2, "c": 1}


def test_first_collector_is_sent_no_definitions_of_its_own() -> None:
    tenant = Tenant()
    assert tenant.flush() == ()
    tenant.apply("a")
    assert len(tenant.flush()) == 1


def test_collectors_that_die_one_after_the_other_do_not_fill_the_outbox() -> None:
    tenant = Tenant()
    tenant.apply("a")
    tenant.merge(tenant.flush())
    for life in range(20):
        waiting = tenant.flush(reader=("collector-0", 2 + life))
        tenant.merged = 0
    assert len(waiting) == 1
    tenant.apply("a")
    tenant.begin_registry()
    tenant.merge(tenant.flush(reader=("collector-0", 99)))
    assert tenant.calls() == {"a": 1}


def test_what_the_same_collector_has_merged_is_not_counted_again_when_it_asks_for_definitions() -> None:
    tenant = Tenant()
    tenant.apply("a")
    tenant.merge(tenant.flush())
    tenant.merge(tenant.flush(reader=NEXT_READER))
    tenant.apply("a")
    tenant.merge(tenant.flush(reader=NEXT_READER))
    assert tenant.calls() == {"a": 2}


def test_records_from_before_a_change_of_settings_are_read_with_their_own_definitions() -> None:
    tenant = Tenant()
    tenant.apply("a", "b")
    tenant.merge(tenant.flush())
    tenant.apply("b")
    tenant.flush()  # waits, and names b by a number that only merged records define
    tenant.profile = profile(**spans_on(max_active_series=1000))
    tenant.apply("c")
    tenant.flush()
    tenant.begin_registry()
    tenant.merge(tenant.flush(reader=NEXT_READER))
    tenant.apply("c", "a")
    tenant.merge(tenant.flush(reader=NEXT_READER))
    assert tenant.calls() == {"a": 1, "b": 1, "c": 2}


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
    tenant.begin_registry()
    # Nothing is defined again, so who knows nothing cannot read it.
    with pytest.raises(_engine.MalformedFrame):
        tenant.merge(tenant.flush())


def test_half_edges_outlive_a_change_of_settings() -> None:
    tenant = Tenant(profile(**edges_on()))
    half = {"trace_id": b"\x05" * 16, "span_id": b"\x06" * 8}
    client = request(spans=[span(kind=3, **half)], service="shop")
    server = request(
        spans=[span(kind=2, trace_id=b"\x05" * 16, span_id=b"\x09" * 8, parent_span_id=b"\x06" * 8)], service="stock"
    )
    tenant.apply(body=client)
    tenant.profile = profile(**edges_on(processor={"service_graphs": {"dimensions": ["x"]}}))
    tenant.apply(body=server)
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


def test_closed_edges_are_handed_over_even_if_the_outbox_is_full() -> None:
    tenant = Tenant(profile(**edges_on()))
    for index in range(MAX_OUTBOX + 1):
        tenant.apply(body=request(spans=[span(kind=3, trace_id=bytes([index + 1]) * 16)], service="shop"))
        tenant.flush()
    tenant.runner.close_edges(NOW_NS)
    tenant.merge(tenant.flush())
    assert tenant.registry.stats()["expired_edges_client"] == MAX_OUTBOX + 1


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
    assert not tenant.apply("a", at_ns=late)
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
