import asyncio
import threading
from collections import defaultdict
from typing import Any

import pytest
import structlog

from cluster.gateway import beside_the_loop
from cluster.gateway.refused_report import RefusedReport
from tenants import _engine
from tenants.identity import TenantId
from tenants.processing.flush_record import ShardKey
from tenants.processing.frame_group import FrameGroup, FrameHead
from tests.unit.conditions import until
from tests.unit.frame_taker import NEVER_S, FrameTaker, ledger_of
from tests.unit.tenant_work import ACME, request

GLOBEX = TenantId("globex")
_RefusedSpans = _engine.RefusedSpans


class Shards:
    """The shards of all tenants: each counts a frame once, unless it cannot be had, or hangs."""

    def __init__(self) -> None:
        self.away: set[TenantId] = set()
        self.hanging: set[TenantId] = set()
        self.may_answer = asyncio.Event()
        self.told: defaultdict[TenantId, list[bytes]] = defaultdict(list)
        self.takers: defaultdict[TenantId, FrameTaker] = defaultdict(FrameTaker)

    async def send(self, tenant: TenantId, fingerprint: bytes, frame: bytes) -> bool:
        self.told[tenant].append(fingerprint)
        if tenant in self.hanging:
            await self.may_answer.wait()
        if tenant in self.away:
            return False
        group = FrameGroup((FrameHead(ShardKey(ACME, 0, 1), (0, 1), fingerprint, len(frame)),), frame)
        await self.takers[tenant].take(group)
        return True

    def counted(self, tenant: TenantId) -> int:
        return ledger_of(self.takers[tenant]).get(("gateway", "rate_limited"), 0)


async def refuse(report: RefusedReport, tenant: TenantId, *names: str) -> None:
    assert await report.add(tenant, request(*names), "rate_limited", is_told=True) == len(names)


async def test_refused_spans_are_told_until_a_shard_has_them_and_then_no_more() -> None:
    shards = Shards()
    shards.away = {ACME}
    report = RefusedReport(shards.send, interval_s=0.001)
    await refuse(report, ACME, "a", "b")
    assert await report.add(ACME, request("c")[:-3], "malformed", is_told=True) == 0
    assert await report.add(GLOBEX, request("a"), "blocked", is_told=False) == 1
    await until(lambda: len(shards.told[ACME]) >= 3)
    shards.away = set()
    await until(lambda: report._telling is None)
    assert shards.told.keys() == {ACME}
    assert len(set(shards.told[ACME])) == 1
    assert ledger_of(shards.takers[ACME]) == {("gateway", "received"): 2, ("gateway", "rate_limited"): 2}


@pytest.mark.parametrize("way", ["away", "hanging"])
async def test_tenant_whose_shard_cannot_be_had_keeps_nobody_else_from_being_told(way: str) -> None:
    shards = Shards()
    getattr(shards, way).add(ACME)
    report = RefusedReport(shards.send, interval_s=0.001)
    for round_ in range(1, 6):
        await refuse(report, ACME, "a", "b")
        await refuse(report, GLOBEX, "c")
        await until(lambda told=round_: shards.counted(GLOBEX) == told)  # type: ignore[misc]
    shards.away.clear()
    shards.may_answer.set()
    await until(lambda: report._telling is None)
    assert (shards.counted(ACME), shards.counted(GLOBEX)) == (10, 5)


async def test_drain_tells_what_came_after_what_is_being_told_and_tries_each_once() -> None:
    shards = Shards()
    shards.hanging = {ACME}
    report = RefusedReport(shards.send, interval_s=NEVER_S)
    await refuse(report, ACME, "a")
    telling = [asyncio.create_task(report.tell()) for _ in range(2)]
    await until(lambda: bool(shards.told[ACME]))
    await refuse(report, ACME, "b", "c")
    assert not any(task.done() for task in telling)
    shards.may_answer.set()
    await asyncio.gather(*telling)
    assert (shards.counted(ACME), len(shards.told[ACME])) == (3, 2)
    shards.away = {GLOBEX}
    await refuse(report, GLOBEX, "a")
    await report.tell()
    assert len(shards.told[GLOBEX]) == 1
    shards.away = set()
    await refuse(report, GLOBEX, "b")
    await report.tell()
    assert shards.counted(GLOBEX) == 2


async def test_request_that_is_counted_while_others_are_told_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside_the_loop, "IN_THREAD_BYTES", 0)
    hangs, may_end = threading.Event(), threading.Event()

    class SlowlyCounted:
        """Counts a request in a thread, and only when it may."""

        def __init__(self) -> None:
            self._counted = _RefusedSpans()
            self.take = self._counted.take

        def add(self, body: bytes, reason: str) -> int:
            hangs.set()
            assert may_end.wait(60)
            return self._counted.add(body, reason)

    monkeypatch.setattr(_engine, "RefusedSpans", SlowlyCounted)
    shards = Shards()
    report = RefusedReport(shards.send, interval_s=0.001)
    adding = asyncio.create_task(refuse(report, ACME, "a"))
    await until(hangs.is_set)
    await report.tell()
    may_end.set()
    await adding
    await until(lambda: report._telling is None)
    assert shards.counted(ACME) == 1


async def test_bug_loses_the_spans_that_it_struck_and_no_others() -> None:
    shards = Shards()
    send = shards.send

    async def fail(*_arguments: Any) -> bool:
        raise RuntimeError("bug")

    report = RefusedReport(fail, interval_s=NEVER_S)
    await refuse(report, ACME, "a")
    with structlog.testing.capture_logs() as logs:
        await report.tell()
    assert [line["event"] for line in logs] == ["refused spans could not be told"]
    report._send = send
    await refuse(report, ACME, "b", "c")
    await report.tell()
    assert shards.counted(ACME) == 2
