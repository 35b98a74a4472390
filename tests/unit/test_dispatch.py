import asyncio
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
import structlog
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from cluster.gateway.dispatch import Dispatcher, GroupBounds, HostLane
from cluster.gateway.intake import Accepted
from cluster.gateway.refusal import RefusalReason, Refused
from cluster.placement import Routes
from tenants import _engine
from tenants.identity import TenantId
from tenants.processing.flush_record import ShardKey
from tenants.processing.profile import ProfileBook
from tenants.processing.shard_set import FrameGroup
from tenants.settings import Overrides
from tenants.settings.in_force import OverridesInForce, whole
from tenants.settings.model import validate
from tenants.settings.tenant_state import TenantState
from tests.overrides_in_force import whole_of
from tests.unit.tenant_work import ACME, NOW_NS, SECOND_NS, book, config, edges_on, overrides, request, span, spans_on
from tests.unit.waiting import until

KEY = ShardKey(ACME, 0, 1)
NEVER_S = 60.0
BOTH = {"processors": ["span-metrics", "service-graphs"]}
DISCARDED = ("millrace_spans_discarded_total", "acme")
ALONE = GroupBounds(max_bytes=1, wait_s=NEVER_S)


class Host:
    """Takes groups. While held, calls wait; ``outcomes`` are played one by one, then everything is counted."""

    def __init__(self, *outcomes: Exception | Collection[int]) -> None:
        self.groups: list[FrameGroup] = []
        self.at_once = 0
        self._outcomes = list(outcomes)
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    @property
    def payloads(self) -> list[bytes]:
        return [group.payload for group in self.groups]

    async def take(self, group: FrameGroup) -> Collection[int]:
        self.groups.append(group)
        self.at_once += 1
        try:
            await self._open.wait()
        finally:
            self.at_once -= 1
        outcome = self._outcomes.pop(0) if self._outcomes else ()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_frames_travel_together_until_the_group_is_full() -> None:
    host = Host()
    lane = HostLane("h", host.take, GroupBounds(max_bytes=6, wait_s=NEVER_S))
    other = ShardKey(TenantId("other"), 3, 4)
    first, second = lane.add(KEY, b"abc"), lane.add(other, b"de")
    assert (lane.queued_bytes, host.groups) == (5, [])
    third = lane.add(KEY, b"f")
    assert await asyncio.gather(first, second, third) == [True, True, True]
    assert host.groups == [FrameGroup(((KEY, 3), (other, 2), (KEY, 1)), b"abcdef")]
    assert (lane.queued_bytes, lane.groups, lane.failures) == (0, 1, 0)


async def test_group_is_sent_when_its_first_frame_has_waited() -> None:
    host = Host()
    lane = HostLane("h", host.take, GroupBounds(max_bytes=1 << 20, wait_s=0.01))
    started = asyncio.get_running_loop().time()
    assert await lane.add(KEY, b"a")
    assert asyncio.get_running_loop().time() - started >= 0.009
    # The timer of a group is gone with it: the next group waits its own time.
    assert await lane.add(KEY, b"b")
    assert host.payloads == [b"a", b"b"]


async def test_full_group_leaves_no_timer_for_the_next() -> None:
    host = Host()
    lane = HostLane("h", host.take, GroupBounds(max_bytes=2, wait_s=0.02))
    lane.add(KEY, b"ab")
    await asyncio.sleep(0.012)
    late = lane.add(KEY, b"c")
    await asyncio.sleep(0.012)  # the first group's time is over, the second's is not
    assert not late.done()
    assert await late


async def test_calls_begin_in_the_order_of_frames_and_three_are_in_flight() -> None:
    host = Host()
    host.hold()
    lane = HostLane("h", host.take, ALONE)
    counted = [lane.add(KEY, bytes([letter])) for letter in b"abcdefgh"]
    await until(lambda: host.at_once == 3)
    assert (host.payloads, lane.queued_bytes) == ([b"a", b"b", b"c"], 8)
    host.release()
    assert all(await asyncio.gather(*counted))
    assert b"".join(host.payloads) == b"abcdefgh"
    assert lane.queued_bytes == 0


async def test_failed_call_tells_all_its_frames_and_no_others() -> None:
    host = Host(ConnectionError("gone"))
    lane = HostLane("h", host.take, GroupBounds(max_bytes=2, wait_s=NEVER_S))
    with structlog.testing.capture_logs() as logs:
        lost = [lane.add(KEY, b"a"), lane.add(KEY, b"b")]
        kept = [lane.add(KEY, b"c"), lane.add(KEY, b"d")]
        assert await asyncio.gather(*lost, *kept) == [False, False, True, True]
    assert (lane.queued_bytes, lane.groups, lane.failures) == (0, 2, 1)
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("calls to shard host fail", "warning"),
        ("shard host answers again", "info"),
    ]
    assert logs[0]["error"] == "ConnectionError: gone"


async def test_host_that_keeps_failing_fills_no_log() -> None:
    host = Host(*(ConnectionError("gone") for _ in range(5)))
    lane = HostLane("h", host.take, ALONE)
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            assert not await lane.add(KEY, b"a")
    assert lane.failures == 5
    assert len(logs) == 1


async def test_frames_that_the_host_could_not_count_are_told_apart() -> None:
    host = Host((1,))
    lane = HostLane("h", host.take, GroupBounds(max_bytes=3, wait_s=NEVER_S))
    counted = [lane.add(KEY, letter) for letter in (b"a", b"b", b"c")]
    assert await asyncio.gather(*counted) == [True, False, True]
    assert lane.failures == 0


async def test_hanging_host_is_given_up_in_time_also_by_those_who_wait_for_a_place() -> None:
    host = Host()
    host.hold()
    lane = HostLane("h", host.take, ALONE, call_timeout_s=0.05)
    async with asyncio.timeout(1):
        assert await asyncio.gather(*(lane.add(KEY, b"a") for _ in range(10))) == [False] * 10
    assert (len(host.groups), host.at_once, lane.queued_bytes) == (3, 0, 0)
    host.release()
    assert await lane.add(KEY, b"b")


async def test_frames_of_clients_that_went_away_while_they_waited_are_not_sent() -> None:
    host = Host()
    host.hold()
    lane = HostLane("h", host.take, ALONE)
    busy = [lane.add(KEY, b"x") for _ in range(3)]
    gone, staying = lane.add(KEY, b"g"), lane.add(KEY, b"s")
    gone.cancel()
    host.release()
    assert all(await asyncio.gather(*busy, staying))
    assert host.payloads == [b"x", b"x", b"x", b"s"]
    assert lane.queued_bytes == 0


# Dispatcher


def dispatcher(
    hosts: Mapping[str, Host],
    bounds: GroupBounds = ALONE,
    *,
    profiles: ProfileBook | None = None,
    max_queued_bytes: int = 1 << 20,
    clock_ns: Callable[[], int] = lambda: NOW_NS,
    monotonic_ns: Callable[[], int] = lambda: 0,
    gateways: int = 1,
) -> Dispatcher:
    routes = Routes(1, tuple(hosts), ("collector-0",))
    sends = {name: host.take for name, host in hosts.items()}
    return Dispatcher(
        profiles or book(),
        routes,
        sends,
        bounds,
        clock_ns,
        monotonic_ns=monotonic_ns,
        random=lambda: 0.5,
        gateways=gateways,
        max_queued_bytes=max_queued_bytes,
    )


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
    hosts = {f"h{index}": Host() for index in range(3)}
    intake = dispatcher(hosts, profiles=book(overrides(acme=spans_on(shards=5))))
    assert await intake.submit(ACME, request(*["op"] * 200)) == Accepted()
    routes = Routes(1, tuple(hosts), ())
    keys = {name: {key for group in host.groups for key, _ in group.shards} for name, host in hosts.items()}
    assert set().union(*keys.values()) == {ShardKey(ACME, index, 5) for index in range(5)}
    assert all(routes.host_of(ACME, key.index) == name for name, found in keys.items() for key in found)


async def test_requests_of_several_tenants_share_a_call() -> None:
    host = Host()
    tenants = overrides(acme=spans_on(), globex=spans_on(shards=2))
    intake = dispatcher({"h": host}, GroupBounds(1 << 20, 0.01), profiles=book(tenants))
    answers = await asyncio.gather(
        intake.submit(ACME, request("a")),
        intake.submit(TenantId("globex"), request("b")),
        intake.submit(ACME, request("c")),
    )
    assert answers == [Accepted()] * 3
    assert [str(key.tenant) for key, _ in host.groups[0].shards] == ["acme", "globex", "acme"]
    assert len(host.groups) == 1


async def test_request_is_refused_whole_if_one_of_its_hosts_fails() -> None:
    hosts = {"h0": Host(), "h1": Host(RuntimeError("restarting"))}
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
    host = Host((0,))
    intake = dispatcher({"h": host}, GroupBounds(1 << 20, 0.01))
    bad, good = await asyncio.gather(intake.submit(ACME, request("a")), intake.submit(ACME, request("b")))
    assert isinstance(bad, Refused)
    assert bad.reason is RefusalReason.UNAVAILABLE
    assert good == Accepted()


async def test_client_that_goes_away_does_not_disturb_the_others_of_its_group() -> None:
    host = Host()
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
    host = Host()
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
    host = Host()
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
    host = Host()
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
    host = Host()
    intake = dispatcher({"h": host}, clock_ns=lambda: NOW_NS + 60 * 10**9)
    assert await intake.submit(ACME, request("op", "op")) == Accepted()
    key = ("millrace_spans_discarded_total", "acme", "gateway", "outside_metrics_ingestion_slack")
    assert measured(intake)[key] == 2
    assert host.groups == []


async def test_tenant_without_processors_is_accepted_and_nothing_is_sent() -> None:
    host = Host()
    intake = dispatcher({"h": host}, profiles=book({}))
    body = request("op", "op")
    answer = await intake.submit(ACME, body)
    assert isinstance(answer, Accepted)
    assert (answer.rejected_spans, "no active processor" in answer.message) == (0, True)
    assert host.groups == []
    figures = measured(intake)
    assert figures["millrace_spans_received_total", "acme"] == 2
    assert figures["millrace_bytes_received_total", "acme"] == len(body)


async def test_request_that_is_to_become_no_metrics_is_counted_and_goes_nowhere() -> None:
    host = Host()
    intake = dispatcher({"h": host}, profiles=book(overrides(acme=BOTH)))
    late = span("late", end_time_unix_nano=NOW_NS - 60 * SECOND_NS)
    bad = span(trace_id=b"")
    body = request("op", "op", spans=[late, bad])
    answer = await intake.submit(ACME, body, skip_generation=True)
    assert isinstance(answer, Accepted)
    assert answer.rejected_spans == 1
    assert host.groups == []
    figures = measured(intake)
    assert figures["millrace_spans_received_total", "acme"] == 3
    assert figures["millrace_bytes_received_total", "acme"] == len(body)
    assert figures[*DISCARDED, "gateway", "outside_metrics_ingestion_slack"] == 1
    assert figures[*DISCARDED, "gateway", "invalid_trace_id"] == 1
    assert figures["millrace_metrics_generation_skipped_processor_pushes_total", "acme"] == 2
    assert await intake.submit(ACME, body) == answer
    assert len(host.groups) == 1
    assert measured(intake)["millrace_metrics_generation_skipped_processor_pushes_total", "acme"] == 2


async def test_processors_are_those_in_force_also_for_a_tenant_that_is_silent() -> None:
    globex = TenantId("globex")
    intake = dispatcher({"h": Host()}, profiles=book(overrides(acme=BOTH, globex=spans_on())))
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
    host = Host()
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
    intake = dispatcher({"h": Host()})
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
    assert await dispatcher({"h": Host()}).submit(ACME, body) == Accepted()
    assert (threads != [threading.get_ident()]) == is_in_thread


async def test_settings_put_in_force_hold_from_the_next_request() -> None:
    host = Host()
    intake = dispatcher({"h": host})
    await intake.submit(ACME, request("op"))
    intake.book.put_overrides(whole_of(2, overrides(acme=spans_on(shards=3))))
    await intake.submit(ACME, request(*["op"] * 60))
    assert {key.count for key, _ in host.groups[0].shards} == {1}
    assert {key.count for group in host.groups[1:] for key, _ in group.shards} == {3}


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
    now_ns, body, host = [0], request("op", "op"), Host()
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


async def test_spans_of_a_refused_request_that_is_malformed_are_not_counted() -> None:
    intake = dispatcher({"h": Host()}, profiles=limited(rate_limit_bytes=0))
    refused = await intake.submit(ACME, request("op")[:-3])
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.retry_after_s) == (RefusalReason.RATE_LIMITED, None)
    assert discarded(intake) == {"rate_limited": 0}


async def test_request_beyond_the_burst_is_refused_for_good() -> None:  # case 96
    body = request("op", "op", "op")
    intake = dispatcher({"h": Host()}, profiles=limited(burst_size_bytes=len(body) - 1))
    refused = await intake.submit(ACME, body)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.answer.http_status, refused.retry_after_s) == (RefusalReason.TOO_LARGE, 413, None)
    assert discarded(intake) == {"too_large": 3}


async def test_blocked_tenant_is_refused_for_good_and_counted() -> None:
    host = Host()
    intake = dispatcher({"h": host}, profiles=limited(TenantState.BLOCKED))
    refused = await intake.submit(ACME, request("op"))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.answer.http_status, refused.retry_after_s) == (RefusalReason.BLOCKED, 403, None)
    assert discarded(intake) == {"blocked": 1}
    assert host.groups == []


async def test_paused_tenant_is_warned_once_a_minute_and_nothing_is_generated() -> None:
    now_ns, host = [0], Host()
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
    intake = dispatcher({"h": Host()}, profiles=profiles, monotonic_ns=lambda: now_ns[0], gateways=4)
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
    host, body = Host(), request("op")
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
    intake = dispatcher({"h": Host()}, profiles=limited(artificial_delay="1m"))
    answer = asyncio.ensure_future(intake.submit(ACME, body))
    other = asyncio.ensure_future(intake.submit(TenantId("globex"), request("op")))
    await until(other.done)
    assert not answer.done()
    intake.end_delays()
    async with asyncio.timeout(5):
        assert isinstance(await answer, Accepted if body != b"\xff" else Refused)
    histograms = {
        key[1]: value for key, value in measured(intake).items() if key[0] == "millrace_added_latency_seconds"
    }
    assert histograms.keys() == {"acme"}


async def test_cut_attributes_are_counted_by_where_they_stand() -> None:
    host = Host()
    intake = dispatcher({"h": host}, profiles=limited(max_attribute_bytes=64))
    long = KeyValue(key="k", value=AnyValue(string_value="x" * 65))
    body = request(spans=[span(attributes=[long, long])], service="s" * 65)
    assert await intake.submit(ACME, body) == Accepted()
    figures = measured(intake)
    assert figures["millrace_attributes_truncated_total", "acme", "span"] == 2
    assert figures["millrace_attributes_truncated_total", "acme", "resource"] == 1
