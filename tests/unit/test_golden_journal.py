"""A journal that this version wrote must be readable to every later one, or be refused by name.

Made by ``python -m tests.unit.test_golden_journal > tests/unit/golden_journal.json``. When the form of an entry, a
record, a checkpoint or a plan changes, keep this file: read it by the new code, and add one of the new form beside it.
"""

import base64
import json
from pathlib import Path
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tenants import _engine
from tenants.journal.entries import BeginEntry, ClaimEntry, CollectEntry, Entry, PlanEntry, RecordEntry, decode, encode
from tenants.processing.profile import TenantProfile
from tenants.processing.tenant_state import TenantState
from tests.remote_write import decode as decode_write
from tests.unit.tenant_work import ACME, NOW_NS, SECOND_NS, book, overrides, request, span

GOLDEN = Path(__file__).with_name("golden_journal.json")
NOW_MS = NOW_NS // 1_000_000


def profile(**generator: Any) -> TenantProfile:
    both = {"processors": ["span-metrics", "service-graphs"], "generate_native_histograms": "both"}
    return book(overrides(acme=both | generator)).get(ACME)


def entries() -> list[Entry]:
    """A tenant's life: it begins, counts, is collected, gets other settings, and counts again."""
    before = profile()
    after = profile(processor={"span_metrics": {"dimensions": ["region"]}})
    life: list[Entry] = [BeginEntry(before.plan_text, NOW_MS - 1000, 7)]
    state = TenantState(ACME, BeginEntry(before.plan_text, NOW_MS - 1000, 7))
    claim = ClaimEntry(0, 1, "host-a", 1, NOW_NS)
    shard = _engine.Shard(before.plan, index=0, count=1, state=state.claim(claim).state)
    life.append(claim)
    for sequence, settings in enumerate([before, before, after], start=1):
        now_ns = NOW_NS + sequence * SECOND_NS
        if settings is after:
            life.append(PlanEntry(after.plan_text))
            shard.set_plan(after.plan, now_ns)
        spans = [
            span("call", kind=Span.SPAN_KIND_CLIENT, trace_id=bytes([sequence]) * 16),
            span("answer", kind=Span.SPAN_KIND_SERVER, trace_id=bytes([sequence]) * 16, parent_span_id=b"\x01" * 8),
            span("half", kind=Span.SPAN_KIND_CLIENT, trace_id=bytes([99, sequence]) * 8),
        ]
        body = request(spans=spans, service="shop")
        ((_, frame),) = _engine.split(body, settings.plan, 1, now_ns).frames
        shard.apply(frame, now_ns, fingerprint=_engine.fingerprint(body))
        life.append(RecordEntry(0, 1, 1, sequence, now_ns, _engine.durable_part(shard.flush(now_ns))))
        life.append(CollectEntry(NOW_MS + sequence * 1000, NOW_MS, is_silent=False))
    return life


def lived(life: list[Entry]) -> TenantState:
    begin, *others = life
    assert isinstance(begin, BeginEntry)
    state = TenantState(ACME, begin)
    for entry in others:
        state.replay(entry)
    return state


def seen(state: TenantState) -> dict[str, Any]:
    """What a state comes to, as JSON has it."""
    values = {}
    checkpoint = state.checkpoint()
    for batch in TenantState.restore(ACME, checkpoint).registry.collect(NOW_MS + 60_000, [], 2000):
        for labels, series in decode_write(batch.body).items():
            name = "".join(f"{key}={value};" for key, value in sorted(labels))
            if series.samples:
                values[name] = series.samples[-1][1]
    return {
        "owners": {str(key): [owner.host, owner.epoch, owner.sequence] for key, owner in state.owners.items()},
        "collected_at_ms": state.collected_at_ms,
        "ledger": sorted(map(list, state.registry.ledger())),
        "open_edges": state.mirror_stats()["open_edges"],
        "values": values,
    }


def golden() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(GOLDEN.read_text())
    return made


def test_entries_that_an_earlier_version_wrote_come_to_the_same() -> None:
    state = lived([decode(base64.b64decode(text)) for text in golden()["entries"]])
    assert seen(state) == golden()["seen"]


def test_checkpoint_that_an_earlier_version_wrote_comes_to_the_same() -> None:
    state = TenantState.restore(ACME, base64.b64decode(golden()["checkpoint"]))
    assert seen(state) == golden()["seen"]


def test_golden_journal_has_something_of_everything() -> None:
    kinds = {type(decode(base64.b64decode(text))) for text in golden()["entries"]}
    assert kinds == {BeginEntry, ClaimEntry, CollectEntry, PlanEntry, RecordEntry}
    names = {name.split("__name__=")[1].split(";")[0] for name in golden()["seen"]["values"]}
    assert {"traces_spanmetrics_calls_total", "traces_service_graph_request_total"} <= names
    assert golden()["seen"]["open_edges"] == 3


def _write() -> None:
    life = entries()
    state = lived(life)
    made = {
        "entries": [base64.b64encode(encode(entry)).decode() for entry in life],
        "checkpoint": base64.b64encode(state.checkpoint()).decode(),
        "seen": seen(state),
    }
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    _write()
