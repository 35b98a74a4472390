"""A shard's successor goes on where its last record ended, and whatever is sent again is counted once.

Drawn lives of a tenant are lived twice: by one shard that nothing happens to, and by shards that die, are cut anew and
are sent requests again. All series and counters are alike in the end.
"""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenants._engine import MalformedFrame, Mirror, Plan, Registry, Shard, durable_part, fingerprint, split
from tests.edge_strategies import edge_scripts
from tests.engine_driver import EngineDriver
from tests.plan_strategies import MANY, plans
from tests.reference import Collection
from tests.remote_write import decode
from tests.script_strategies import NOW_NS, Collect, Flush, Push, Script, scripts
from tests.traces import (
    CLIENT,
    SECOND_NS,
    SERVER,
    batch,
    filter_block,
    plan,
    request,
    service_graphs_plan,
    span,
    span_metrics_plan,
)
from tests.unit.comparing import assert_counters_alike, assert_same
from tests.unit.handed_over import HandedOver

# A failing example is made small for up to five minutes before it is shown.
pytestmark = pytest.mark.timeout(400 if settings.get_current_profile_name() == "quick" else 3600)

MANY_ITEMS = plans(max_items=st.just(MANY))
COUNTS = [1, 2, 3, 4]
WINDOW_NS = 600 * SECOND_NS


def disturb(tenant: HandedOver, data: st.DataObject, now_ns: int, counts: list[int]) -> None:
    """Let something happen that must not show."""
    match data.draw(st.sampled_from(["nothing", "nothing", "lose", "rescale", "repeat", "restart"])):
        case "lose":
            indexes = st.sets(st.integers(0, len(tenant.shards) - 1), min_size=1)
            tenant.lose(data.draw(indexes), now_ns)
        case "rescale":
            tenant.rescale(data.draw(st.sampled_from(counts)), now_ns)
        case "repeat" if tenant.flushed or tenant.unflushed:
            sent = data.draw(st.sampled_from(tenant.flushed + tenant.unflushed))
            tenant.send(replace(sent, now_ns=now_ns))
        case "restart":
            tenant.restart_collector()


def live(script: Script, tenant: HandedOver, data: st.DataObject, counts: list[int]) -> None:
    """Live a script disturbed, and compare with the same life undisturbed."""
    calm = EngineDriver(script.plan, strict_ids=True)
    for step in script.steps:
        match step:
            case Push(now_ns, pushed, skip_generation):
                for driver in (calm, tenant):
                    driver.push(pushed, now_ns, skip_generation=skip_generation)
                disturb(tenant, data, now_ns, counts)
            case Flush(now_ns, close_edges):
                for driver in (calm, tenant):
                    driver.flush(now_ns, close_edges=close_edges)
                disturb(tenant, data, now_ns, counts)
            case Collect():
                expected = calm.collect()
                assert_same(tenant.collect(), expected, script.plan)
                without_exemplars = Collection(expected.series, {}, expected.histograms)
                assert_same(tenant.durable.collect(), without_exemplars, script.plan)
    assert_counters_alike(tenant, calm)  # type: ignore[arg-type]  # a model has the same counters
    assert tenant.mirror.stats()["open_edges"] == sum(shard.stats()["open_edges"] for shard in tenant.shards)
    assert_ledgers_alike(tenant, calm)


def assert_ledgers_alike(tenant: HandedOver, calm: EngineDriver) -> None:
    """Check that both ledgers tell the same, but for what came again."""
    for driver in (calm, tenant):
        driver.flush(calm.now_ns)
    told = tenant.registry.ledger_totals()
    again = told.pop(("gateway", "duplicate"), 0)
    assert (tenant.ledger.closes, again >= 0) == (True, True)
    told["gateway", "received"] = told.get(("gateway", "received"), 0) - again
    expected = calm.registry.ledger_totals()
    assert {outcome: spans for outcome, spans in told.items() if spans} == expected
    assert tenant.durable.registry.ledger() == tenant.registry.ledger()


@given(script=scripts(MANY_ITEMS, odd_ids=False), shards=st.sampled_from(COUNTS), data=st.data())
def test_no_death_no_rescale_and_no_repetition_shows(script: Script, shards: int, data: st.DataObject) -> None:
    live(script, HandedOver(script.plan, shards=shards), data, COUNTS)


@given(script=edge_scripts(st.just(MANY)), shards=st.sampled_from(COUNTS), data=st.data())
def test_edges_live_on_in_other_shards(script: Script, shards: int, data: st.DataObject) -> None:
    live(script, HandedOver(script.plan, shards=shards), data, COUNTS)


@given(script=edge_scripts(st.integers(0, 3)), data=st.data())
def test_edges_live_on_in_little_room(script: Script, data: st.DataObject) -> None:
    # One shard: the limit is per shard.
    live(script, HandedOver(script.plan), data, [1])


# By hand: what scripts do not draw


def settings_of(span_metrics: dict[str, Any] | None, **graphs: Any) -> dict[str, Any]:
    return plan(span_metrics, service_graphs_plan(**graphs) if graphs else None, stale_duration_s=1e6)


EDGES = settings_of(None, wait_s=10.0, dimensions=["tier"])
CALLS = settings_of(span_metrics_plan())
CALL = request(batch({"service.name": "shop"}, span(kind=CLIENT, end_ns=NOW_NS, attributes={"tier": "front"})))
CALL_WITHOUT_TIER = request(batch({"service.name": "shop"}, span(kind=CLIENT, end_ns=NOW_NS)))
ANSWER = request(
    batch({"service.name": "stock"}, span(kind=SERVER, span_id=b"\x02" * 8, parent=b"\x01" * 8, end_ns=NOW_NS))
)


class Tenant:
    """One range of a tenant: whoever counts for it, and the collector."""

    def __init__(self, settings: dict[str, Any], window_ns: int = WINDOW_NS) -> None:
        self.plan = Plan(json.dumps(settings))
        self.mirror = Mirror(window_ns)
        self.registry = Registry(self.plan, 0)
        self.window_ns = window_ns
        self.source = 0
        self.begin(NOW_NS)

    def begin(self, now_ns: int, settings: dict[str, Any] | None = None) -> None:
        """Let a successor begin, perhaps with other settings."""
        if settings is not None:
            self.plan = Plan(json.dumps(settings))
            self.registry.set_plan(self.plan)
        state = self.mirror.claim(0, 1, now_ns)
        self.source += 1
        self.shard = Shard(self.plan, deduplication_window_ns=self.window_ns, state=state)

    def apply(self, sent: Any, now_ns: int = NOW_NS) -> bool:
        """Split a request and count it; return whether it is one more that is known."""
        body = sent.SerializeToString()
        ((_, frame),) = split(body, self.plan, 1, NOW_NS).frames
        known = self.shard.stats()["fingerprints"]
        self.shard.apply(frame, now_ns, fingerprint=fingerprint(body))
        return self.shard.stats()["fingerprints"] > known

    def flush(self, now_ns: int = NOW_NS) -> bytes:
        record = self.shard.flush(now_ns)
        self.take(record, now_ns)
        return record

    def take(self, record: bytes, now_ns: int = NOW_NS) -> None:
        if record:
            self.registry.merge(self.source, record, now_ns)
            self.mirror.apply(0, 1, record, now_ns)

    def series(self, name: str) -> list[dict[str, str]]:
        """Return the labels of a metric's series."""
        (written,) = self.registry.collect(NOW_NS // 10**6 + 100_000, [], 2000)
        keys = (dict(key) for key in decode(written.body))
        return [key for key in keys if key.pop("__name__") == name]


MINUTE_NS = 60 * SECOND_NS
WINDOW_MINUTES = WINDOW_NS // MINUTE_NS


def other_call(number: int) -> Any:
    """Return a request that is like no other."""
    return request(batch({"service.name": "shop"}, span(trace_id=number.to_bytes(16), end_ns=NOW_NS)))


def test_request_that_comes_again_is_counted_once_until_the_window_is_over() -> None:
    tenant = Tenant(CALLS)
    assert tenant.apply(CALL)
    assert not tenant.apply(CALL)
    assert tenant.shard.stats()["fingerprints"] == 1
    tenant.flush()
    for minute in range(1, WINDOW_MINUTES + 1):
        assert tenant.apply(other_call(minute), NOW_NS + minute * MINUTE_NS)
        tenant.flush(NOW_NS + minute * MINUTE_NS)
    tenant.begin(NOW_NS + WINDOW_NS)
    assert not tenant.apply(CALL, NOW_NS + WINDOW_NS)
    assert tenant.mirror.stats()["fingerprints"] == 1 + WINDOW_MINUTES
    later_ns = NOW_NS + WINDOW_NS + 2 * SECOND_NS
    tenant.begin(later_ns)
    assert tenant.mirror.stats()["fingerprints"] == WINDOW_MINUTES
    assert tenant.apply(CALL, later_ns)


def test_request_is_known_however_long_nobody_counted_for_its_range() -> None:
    tenant = Tenant(CALLS)
    tenant.apply(CALL)
    # It is safe so late, and its shard is lost before anybody hears of it.
    tenant.flush(NOW_NS + 2 * WINDOW_NS)
    for later in (5, 50):
        tenant.begin(NOW_NS + later * WINDOW_NS)
        assert not tenant.apply(CALL, NOW_NS + later * WINDOW_NS)


def test_shard_forgets_requests_itself() -> None:
    tenant = Tenant(CALLS)
    tenant.apply(CALL)
    for minute in range(1, WINDOW_MINUTES + 2):
        tenant.apply(other_call(minute), NOW_NS + minute * MINUTE_NS)
        tenant.flush(NOW_NS + minute * MINUTE_NS)
    assert tenant.shard.stats()["fingerprints"] == WINDOW_MINUTES + 1
    assert tenant.shard.stats()["fingerprints_dropped"] == 0


def test_time_that_is_held_does_not_make_a_shard_forget() -> None:
    tenant = Tenant(CALLS)
    for minute in range(3 * WINDOW_MINUTES):
        now_ns = NOW_NS + minute * MINUTE_NS
        tenant.apply(other_call(1 + minute), now_ns)
        tenant.shard.hold_fingerprints(now_ns - MINUTE_NS, now_ns)
        tenant.flush(now_ns)
    assert not tenant.apply(other_call(1), now_ns)


def test_without_a_fingerprint_nothing_is_remembered() -> None:
    tenant = Tenant(CALLS)
    ((_, frame),) = split(CALL.SerializeToString(), tenant.plan, 1, NOW_NS).frames
    for nothing in (None, b""):
        assert tenant.shard.apply(frame, NOW_NS, fingerprint=nothing)
    assert tenant.shard.stats()["fingerprints"] == 0


def test_damaged_frame_is_not_remembered() -> None:
    tenant = Tenant(CALLS)
    body = CALL.SerializeToString()
    ((_, frame),) = split(body, tenant.plan, 1, NOW_NS).frames
    with pytest.raises(MalformedFrame):
        tenant.shard.apply(frame[:-1], NOW_NS, fingerprint=fingerprint(body))
    assert tenant.apply(CALL)


def test_frame_for_another_range_leaves_no_trace() -> None:
    tenant = Tenant(CALLS)
    shard = Shard(tenant.plan, index=1, count=2)
    ((index, frame),) = split(CALL.SerializeToString(), tenant.plan, 2, NOW_NS).frames
    assert not shard.apply(frame, NOW_NS, fingerprint=b"\x01" * 16, made_for=(0, 2))
    assert shard.stats()["fingerprints"] == 0
    # Rows of the other half are not counted, whatever the frame was made for.
    other = Shard(tenant.plan, index=1 - index, count=2)
    assert other.apply(frame, NOW_NS, fingerprint=b"\x01" * 16, made_for=(0, 1))
    assert other.stats()["entities"] == 0


def test_record_that_only_tells_of_a_request_is_a_record() -> None:
    tenant = Tenant(settings_of(None, wait_s=10.0, filter_policies=[{"exclude": filter_block("strict", {"name": ""})}]))
    tenant.apply(CALL)
    assert tenant.flush()
    assert tenant.mirror.stats() | {"state_bytes": 0} == {
        "open_edges": 0,
        "fingerprints": 1,
        "markers": 1,
        "ranges": 1,
        "state_bytes": 0,
    }
    assert tenant.flush() == b""


def test_marker_is_known_to_the_successor_and_forgotten_in_time() -> None:
    exclude = [{"exclude": filter_block("strict", {"kind": "SPAN_KIND_CLIENT"})}]
    tenant = Tenant(settings_of(None, wait_s=10.0, filter_policies=exclude))
    tenant.apply(CALL)
    tenant.flush()
    tenant.begin(NOW_NS)
    tenant.apply(ANSWER)
    tenant.flush()
    assert tenant.registry.stats()["dropped_edges"] == 1
    tenant.flush(NOW_NS + 10 * SECOND_NS)
    tenant.begin(NOW_NS + 10 * SECOND_NS)
    assert tenant.mirror.stats()["markers"] == 0


def test_edge_waits_in_the_successor_as_long_as_it_would_have() -> None:
    tenant = Tenant(EDGES)
    tenant.apply(CALL)
    tenant.flush()
    tenant.begin(NOW_NS + 9 * SECOND_NS)
    tenant.flush(NOW_NS + 10 * SECOND_NS - 1)
    assert tenant.mirror.stats()["open_edges"] == tenant.shard.stats()["open_edges"] == 1
    tenant.flush(NOW_NS + 10 * SECOND_NS)
    assert tenant.mirror.stats()["open_edges"] == tenant.shard.stats()["open_edges"] == 0
    assert tenant.registry.stats()["expired_edges_client"] == 1


@pytest.mark.parametrize("changes_at", ["the shard", "its successor", "the successor of both"])
def test_dimension_of_an_edge_finds_its_slot_under_other_settings(changes_at: str) -> None:
    tenant = Tenant(EDGES)
    tenant.apply(CALL)
    tenant.flush()
    changed = settings_of(None, wait_s=10.0, dimensions=["first", "tier"])
    if changes_at == "its successor":
        tenant.begin(NOW_NS, changed)
    else:
        tenant.plan = Plan(json.dumps(changed))
        tenant.take(tenant.shard.set_plan(tenant.plan, NOW_NS))
        tenant.registry.set_plan(tenant.plan)
    if changes_at == "the successor of both":
        tenant.flush()
        tenant.begin(NOW_NS)
    tenant.apply(ANSWER)
    tenant.flush()
    assert tenant.series("traces_service_graph_request_total") == [
        {"client": "shop", "server": "stock", "tier": "front"}
    ]
    assert tenant.mirror.stats()["open_edges"] == 0


def receiver(service: str, number: int, **attributes: str) -> Any:
    """Return the request with a server's span that answers ``CALL``."""
    one = span(kind=SERVER, span_id=bytes([number]) * 8, parent=b"\x01" * 8, end_ns=NOW_NS, attributes=attributes)
    return request(batch({"service.name": service}, one))


@pytest.mark.parametrize("every_receiver_in", ["the same shard", "successors"])
def test_client_that_was_answered_stays_for_further_receivers(every_receiver_in: str) -> None:
    tenant = Tenant(settings_of(None, wait_s=10.0, dimensions=["tier"], count_every_receiver=True))
    # The first one has no name: it waits with the client for one that has, and leaves it nothing else.
    for sent in (receiver("", 2, tier="back"), CALL_WITHOUT_TIER, receiver("stock", 3), receiver("bill", 4)):
        tenant.apply(sent)
        tenant.flush()
        if every_receiver_in == "successors":
            tenant.begin(NOW_NS)
    tenant.flush(NOW_NS + 10 * SECOND_NS)
    assert sorted(tenant.series("traces_service_graph_request_total"), key=lambda labels: labels["server"]) == [
        {"client": "shop", "server": "bill"},
        {"client": "shop", "server": "stock", "tier": "back"},
    ]
    assert tenant.registry.stats()["edges"] == 2
    assert tenant.mirror.stats()["open_edges"] == 0


@pytest.mark.parametrize("changes_at", ["the shard", "its successor"])
def test_edges_and_markers_end_with_their_processor(changes_at: str) -> None:
    exclude = [{"exclude": filter_block("strict", {"kind": "SPAN_KIND_SERVER"})}]
    tenant = Tenant(settings_of(span_metrics_plan(), wait_s=10.0, filter_policies=exclude))
    tenant.apply(CALL)
    tenant.apply(request(batch({"service.name": "s"}, span(kind=SERVER, parent=b"\x05" * 8, end_ns=NOW_NS))))
    tenant.flush()
    assert (tenant.mirror.stats()["open_edges"], tenant.mirror.stats()["markers"]) == (1, 1)
    if changes_at == "its successor":
        tenant.begin(NOW_NS, CALLS)
    else:
        tenant.plan = Plan(json.dumps(CALLS))
        tenant.take(tenant.shard.set_plan(tenant.plan, NOW_NS))
        tenant.registry.set_plan(tenant.plan)
    assert tenant.mirror.stats()["open_edges"] == 1
    tenant.flush()
    assert (tenant.mirror.stats()["open_edges"], tenant.mirror.stats()["markers"]) == (0, 0)
    assert tenant.flush() == b""


def test_ranges_are_carved_and_what_is_left_stays_for_others() -> None:
    tenant = Tenant(EDGES)
    for number in range(20):
        one = span(kind=CLIENT, trace_id=bytes([number + 1]) * 16, end_ns=NOW_NS)
        tenant.apply(request(batch({"service.name": "shop"}, one)))
    tenant.flush()
    assert tenant.mirror.ranges() == [(0, 1, 20)]
    tenant.mirror.claim(1, 3, NOW_NS)
    (_, _, left), (_, _, middle) = tenant.mirror.ranges()
    assert left > 0
    assert middle > 0
    assert left + middle == 20
    tenant.mirror.claim(0, 3, NOW_NS)
    tenant.mirror.claim(2, 3, NOW_NS)
    assert [(index, count) for index, count, _ in tenant.mirror.ranges()] == [(0, 3), (1, 3), (2, 3)]
    assert tenant.mirror.stats()["fingerprints"] == 60
    tenant.mirror.claim(0, 1, NOW_NS)
    assert tenant.mirror.ranges() == [(0, 1, 20)]
    assert tenant.mirror.stats()["fingerprints"] == 20


def test_what_is_damaged_or_of_another_range_is_refused() -> None:
    tenant = Tenant(EDGES)
    tenant.apply(CALL)
    record = tenant.flush()
    checkpoint, state = tenant.mirror.checkpoint(), tenant.mirror.claim(0, 2, NOW_NS)
    before = tenant.mirror.checkpoint()
    damaged = [*record[:-1], record[-1] ^ 1]
    with pytest.raises(MalformedFrame, match="damaged record"):
        tenant.mirror.apply(0, 2, bytes(damaged), NOW_NS)
    with pytest.raises(MalformedFrame, match="damaged record"):
        durable_part(bytes(damaged))
    assert tenant.mirror.checkpoint() == before
    with pytest.raises(MalformedFrame, match="damaged state: it is of another hash range"):
        Shard(tenant.plan, index=1, count=2, state=state)
    with pytest.raises(MalformedFrame, match="damaged mirror"):
        Mirror.restore(checkpoint[:-1])
    for index, count in [(1, 1), (0, 0), (0, 5000)]:
        with pytest.raises(ValueError, match="index must be below count"):
            tenant.mirror.claim(index, count, NOW_NS)
    with pytest.raises(ValueError, match="fingerprint must have 16 bytes or none, not 3"):
        tenant.shard.apply(b"", NOW_NS, fingerprint=b"abc")
