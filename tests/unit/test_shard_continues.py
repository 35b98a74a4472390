"""A shard's successor goes on where the shard was: nothing is lost, nothing is counted twice, whatever ends when.

Random lives of tenants are played twice: by shards that stay, and by shards that are lost, begun anew from the mirror,
cut into other ranges, and sent what they know already. Every series and counter is alike.
"""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenants._engine import MalformedFrame, Mirror, Plan, Registry, Shard, durable_part, fingerprint, split
from tests.continuing_driver import ContinuingDriver
from tests.edge_strategies import edge_scripts
from tests.engine_driver import EngineDriver
from tests.plan_strategies import MANY, plans
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
from tests.unit.comparing import assert_same

# A failing example is made small for up to five minutes before it is shown.
pytestmark = pytest.mark.timeout(400 if settings.get_current_profile_name() == "quick" else 3600)

COUNTS = [1, 4, 3, 2]
COUNTERS = (
    *("edges", "expired_edges", "dropped_spans", "dropped_edges", "dropped_span_side_cache_overflow"),
    "invalid_edges",
)
TROUBLES = ["flush one", "lose", "lose", "send again", "restore", "recut", "recut"]


def trouble(kind: str, tenant: ContinuingDriver, now_ns: int, data: st.DataObject) -> None:
    """Let something happen to the shards."""
    count = len(tenant.shards)
    index = data.draw(st.integers(0, count - 1))
    match kind:
        case "flush one":
            tenant.flush_shard(index, now_ns)
        case "lose":
            tenant.lose_shard(index, now_ns)
        case "send again" if tenant.delivered:
            tenant.send_again(data.draw(st.sampled_from(tenant.delivered)), now_ns)
        case "restore":
            tenant.restore_mirror()
        case "recut":
            lost = data.draw(st.sets(st.integers(0, count - 1)))
            tenant.recut(data.draw(st.sampled_from(COUNTS)), now_ns, lost)


def play(script: Script, troubles: list[str], data: st.DataObject) -> None:
    """Play a script to shards that stay and to shards that do not.

    Time passes only when all is flushed: a frame that is sent again later would wait from then on, not from before.
    """
    staying, tenant = EngineDriver(script.plan), ContinuingDriver(script.plan)
    both: tuple[EngineDriver, ...] = (staying, tenant)
    seen: set[bytes] = set()
    now_ns = NOW_NS
    for step in script.steps:
        if isinstance(step, Push | Flush) and step.now_ns != now_ns:
            for at_ns in (now_ns, step.now_ns):
                for each in both:
                    each.flush(at_ns)
            now_ns = step.now_ns
        match step:
            case Push(_, drawn, skip_generation):
                body = drawn.SerializeToString()
                # The same bytes are the same request, which these shards count once.
                for each in both if body not in seen else (tenant,):
                    each.push(body, now_ns, skip_generation=skip_generation)
                if not skip_generation:
                    seen.add(body)
            case Flush(_, close_edges):
                for each in both:
                    each.flush(now_ns, close_edges=close_edges)
            case Collect():
                assert_same(tenant.collect(), staying.collect(), script.plan)
                continue
        for kind in data.draw(st.lists(st.sampled_from(troubles), max_size=4)):
            trouble(kind, tenant, now_ns, data)
    for counter in COUNTERS:
        assert (counter, getattr(tenant, counter)) == (counter, getattr(staying, counter))
    assert_durable_parts_suffice(tenant, script.plan)


def assert_durable_parts_suffice(tenant: ContinuingDriver, settings_of_plan: dict[str, Any]) -> None:
    """The registry that was fed with durable parts has everything but exemplars."""
    whole = tenant.collect()
    tenant.registry = tenant.durable
    durable = tenant.collect()
    assert durable.exemplars == {}
    assert_same(durable, dataclasses.replace(whole, exemplars={}), settings_of_plan)


@given(script=scripts(plans(max_items=st.just(MANY)), odd_ids=False), data=st.data())
def test_series_and_counters_are_those_of_shards_that_stay(script: Script, data: st.DataObject) -> None:
    play(script, TROUBLES, data)


@given(script=edge_scripts(st.just(MANY)), data=st.data())
def test_edges_live_as_in_shards_that_stay(script: Script, data: st.DataObject) -> None:
    play(script, TROUBLES, data)


@given(script=edge_scripts(st.integers(0, 3)), data=st.data())
def test_edges_live_as_in_shards_that_stay_in_little_room(script: Script, data: st.DataObject) -> None:
    # The limit is per shard, so there is one.
    play(script, [kind for kind in TROUBLES if kind != "recut"], data)


GRAPHS = plan(span_metrics_plan(), service_graphs_plan(dimensions=["tier"], wait_s=10.0))


def compiled(settings_of_plan: dict[str, Any] = GRAPHS) -> Plan:
    return Plan(json.dumps(settings_of_plan))


def halves(number: int = 1, trace: bytes = b"\x01" * 16) -> tuple[bytes, bytes]:
    """Return two requests with the two halves of one edge."""
    ids = {"trace_id": trace, "end_ns": NOW_NS, "start_ns": NOW_NS - SECOND_NS, "attributes": {"tier": "front"}}
    own = number.to_bytes(8, "big")
    client = batch({"service.name": "shop"}, span(f"op {number}", kind=CLIENT, span_id=own, **ids))
    server = batch({"service.name": "cart"}, span(f"op {number}", kind=SERVER, span_id=b"\x09" * 8, parent=own, **ids))
    return request(client).SerializeToString(), request(server).SerializeToString()


def frame_of(body: bytes, settings_of_plan: Plan, count: int = 1, index: int = 0) -> bytes:
    return dict(split(body, settings_of_plan, count, NOW_NS).frames)[index]


def calls(registry: Registry) -> dict[str, float]:
    """Return the calls of every operation and the requests of the graph."""
    found = {}
    for write in registry.collect(NOW_NS // 1_000_000, [], 2000):
        for key, series in decode(write.body).items():
            labels = dict(key)
            if labels["__name__"] in ("traces_spanmetrics_calls_total", "traces_service_graph_request_total"):
                found[labels.get("span_name", "edges")] = series.samples[-1][1]
    return found


def test_fingerprint_is_the_published_hash_of_the_body() -> None:
    assert fingerprint(b"body").hex() == "177aefccffa6f74acbf1c497eac76e10"
    assert fingerprint(bytearray(b"body")) == fingerprint(memoryview(b"body")) == fingerprint(b"body")


def test_request_is_applied_once_until_the_window_has_passed() -> None:
    settings_of_plan = compiled()
    shard = Shard(settings_of_plan, deduplication_window_ns=60 * SECOND_NS)
    body, other = halves()
    frame, name = frame_of(body, settings_of_plan), fingerprint(body)
    assert shard.apply(frame, NOW_NS, fingerprint=name)
    assert not shard.apply(frame, NOW_NS + 60 * SECOND_NS - 1, fingerprint=name)
    assert shard.apply(frame_of(other, settings_of_plan), NOW_NS, fingerprint=fingerprint(other))
    assert shard.stats()["fingerprints"] == 2
    assert shard.apply(frame, NOW_NS + 61 * SECOND_NS, fingerprint=name)
    assert shard.stats()["fingerprints"] == 1
    assert shard.stats()["fingerprints_dropped"] == 0


def test_without_a_fingerprint_nothing_is_remembered() -> None:
    settings_of_plan = compiled()
    shard = Shard(settings_of_plan)
    frame = frame_of(halves()[0], settings_of_plan)
    assert shard.apply(frame, NOW_NS)
    assert shard.apply(frame, NOW_NS, fingerprint=b"")
    assert shard.stats()["fingerprints"] == 0


def test_damaged_frame_is_not_remembered() -> None:
    settings_of_plan = compiled()
    shard = Shard(settings_of_plan)
    frame = frame_of(halves()[0], settings_of_plan)
    with pytest.raises(MalformedFrame):
        shard.apply(frame[:-1], NOW_NS, fingerprint=b"1" * 16)
    assert shard.stats()["fingerprints"] == 0
    assert shard.apply(frame, NOW_NS, fingerprint=b"1" * 16)


def test_frame_of_other_ranges_is_counted_once_by_each_shard_and_only_with_its_rows() -> None:
    settings_of_plan = compiled()
    traces = [bytes([number]) * 16 for number in range(1, 9)]
    spans = [span(f"op {trace[0]}", kind=SERVER, trace_id=trace, end_ns=NOW_NS) for trace in traces]
    body = request(batch({"service.name": "shop"}, *spans)).SerializeToString()
    halved = split(body, settings_of_plan, 2, NOW_NS).frames
    registry = Registry(settings_of_plan, 0)
    entities = []
    for index in range(3):
        shard = Shard(settings_of_plan, index=index, count=3)
        taken = [
            shard.apply(frame, NOW_NS, fingerprint=fingerprint(body), made_for=(half, 2))
            for _ in range(2)
            for half, frame in halved
        ]
        assert taken == [index < 2, index > 0, False, False]
        entities.append(shard.stats()["entities"])
        registry.merge(index, shard.flush(NOW_NS), NOW_NS)
    assert calls(registry) == dict.fromkeys((f"op {trace[0]}" for trace in traces), 1.0)
    assert sum(entities) == len(traces)


def test_successor_pairs_what_its_predecessor_left_and_the_next_does_not_pair_it_again() -> None:
    settings_of_plan = compiled()
    mirror, registry = Mirror(600_000_000_000), Registry(settings_of_plan, 0)
    for source, body in enumerate(halves()):
        shard = Shard(settings_of_plan, state=mirror.claim(0, 1, NOW_NS))
        shard.apply(frame_of(body, settings_of_plan), NOW_NS, fingerprint=fingerprint(body))
        record = shard.flush(NOW_NS)
        registry.merge(source, record, NOW_NS)
        mirror.apply(0, 1, record, NOW_NS)
        assert mirror.stats()["open_edges"] == shard.stats()["open_edges"] == 1 - source
    assert calls(registry) == {"op 1": 1.0, "edges": 1.0}
    assert mirror.stats()["fingerprints"] == 2


def test_edge_that_opens_and_closes_between_flushes_is_not_told() -> None:
    settings_of_plan = compiled(plan(service_graphs=service_graphs_plan(request=False, latency=False)))
    shard = Shard(settings_of_plan)
    for body in halves():
        shard.apply(frame_of(body, settings_of_plan), NOW_NS)
    counted = shard.flush(NOW_NS)
    for body in halves(2):
        shard.apply(frame_of(body, settings_of_plan), NOW_NS)
    assert len(shard.flush(NOW_NS)) <= len(counted)
    shard.apply(frame_of(halves(3)[0], settings_of_plan), NOW_NS)
    assert len(shard.flush(NOW_NS)) > len(counted)


def test_flush_that_only_has_fingerprints_to_tell_is_not_empty() -> None:
    nothing = compiled(plan(span_metrics_plan(count=False, latency=False, size=False)))
    shard, mirror = Shard(nothing), Mirror(600_000_000_000)
    frame = frame_of(halves()[0], nothing)
    shard.apply(frame, NOW_NS)
    assert shard.flush(NOW_NS) == b""
    shard.apply(frame, NOW_NS, fingerprint=b"1" * 16)
    record = shard.flush(NOW_NS)
    mirror.apply(0, 1, record, NOW_NS)
    assert mirror.stats()["fingerprints"] == 1
    Registry(nothing, 0).merge(0, record, NOW_NS)
    assert shard.flush(NOW_NS) == b""


def waiting_in(mirror: Mirror, settings_of_plan: Plan) -> Shard:
    """Let a half and a marker wait, and return the shard that told the mirror of them."""
    shard = Shard(settings_of_plan, state=mirror.claim(0, 1, NOW_NS))
    shard.apply(frame_of(halves()[0], settings_of_plan), NOW_NS)
    shard.apply(frame_of(halves(2)[1], settings_of_plan), NOW_NS)
    mirror.apply(0, 1, shard.flush(NOW_NS), NOW_NS)
    assert (mirror.stats()["open_edges"], mirror.stats()["markers"]) == (1, 1)
    return shard


FILTERED = plan(
    service_graphs=service_graphs_plan(
        dimensions=["tier"],
        filter_policies=[{"exclude": filter_block("strict", {"resource.service.name": "cart"})}],
    )
)


@pytest.mark.parametrize("is_lost", [False, True])
def test_graphs_that_are_switched_off_leave_nothing_behind(is_lost: bool) -> None:
    mirror = Mirror(600_000_000_000)
    shard = waiting_in(mirror, compiled(FILTERED))
    off = compiled(plan(span_metrics_plan()))
    if is_lost:
        shard = Shard(off, state=mirror.claim(0, 1, NOW_NS))
    else:
        shard.set_plan(off, NOW_NS)
    assert mirror.stats()["open_edges"] == 1
    mirror.apply(0, 1, shard.flush(NOW_NS), NOW_NS)
    assert (mirror.stats()["open_edges"], mirror.stats()["markers"]) == (0, 0)
    assert shard.flush(NOW_NS) == b""


@pytest.mark.parametrize("is_told", [False, True])
def test_edges_keep_their_dimensions_where_slots_have_moved_on_the_way(is_told: bool) -> None:
    """The plan changes in the shard or with its successor; the dimension is in another slot then."""
    moved = plan(service_graphs=service_graphs_plan(dimensions=["zone", "tier"], wait_s=10.0))
    before, after = compiled(), compiled(moved)
    mirror, registry = Mirror(600_000_000_000), Registry(after, 0)
    shard = Shard(before)
    shard.apply(frame_of(halves()[0], before), NOW_NS)
    mirror.apply(0, 1, shard.flush(NOW_NS), NOW_NS)
    if is_told:
        shard.set_plan(after, NOW_NS)
        mirror.apply(0, 1, shard.flush(NOW_NS), NOW_NS)
    successor = Shard(after, state=mirror.claim(0, 1, NOW_NS))
    successor.apply(frame_of(halves()[1], after), NOW_NS)
    registry.merge(0, successor.flush(NOW_NS), NOW_NS)
    (edge,) = [
        dict(key)
        for write in registry.collect(NOW_NS // 1_000_000, [], 2000)
        for key in decode(write.body)
        if dict(key)["__name__"] == "traces_service_graph_request_total"
    ]
    assert (edge["client"], edge["server"], edge["tier"]) == ("shop", "cart", "front")
    assert "zone" not in edge


def test_claims_cut_the_mirror_and_what_they_leave_stays_for_later_ones() -> None:
    settings_of_plan = compiled()
    shard, mirror = Shard(settings_of_plan), Mirror(600_000_000_000)
    traces = [bytes([number]) * 16 for number in range(1, 41)]
    for number, trace in enumerate(traces):
        shard.apply(
            frame_of(halves(number + 1, trace)[0], settings_of_plan),
            NOW_NS,
            fingerprint=number.to_bytes(16, "big"),
        )
    mirror.apply(0, 1, shard.flush(NOW_NS), NOW_NS)
    states = {}
    for index, count in [(1, 3), (0, 2), (1, 2)]:
        state = states[index, count] = mirror.claim(index, count, NOW_NS)
        taken = Shard(settings_of_plan, index=index, count=count, state=state).stats()
        assert (taken["fingerprints"], mirror.stats()["open_edges"]) == (len(traces), len(traces))
        assert 0 < taken["open_edges"] < len(traces)
        assert mirror.claim(index, count, NOW_NS) == state
    # What the first one took was taken from it again, and the shard of all hashes has nothing left.
    assert mirror.stats()["ranges"] == 2
    whole = Shard(settings_of_plan, state=mirror.claim(0, 1, NOW_NS)).stats()
    assert (whole["open_edges"], whole["fingerprints"]) == (len(traces), len(traces))
    assert mirror.stats()["ranges"] == 1


def test_mirror_forgets_what_a_shard_would_forget() -> None:
    mirror = Mirror(60 * SECOND_NS)
    waiting_in(mirror, compiled(FILTERED))
    shard = Shard(compiled(), index=0, count=1)
    shard.apply(frame_of(halves(3)[0], compiled()), NOW_NS, fingerprint=b"1" * 16)
    mirror.apply(0, 1, shard.flush(NOW_NS), NOW_NS)
    assert (mirror.stats()["fingerprints"], mirror.stats()["markers"]) == (1, 1)
    mirror.claim(0, 1, NOW_NS + 61 * SECOND_NS)
    assert (mirror.stats()["fingerprints"], mirror.stats()["markers"]) == (0, 0)


def test_damaged_bytes_are_refused_and_change_nothing() -> None:
    settings_of_plan = compiled()
    mirror = Mirror(600_000_000_000)
    waiting_in(mirror, compiled(FILTERED))
    shard = Shard(settings_of_plan)
    shard.apply(frame_of(halves()[0], settings_of_plan), NOW_NS, fingerprint=b"1" * 16)
    record = shard.flush(NOW_NS)
    assert len(durable_part(record)) < len(record)
    mirror.check(0, 1, record)
    checkpoint = mirror.checkpoint()
    state = mirror.claim(0, 1, NOW_NS)
    for damaged in (b"", record[:-1], record[:40] + b"\0" + record[41:], checkpoint):
        for refuse in (mirror.check, lambda *args: mirror.apply(*args, NOW_NS)):
            with pytest.raises(MalformedFrame):
                refuse(0, 1, damaged)
    with pytest.raises(MalformedFrame, match="record: too short"):
        durable_part(record[:40])
    for damaged in (b"", checkpoint[:-1], state):
        with pytest.raises(MalformedFrame):
            Mirror.restore(damaged)
    for damaged, key in ((state[:-1], (0, 1)), (state, (0, 2)), (record, (0, 1))):
        with pytest.raises(MalformedFrame):
            Shard(settings_of_plan, index=key[0], count=key[1], state=damaged)
    assert mirror.checkpoint() == checkpoint
    assert mirror.stats()["open_edges"] == 1


@pytest.mark.parametrize("key", [(0, 0), (1, 1), (5, 4), (0, 4097)])
def test_key_that_is_none_is_refused(key: tuple[int, int]) -> None:
    settings_of_plan, mirror = compiled(), Mirror(600_000_000_000)
    frame = frame_of(halves()[0], settings_of_plan)
    for refuse in (
        lambda: Shard(settings_of_plan, index=key[0], count=key[1]),
        lambda: Shard(settings_of_plan).apply(frame, NOW_NS, made_for=key),
        lambda: mirror.claim(*key, NOW_NS),
        lambda: mirror.apply(*key, b"", NOW_NS),
        lambda: mirror.check(*key, b""),
    ):
        with pytest.raises(ValueError, match="index must be below count, and count at most 4096"):
            refuse()


def test_fingerprint_of_another_length_is_refused() -> None:
    settings_of_plan = compiled()
    with pytest.raises(ValueError, match="16 bytes or none, not 3"):
        Shard(settings_of_plan).apply(frame_of(halves()[0], settings_of_plan), NOW_NS, fingerprint=b"abc")
