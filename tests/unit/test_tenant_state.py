import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tenants import _engine
from tenants.endpoint.recovery import recover
from tenants.journal.entries import BeginEntry, ClaimEntry, RecordEntry, encode
from tenants.journal.errors import JournalDamaged
from tenants.processing.flush_record import ShardKey
from tenants.processing.profile import TenantProfile
from tenants.processing.tenant_state import CheckpointError, TenantState
from tests.unit.journalled import Bench, journalled
from tests.unit.tenant_work import ACME, NOW_NS, book, edges_on, overrides, request, span, spans_on

NOW_MS = NOW_NS // 1_000_000


def profile(**entry: object) -> TenantProfile:
    return book(overrides(acme=entry or spans_on())).get(ACME)


def begun(settings: TenantProfile) -> BeginEntry:
    return BeginEntry(settings.plan_text, NOW_MS - 1000, 7)


def record_of(settings: TenantProfile, body: bytes, state: bytes = b"") -> bytes:
    shard = _engine.Shard(settings.plan, index=0, count=1, state=state)
    ((_, frame),) = _engine.split(body, settings.plan, 1, NOW_NS).frames
    shard.apply(frame, NOW_NS, fingerprint=_engine.fingerprint(body))
    return _engine.durable_part(shard.flush(NOW_NS))


def of_another_version(record: bytes) -> bytes:
    return bytes([record[0] - 1]) + record[1:]


def test_record_of_another_version_is_not_passed_over() -> None:
    settings = profile()
    state = TenantState(ACME, begun(settings))
    state.replay(ClaimEntry(0, 1, "host-a", 1, NOW_NS))
    record = record_of(settings, request("a"))
    with pytest.raises(CheckpointError, match="another version of the engine; run the version of Millrace"):
        state.replay(RecordEntry(0, 1, 1, 1, NOW_NS, of_another_version(record)))
    assert state.owners[ShardKey(ACME, 0, 1)].sequence == 0
    state.replay(RecordEntry(0, 1, 1, 1, NOW_NS, record))
    assert state.owners[ShardKey(ACME, 0, 1)].sequence == 1


@pytest.mark.parametrize("fault", ["record", "plan of the beginning"])
async def test_journal_of_another_version_is_damage_of_its_tenant(fault: str) -> None:
    settings = profile()
    begin, record = begun(settings), record_of(settings, request("a"))
    if fault == "record":
        record = of_another_version(record)
    else:
        begin = BeginEntry('{"a_setting_of_the_future": 1}', begin.started_at_ms, begin.seed)
    async with journalled() as bench:
        entries = [begin, ClaimEntry(0, 1, "host-a", 1, NOW_NS), RecordEntry(0, 1, 1, 1, NOW_NS, record)]
        append(bench, *map(encode, entries))
        with pytest.raises(JournalDamaged):
            recover(bench.store, ACME, settings.settings)


def append(bench: Bench, *bodies: bytes) -> None:
    bench.store.append([(ACME, position, body) for position, body in enumerate(bodies, start=1)])


def test_half_edges_of_what_a_claim_leaves_over_are_looked_after() -> None:
    settings = profile(**edges_on())
    state = TenantState(ACME, begun(settings))
    first = state.claim(ClaimEntry(0, 1, "host-a", 1, NOW_NS))
    waiting = [span("call", trace_id=bytes([number * 16 + 3]) * 16, kind=Span.SPAN_KIND_CLIENT) for number in range(16)]
    record = record_of(settings, request(spans=waiting, service="shop"), first.state)
    assert state.take(RecordEntry(0, 1, 1, 1, NOW_NS, record))
    assert state.orphans() == []
    state.claim(ClaimEntry(0, 2, "host-b", 2, NOW_NS))
    assert state.orphans() == [ShardKey(ACME, 0, 1)]
    state.claim(ClaimEntry(1, 2, "host-b", 3, NOW_NS))
    assert state.orphans() == []
