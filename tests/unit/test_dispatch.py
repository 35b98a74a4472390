import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import structlog
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from cluster.gateway.dispatch import Dispatcher
from cluster.gateway.host_lane import GroupBounds, HostCalls
from cluster.gateway.intake import Accepted
from cluster.gateway.refusal import RefusalReason, Refused
from cluster.placement import Routes
from tenants import _engine
from tenants.identity import TenantId
from tenants.processing.flush_record import ShardKey
from tenants.processing.frame_group import FrameGroup
from tenants.processing.profile import ProfileBook
from tenants.settings import Overrides
from tenants.settings.in_force import OverridesInForce, whole
from tenants.settings.model import validate
from tenants.settings.tenant_state import TenantState
from tests.overrides_in_force import whole_of
from tests.unit.conditions import until
from tests.unit.frame_taker import ALONE, FrameTaker, ledger_of
from tests.unit.tenant_work import ACME, NOW_NS, SECOND_NS, book, config, edges_on, overrides, request, span, spans_on

BOTH = {"processors": ["span-metrics", "service-graphs"]}
DISCARDED = ("millrace_spans_discarded_total", "acme")


def dispatcher(
    hosts: Mapping[str, FrameTaker],
    bounds: GroupBounds = ALONE,
    *,
    profiles: ProfileBook | None = None,
    max_queued_bytes: int = 1 << 20,
    clock_ns: Callable[[], int] = lambda: NOW_NS,
    monotonic_ns: Callable[[], int] = lambda: 0,
    gateways: int = 1,
    poll_s: float = 60.0,
    max_retained_bytes: int = 1 << 20,
) -> Dispatcher:
    routes = Routes(1, tuple(hosts), ("collector-0",))
    calls = {name: HostCalls(host.take, host.durable, host.adopt) for name, host in hosts.items()}
    return Dispatcher(
        profiles or book(),
        routes,
        calls,
        bounds,
        clock_ns,
        poll_s=poll_s,
        monotonic_ns=monotonic_ns,
        random=lambda: 0.5,
        gateways=gateways,
        max_queued_bytes=max_queued_bytes,
        max_retained_bytes=max_retained_bytes,
    )


def group_keys(group: FrameGroup) -> list[ShardKey]:
    return [head.key for head in group.heads]


def measured(intake: Dispatcher) -> dict[tuple[str, ...], float]:
    return {(name, *labels): value for name, labels, value in intake.measure()}


def active(intake: Dispatcher) -> dict[str, set[str]]:
    """The active processors of every tenant that ever had one."""
    found: dict[str, set[str]] = {}
    for name, labels, value in intake.measure():
        if name == "millrace_active_processors":
            tenant, processor = labels
            found.setdefault(tenant, set()).update({processor} if value else ())
    return found


async def test_every_frame_goes_to_the_host_of_its_shard() -> None:
    hosts = {f"h{index}": FrameTaker() for index in range(3)}
    intake = dispatcher(hosts, profiles=book(overrides(acme=spans_on(shards=5))))
    assert await intake.submit(ACME, request(*["op"] * 200)) == Accepted()
    routes = Routes(1, tuple(hosts), ())
    keys = {name: {key for group in host.groups for key in group_keys(group)} for name, host in hosts.items()}
    assert set().union(*keys.values()) == {ShardKey(ACME, index, 5) for index in range(5)}
    assert all(routes.host_of(ACME, key.index) == name for name, found in keys.items() for key in found)


async def test_requests_of_several_tenants_share_a_call() -> None:
    host = FrameTaker()
    tenants = overrides(acme=spans_on(), globex=spans_on(shards=2))
    intake = dispatcher({"h": host}, GroupBounds(1 << 20, 0.01), profiles=book(tenants))
    answers = await asyncio.gather(
        intake.submit(ACME, request("a")),
        intake.submit(TenantId("globex"), request("b")),
        intake.submit(ACME, request("c")),
    )
    assert answers == [Accepted()] * 3
    assert [str(key.tenant) for key in group_keys(host.groups[0])] == ["acme", "globex", "acme"]
    assert len(host.groups) == 1


async def test_request_is_refused_whole_if_one_of_its_hosts_fails() -> None:
    hosts = {"h0": FrameTaker(), "h1": FrameTaker(RuntimeError("restarting"))}
    intake = dispatcher(hosts, profiles=book(overrides(acme=spans_on(shards=2))))
    refused = await intake.submit(ACME, request(*["op"] * 50))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry_after_s) == (RefusalReason.UNAVAILABLE, 1.0)
    assert refused.answer.is_retryable
    figures = measured(intake)
    assert figures["millrace_dispatch_failures_total", "h1"] == 1
    assert figures["millrace_spans_received_total", "acme"] == 0
    assert await intake.submit(ACME, request(*["op"] * 50)) == Accepted()
    assert measured(intake)["millrace_spans_received_total", "acme"] == 50


async def test_only_the_request_whose_frame_cannot_be_counted_is_refused() -> None:
    host = FrameTaker((0,))
    intake = dispatcher({"h": host}, GroupBounds(1 << 20, 0.01))
    bad, good = await asyncio.gather(intake.submit(ACME, request("a")), intake.submit(ACME, request("b")))
    assert isinstance(bad, Refused)
    assert bad.reason is RefusalReason.UNAVAILABLE
    assert good == Accepted()


async def test_client_that_goes_away_does_not_disturb_the_others_of_its_group() -> None:
    host = FrameTaker()
    host.hold()
    intake = dispatcher({"h": host}, GroupBounds(1 << 20, 0.005))
    requests = [asyncio.ensure_future(intake.submit(ACME, request(name))) for name in "abc"]
    await until(lambda: host.at_once == 1)
    requests[1].cancel()
    await asyncio.wait([requests[1]])
    host.release()
    assert await asyncio.gather(requests[0], requests[2]) == [Accepted(), Accepted()]
    assert requests[1].cancelled()
    assert measured(intake)["millrace_spans_received_total", "acme"] == 2


async def test_requests_are_refused_while_too_much_waits_and_taken_again_after() -> None:
    host = FrameTaker()
    host.hold()
    intake = dispatcher({"h": host}, max_queued_bytes=100)
    waiting = asyncio.ensure_future(intake.submit(ACME, request("op")))
    await until(lambda: host.at_once == 1)
    refused = await intake.submit(ACME, request("op"))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry_after_s) == (RefusalReason.OVERLOADED, 1.0)
    assert measured(intake)["millrace_dispatch_queued_bytes",] > 100
    host.release()
    assert await waiting == Accepted()
    assert await intake.submit(ACME, request("op")) == Accepted()
    assert measured(intake)["millrace_dispatch_queued_bytes",] == 0


async def test_malformed_request_is_final_and_says_where() -> None:
    host = FrameTaker()
    intake = dispatcher({"h": host})
    body = request("op")[:-3]
    refused = await intake.submit(ACME, body)
    assert isinstance(refused, Refused)
    assert refused.reason is RefusalReason.MALFORMED
    assert "at byte" in refused.message
    assert "resource_spans" in refused.message
    assert host.groups == []
    figures = measured(intake)
    assert figures["millrace_ingress_bytes_total", "acme"] == len(body)
    assert figures["millrace_bytes_received_total", "acme"] == 0
    assert figures["millrace_spans_received_total", "acme"] == 0


async def test_spans_without_valid_ids_are_refused_and_the_others_counted() -> None:
    host = FrameTaker()
    intake = dispatcher({"h": host})
    bad = [span(trace_id=b"\x00" * 16), span(trace_id=b"\x01"), span(span_id=b"")]
    answer = await intake.submit(ACME, request("op", spans=bad))
    assert answer == Accepted(
        3,
        "spans without a valid id: 1 invalid_span_id, 2 invalid_trace_id; ids are 16 and 8 bytes, not all zero",
    )
    figures = measured(intake)
    assert figures["millrace_spans_received_total", "acme"] == 1
    assert figures["millrace_spans_discarded_total", "acme", "gateway", "invalid_trace_id"] == 2
    assert figures["millrace_spans_discarded_total", "acme", "gateway", "invalid_span_id"] == 1
    assert len(host.groups) == 1


async def test_spans_out_of_time_are_accepted_and_counted_as_discarded() -> None:
    host = FrameTaker()
    intake = dispatcher({"h": host}, clock_ns=lambda: NOW_NS + 60 * 10**9)
    assert await intake.submit(ACME, request("op", "op")) == Accepted()
    key = ("millrace_spans_discarded_total", "acme", "gateway", "outside_metrics_ingestion_slack")
    assert measured(intake)[key] == 2
    assert ledger_of(host) == {("gateway", "received"): 2, key[2:]: 2}


async def test_tenant_without_processors_is_accepted_and_nothing_is_sent() -> None:
    host = FrameTaker()
    intake = dispatcher({"h": host}, profiles=book({}))
    body = request("op", "op")
    answer = await intake.submit(ACME, body)
    assert isinstance(answer, Accepted)
    assert (answer.rejected_spans, "no active processor" in answer.message) == (0, True)
    assert host.groups == []
    figures = measured(intake)
    assert figures["millrace_spans_received_total", "acme"] == 2
    assert figures["millrace_bytes_received_total", "acme"] == len(body)


async def test_request_that_is_to_become_no_metrics_is_counted_and_is_in_the_ledger() -> None:
    host = FrameTaker()
    intake = dispatcher({"h": host}, profiles=book(overrides(acme=BOTH)))
    late = span("late", end_time_unix_nano=NOW_NS - 60 * SECOND_NS)
    bad = span(trace_id=b"")
    body = request("op", "op", spans=[late, bad])
    answer = await intake.submit(ACME, body, skip_generation=True)
    assert isinstance(answer, Accepted)
    assert answer.rejected_spans == 1
    assert ledger_of(host) == {
        ("gateway", "received"): 4,
        ("gateway", "invalid_trace_id"): 1,
        ("gateway", "outside_metrics_ingestion_slack"): 1,
        ("gateway", "skipped"): 2,
    }
    figures = measured(intake)
    assert figures["millrace_spans_received_total", "acme"] == 3
    assert figures["millrace_bytes_received_total", "acme"] == len(body)
    assert figures[*DISCARDED, "gateway", "outside_metrics_ingestion_slack"] == 1
    assert figures[*DISCARDED, "gateway", "invalid_trace_id"] == 1
    assert figures["millrace_metrics_generation_skipped_processor_pushes_total", "acme"] == 2
    assert await intake.submit(ACME, body) == answer
    assert len(host.groups) == 2
    assert measured(intake)["millrace_metrics_generation_skipped_processor_pushes_total", "acme"] == 2


async def test_processors_are_those_in_force_also_for_a_tenant_that_is_silent() -> None:
    globex = TenantId("globex")
    intake = dispatcher({"h": FrameTaker()}, profiles=book(overrides(acme=BOTH, globex=spans_on())))
    await intake.submit(ACME, request("op"))
    await intake.submit(globex, request("op"))
    assert active(intake) == {"acme": {"span-metrics", "service-graphs"}, "globex": {"span-metrics"}}
    await intake.put_overrides(whole_of(2, overrides(globex=BOTH)))
    assert active(intake) == {"acme": set(), "globex": {"span-metrics", "service-graphs"}}
    assert (
        measured(intake)["millrace_spans_discarded_total", "globex", "service_graphs", "service_graphs_filtered"] == 0
    )
    await intake.put_overrides(whole_of(1, overrides(acme=BOTH)))  # older than what is in force
    assert active(intake)["acme"] == set()


async def test_request_that_ends_after_a_change_of_settings_does_not_bring_the_former_ones_back() -> None:
    host = FrameTaker()
    host.hold()
    intake = dispatcher({"h": host})
    waiting = asyncio.ensure_future(intake.submit(ACME, request("op")))
    await until(lambda: host.at_once == 1)
    await intake.put_overrides(whole_of(2, overrides(acme=edges_on())))
    host.release()
    assert await waiting == Accepted()
    assert active(intake) == {"acme": {"service-graphs"}}


async def test_settings_that_cannot_be_put_in_force_are_counted_at_every_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    globex = TenantId("globex")
    intake = dispatcher({"h": FrameTaker()})
    await intake.submit(ACME, request("op"))
    failed = "millrace_active_processors_update_failed_total"
    assert measured(intake)[failed, "acme"] == 0
    plan = _engine.Plan

    def refusing(text: str) -> _engine.Plan:
        if "refused" in text:
            raise _engine.InvalidPlan("span_metrics.dimensions: no")
        return plan(text)

    monkeypatch.setattr(_engine, "Plan", refusing)
    bad = spans_on(processor={"span_metrics": {"dimensions": ["refused"]}})
    with structlog.testing.capture_logs():
        await intake.put_overrides(whole_of(2, overrides(acme=bad, globex=bad)))
        assert active(intake) == {"acme": {"span-metrics"}}
        await intake.submit(globex, request("op"))
        await intake.submit(globex, request("op"))
        assert [measured(intake)[failed, tenant] for tenant in ("acme", "globex")] == [1, 1]
        await intake.put_overrides(whole_of(3, overrides(acme=spans_on(), globex=bad)))
        assert [measured(intake)[failed, tenant] for tenant in ("acme", "globex")] == [1, 2]
    assert active(intake) == {"acme": {"span-metrics"}, "globex": set()}


@pytest.mark.parametrize(("padding", "is_in_thread"), [(0, False), (1 << 20, True)])
async def test_big_request_does_not_hold_up_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, padding: int, is_in_thread: bool
) -> None:
    threads: list[int] = []
    engine_split = _engine.split

    def noting_split(*arguments: Any, **options: Any) -> object:
        threads.append(threading.get_ident())
        return engine_split(*arguments, **options)

    monkeypatch.setattr(_engine, "split", noting_split)
    body = request("op", spans=[span("x" * padding)])
    assert await dispatcher({"h": FrameTaker()}).submit(ACME, body) == Accepted()
    assert (threads != [threading.get_ident()]) == is_in_thread


async def test_settings_put_in_force_hold_from_the_next_request() -> None:
    host = FrameTaker()
    intake = dispatcher({"h": host})
    await intake.submit(ACME, request("op"))
    intake.book.put_overrides(whole_of(2, overrides(acme=spans_on(shards=3))))
    await intake.submit(ACME, request(*["op"] * 60))
    assert {key.count for key in group_keys(host.groups[0])} == {1}
    assert {key.count for group in host.groups[1:] for key in group_keys(group)} == {3}


# Limits of what a tenant may send (tenancy §4.2, §4.4, §4.8)


def limited(state: TenantState = TenantState.ACTIVE, text: str = "", **ingestion: Any) -> ProfileBook:
    """A book of a tenant with span metrics and these limits."""
    entry = validate(Overrides, {"metrics_generator": spans_on(), "ingestion": ingestion})
    profiles = ProfileBook(config(text))
    profiles.put_overrides(whole(OverridesInForce(1, {"acme": entry}, states={"acme": state})))
    return profiles


def discarded(intake: Dispatcher) -> dict[str, float]:
    """The spans of acme that the gateway discarded, by reason."""
    return {key[3]: value for key, value in measured(intake).items() if key[:3] == (*DISCARDED, "gateway")}


async def test_tenant_above_its_rate_is_refused_and_let_in_again() -> None:  # case 93
    now_ns, body, host = [0], request("op", "op"), FrameTaker()
    size = len(body)
    profiles = limited(rate_limit_bytes=2 * size, burst_size_bytes=2 * size)
    intake = dispatcher({"h": host}, profiles=profiles, monotonic_ns=lambda: now_ns[0])
    assert [await intake.submit(ACME, body) for _ in range(2)] == [Accepted()] * 2
    refused = await intake.submit(ACME, body)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry_after_s) == (RefusalReason.RATE_LIMITED, 1.0)
    assert refused.text.startswith("RATE_LIMITED: ")
    assert f"adding {size} bytes for tenant acme" in refused.text
    assert len(host.groups) == 2
    figures = measured(intake)
    assert figures["millrace_ingress_bytes_total", "acme"] == 3 * size
    assert figures["millrace_bytes_received_total", "acme"] == 2 * size
    assert figures["millrace_spans_received_total", "acme"] == 4
    assert discarded(intake) == {"rate_limited": 2}
    now_ns[0] = SECOND_NS
    assert await intake.submit(ACME, body) == Accepted()
    await intake.tell_refused()
    told = ledger_of(host)
    assert (told["gateway", "received"], told["gateway", "rate_limited"]) == (8, 2)
    await intake.tell_refused()
    assert ledger_of(host) == told


async def test_spans_of_a_refused_request_that_is_malformed_are_not_counted() -> None:
    intake = dispatcher({"h": FrameTaker()}, profiles=limited(rate_limit_bytes=0))
    refused = await intake.submit(ACME, request("op")[:-3])
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry_after_s) == (RefusalReason.RATE_LIMITED, None)
    assert discarded(intake) == {"rate_limited": 0}


async def test_request_beyond_the_burst_is_refused_for_good() -> None:  # case 96
    body = request("op", "op", "op")
    intake = dispatcher({"h": FrameTaker()}, profiles=limited(burst_size_bytes=len(body) - 1))
    refused = await intake.submit(ACME, body)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.answer.http_status, refused.retry_after_s) == (RefusalReason.TOO_LARGE, 413, None)
    assert discarded(intake) == {"too_large": 3}


async def test_blocked_tenant_is_refused_for_good_and_counted() -> None:
    host = FrameTaker()
    intake = dispatcher({"h": host}, profiles=limited(TenantState.BLOCKED))
    refused = await intake.submit(ACME, request("op"))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.answer.http_status, refused.retry_after_s) == (RefusalReason.BLOCKED, 403, None)
    assert discarded(intake) == {"blocked": 1}
    assert host.groups == []


async def test_paused_tenant_is_warned_once_a_minute_and_nothing_is_generated() -> None:
    now_ns, host = [0], FrameTaker()
    profiles = limited(TenantState.PAUSED)
    intake = dispatcher({"h": host}, profiles=profiles, monotonic_ns=lambda: now_ns[0])
    quiet = await intake.submit(ACME, request("op"), skip_generation=True)
    bad = await intake.submit(ACME, request(spans=[span(trace_id=b"")]))
    first, second = [await intake.submit(ACME, request("op")) for _ in range(2)]
    now_ns[0] = 60 * SECOND_NS
    third = await intake.submit(ACME, request("op"))
    answers = (quiet, bad, first, second, third)
    assert all(isinstance(answer, Accepted) for answer in answers)
    warned = ["paused" in answer.message for answer in answers if isinstance(answer, Accepted)]
    assert warned == [False, False, True, False, True]
    assert host.groups == []
    assert measured(intake)["millrace_spans_received_total", "acme"] == 4


async def test_gateways_share_a_global_rate() -> None:  # case 97
    now_ns, body = [0], request("op")
    size = len(body)
    together = "overrides: {defaults: {ingestion: {rate_strategy: global}}}"
    profiles = limited(text=together, rate_limit_bytes=4 * size, burst_size_bytes=size)
    intake = dispatcher({"h": FrameTaker()}, profiles=profiles, monotonic_ns=lambda: now_ns[0], gateways=4)
    assert await intake.submit(ACME, body) == Accepted()
    now_ns[0] = SECOND_NS - 1
    assert isinstance(await intake.submit(ACME, body), Refused)
    now_ns[0] = SECOND_NS
    assert await intake.submit(ACME, body) == Accepted()
    intake.put_gateways(1)
    assert isinstance(await intake.submit(ACME, body), Refused)
    now_ns[0] += SECOND_NS // 4
    assert await intake.submit(ACME, body) == Accepted()


async def test_refusal_for_the_sake_of_the_hosts_costs_no_tokens() -> None:
    host, body = FrameTaker(), request("op")
    host.hold()
    intake = dispatcher({"h": host}, profiles=limited(burst_size_bytes=2 * len(body)), max_queued_bytes=0)
    waiting = asyncio.ensure_future(intake.submit(ACME, body))
    await until(lambda: host.at_once == 1)
    for _ in range(3):
        refused = await intake.submit(ACME, body)
        assert isinstance(refused, Refused)
        assert refused.reason is RefusalReason.OVERLOADED
    host.release()
    assert await waiting == Accepted()
    assert await intake.submit(ACME, body) == Accepted()


@pytest.mark.parametrize("body", [request("op"), b"\xff"])
async def test_answers_are_held_back_refusals_included_until_the_end(body: bytes) -> None:
    intake = dispatcher({"h": FrameTaker()}, profiles=limited(artificial_delay="1m"))
    answer = asyncio.ensure_future(intake.submit(ACME, body))
    other = asyncio.ensure_future(intake.submit(TenantId("globex"), request("op")))
    await until(other.done)
    assert not answer.done()
    intake.end_delays()
    async with asyncio.timeout(20):
        assert isinstance(await answer, Accepted if body != b"\xff" else Refused)
    histograms = {
        key[1]: value for key, value in measured(intake).items() if key[0] == "millrace_added_latency_seconds"
    }
    assert histograms.keys() == {"acme"}


async def test_cut_attributes_are_counted_by_where_they_stand() -> None:
    host = FrameTaker()
    intake = dispatcher({"h": host}, profiles=limited(max_attribute_bytes=64))
    long = KeyValue(key="k", value=AnyValue(string_value="x" * 65))
    body = request(spans=[span(attributes=[long, long])], service="s" * 65)
    assert await intake.submit(ACME, body) == Accepted()
    figures = measured(intake)
    assert figures["millrace_attributes_truncated_total", "acme", "span"] == 2
    assert figures["millrace_attributes_truncated_total", "acme", "resource"] == 1


# Frames that are not journalled yet


async def test_requests_are_refused_while_too_much_is_not_journalled() -> None:
    host = FrameTaker()
    intake = dispatcher({"h": host}, poll_s=0.005, max_retained_bytes=100)
    assert await intake.submit(ACME, request("op")) == Accepted()
    assert measured(intake)["millrace_retained_bytes", "h"] > 100
    refused = await intake.submit(ACME, request("op"))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry_after_s) == (RefusalReason.OVERLOADED, 1.0)
    host.journal()
    await until(lambda: measured(intake)["millrace_retained_bytes", "h"] == 0)
    assert await intake.submit(ACME, request("op")) == Accepted()


async def test_tenant_that_wants_durable_answers_waits_until_its_spans_are_journalled() -> None:
    host = FrameTaker()
    intake = dispatcher({"h": host}, poll_s=0.005, profiles=limited(acknowledge="durable"))
    answer = asyncio.ensure_future(intake.submit(ACME, request("op")))
    await until(lambda: host.asked > 2)
    assert not answer.done()
    host.journal()
    async with asyncio.timeout(20):
        assert await answer == Accepted()


async def test_frames_that_a_host_lost_go_where_their_range_is_now() -> None:
    hosts = {"h0": FrameTaker(), "h1": FrameTaker()}
    intake = dispatcher(hosts, poll_s=0.005, profiles=limited(acknowledge="durable"))
    answer = asyncio.ensure_future(intake.submit(ACME, request(*["op"] * 40)))
    await until(lambda: any(host.groups for host in hosts.values()))
    (first,) = [group for host in hosts.values() for group in host.groups]
    entry = validate(Overrides, {"metrics_generator": spans_on(shards=2), "ingestion": {"acknowledge": "durable"}})
    intake.book.put_overrides(whole(OverridesInForce(2, {"acme": entry})))
    for host in hosts.values():
        host.lose()
    await until(lambda: all(host.groups for host in hosts.values()) and sum(len(h.groups) for h in hosts.values()) == 3)
    again = [group for host in hosts.values() for group in host.groups if group is not first]
    assert {head.key for group in again for head in group.heads} == {ShardKey(ACME, 0, 2), ShardKey(ACME, 1, 2)}
    assert {(head.made_for, head.fingerprint) for group in again for head in group.heads} == {
        ((0, 1), first.heads[0].fingerprint)
    }
    assert {group.payload for group in again} == {first.payload}
    assert not answer.done()
    for host in hosts.values():
        host.journal()
    async with asyncio.timeout(20):
        assert await answer == Accepted()
    assert sum(value for key, value in measured(intake).items() if key[0] == "millrace_replayed_frames_total") == 1


# Other routes


def routes_to(version: int, hosts: Mapping[str, FrameTaker]) -> tuple[Routes, dict[str, HostCalls]]:
    calls = {name: HostCalls(host.take, host.durable, host.adopt) for name, host in hosts.items()}
    return Routes(version, tuple(hosts), ("collector-0",)), calls


def hosts_measured(intake: Dispatcher) -> set[str]:
    return {labels[0] for name, labels, _ in intake.measure() if name == "millrace_dispatch_groups_total"}


async def test_host_that_leaves_gets_nothing_more_and_is_forgotten_when_all_is_journalled() -> None:
    old, new = FrameTaker(), FrameTaker()
    intake = dispatcher({"old": old}, poll_s=0.005)
    assert await intake.submit(ACME, request("a")) == Accepted()
    intake.put_routes(*routes_to(2, {"new": new}))
    assert await intake.submit(ACME, request("b")) == Accepted()
    assert (len(old.groups), len(new.groups)) == (1, 1)
    assert not intake.is_done_with("old")
    assert hosts_measured(intake) == {"old", "new"}
    old.journal()
    await until(lambda: intake.is_done_with("old"))
    assert hosts_measured(intake) == {"new"}
    assert not intake.is_done_with("new")


async def test_older_routes_do_not_replace_newer_ones() -> None:
    old, new = FrameTaker(), FrameTaker()
    intake = dispatcher({"h": FrameTaker()})
    intake.put_routes(*routes_to(3, {"new": new}))
    intake.put_routes(*routes_to(2, {"old": old}))
    assert await intake.submit(ACME, request("a")) == Accepted()
    assert (len(old.groups), len(new.groups)) == (0, 1)


async def test_host_that_comes_back_before_it_left_is_called_as_its_new_process_wants() -> None:
    first, again = FrameTaker(), FrameTaker()
    intake = dispatcher({"h": first})
    assert await intake.submit(ACME, request("a")) == Accepted()
    intake.put_routes(*routes_to(2, {"other": FrameTaker()}))
    intake.put_routes(*routes_to(3, {"h": again}))
    assert await intake.submit(ACME, request("b")) == Accepted()
    assert (len(first.groups), len(again.groups)) == (1, 1)
    assert not intake.is_done_with("h")


async def test_frames_on_their_way_when_shards_move_are_sent_again_and_the_client_does_not_notice() -> None:
    old, new = FrameTaker((0,)), FrameTaker()
    old.hold()
    intake = dispatcher({"old": old})
    submitted = asyncio.ensure_future(intake.submit(ACME, request("a")))
    await until(lambda: old.at_once == 1)
    intake.put_routes(*routes_to(2, {"new": new}))
    old.release()
    assert await submitted == Accepted()
    assert new.payloads == old.payloads


async def test_frames_of_a_former_division_that_are_not_counted_are_sent_by_the_newer_one() -> None:
    host = FrameTaker((0, 1))
    host.hold()
    profiles = book(overrides(acme=spans_on(shards=2)))
    intake = dispatcher({"h": host}, GroupBounds(1 << 20, 0.01), profiles=profiles)
    submitted = asyncio.ensure_future(intake.submit(ACME, request(*["op"] * 50)))
    await until(lambda: host.at_once == 1)
    profiles.put_overrides(whole_of(2, overrides(acme=spans_on(shards=1))))
    host.release()
    assert await submitted == Accepted()
    again = [head for group in host.groups[1:] for head in group.heads]
    assert {(head.key, head.made_for) for head in again} == {
        (ShardKey(ACME, 0, 1), (0, 2)),
        (ShardKey(ACME, 0, 1), (1, 2)),
    }


async def test_client_is_told_to_send_again_while_no_newer_routes_are_known() -> None:
    host = FrameTaker((0,))
    intake = dispatcher({"h": host})
    refused = await intake.submit(ACME, request("a"))
    assert isinstance(refused, Refused)
    assert refused.answer.is_retryable
    assert len(host.groups) == 1
