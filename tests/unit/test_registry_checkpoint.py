"""A registry restored from its checkpoint, and one whose collections were silent, go on as the one that was kept.

Drawn lives of a tenant are lived by all three at once: what each collection encodes is compared byte for byte, the
figures after every step, and at the end the checkpoints. Exemplars that wait for a collection are not in a checkpoint:
where spans have traces, a collection comes before it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenants._engine import MalformedFrame, Plan, Registry, Relabel, Shard, split
from tenants.settings.protobuf_message import ProtobufMessage
from tests.script_strategies import NOW_NS
from tests.trace_strategies import MULTIPLIER_KEY
from tests.traces import (
    CLIENT,
    ERROR,
    INTERNAL,
    SERVER,
    batch,
    histograms_plan,
    host_info_plan,
    plan,
    request,
    service_graphs_plan,
    span,
    span_metrics_plan,
)

# A failing example is made small for up to five minutes before it is shown.
pytestmark = pytest.mark.timeout(400 if settings.get_current_profile_name() == "quick" else 3600)

START_MS = NOW_NS // 1_000_000
SHARDS = 3
SECOND_MS = 1000
SEED = 2**64 - 1


def rules(regex: str) -> Relabel:
    """Return rules under which series of several label sets become one."""
    drop = {"source_labels": [], "separator": ";", "regex": regex, "modulus": 0}
    return Relabel(json.dumps([drop | {"target_label": "", "replacement": "$1", "action": "labeldrop"}]))


MERGING_RULES = rules("e|span_name|client|server")


@dataclass(frozen=True, slots=True)
class Seen:
    """A span, as a shard sees it."""

    entity: int
    name: str
    kind: int
    status: int | None
    duration_ns: int
    ratio: float
    pod: int

    def batch(self, now_ns: int, number: int, *, has_trace: bool) -> Any:
        """Return the batch with this span alone."""
        one = span(
            self.name,
            kind=self.kind,
            trace_id=bytes([number + 1]) * 16 if has_trace else bytes(16),
            span_id=bytes([number + 1]) * 8,
            start_ns=now_ns - self.duration_ns,
            end_ns=now_ns,
            status=self.status,
            attributes={"e": self.entity, MULTIPLIER_KEY: self.ratio},
        )
        return batch({"service.name": "s", "service.instance.id": f"pod-{self.pod}", "host.id": f"h{self.pod}"}, one)


@dataclass(frozen=True, slots=True)
class Count:
    """A shard counts spans and its record is merged."""

    shard: int
    spans: Sequence[Seen]


@dataclass(frozen=True, slots=True)
class Replace:
    """A shard is lost, and another one begins with its number."""

    shard: int


@dataclass(frozen=True, slots=True)
class Change:
    """Other settings; shards hear of them before the registry or after it."""

    plan: dict[str, Any]
    registry_first: bool


@dataclass(frozen=True, slots=True)
class Collect:
    """A collection."""

    is_relabelled: bool
    max_samples: int
    counter_exemplars: bool


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is stale ends while collection is off."""


@dataclass(frozen=True, slots=True)
class EndAll:
    """Everything ends."""


@dataclass(frozen=True, slots=True)
class Restore:
    """The registry that is not kept is replaced by what its checkpoint says."""


COLLECT = Collect(is_relabelled=True, max_samples=100, counter_exemplars=False)
Step = Count | Replace | Change | Collect | Sweep | EndAll | Restore


class Life:
    """One tenant's shards, and three registries that merge the same records."""

    def __init__(self, one: dict[str, Any], *, has_traces: bool) -> None:
        self.plan = Plan(json.dumps(one))
        self.has_traces = has_traces
        self.now_ns = NOW_NS
        self.shards = [Shard(self.plan) for _ in range(SHARDS)]
        self.kept, self.restored, self.silent = (Registry(self.plan, START_MS, seed=SEED) for _ in range(3))

    @property
    def registries(self) -> tuple[Registry, Registry, Registry]:
        """The one that was kept, the one that is restored, and the one that encodes nothing."""
        return self.kept, self.restored, self.silent

    @property
    def now_ms(self) -> int:
        """The present."""
        return self.now_ns // 1_000_000

    def step(self, step: Step, pause_ms: int) -> None:
        """Live through one step, this long after the one before."""
        self.now_ns += pause_ms * 1_000_000
        match step:
            case Count(shard, spans):
                self._count(shard, spans)
            case Replace(shard):
                self.shards[shard] = Shard(self.plan)
                for registry in self.registries:
                    registry.forget_source(shard)
            case Change():
                self._change(step)
            case Collect():
                self._collect(step)
            case Sweep():
                for registry in self.registries:
                    registry.sweep(self.now_ms)
            case EndAll():
                kept, restored, _ = (bodies(registry.end_all(self.now_ms, [], 10)) for registry in self.registries)
                assert kept == restored
            case Restore():
                if self.has_traces:
                    self.step(Collect(is_relabelled=False, max_samples=100, counter_exemplars=True), SECOND_MS)
                self.restored = Registry.restore(self.plan, self.restored.checkpoint())

    def _count(self, shard: int, spans: Sequence[Seen]) -> None:
        batches = [seen.batch(self.now_ns, number, has_trace=self.has_traces) for number, seen in enumerate(spans)]
        body = request(*batches).SerializeToString()
        for _, frame in split(body, self.plan, 1, self.now_ns, strict_ids=False).frames:
            self.shards[shard].apply(frame, self.now_ns)
        self._merge(shard, self.shards[shard].flush(self.now_ns, close_edges=True))

    def _merge(self, shard: int, record: bytes) -> None:
        for registry in self.registries if record else ():
            registry.merge(shard, record, self.now_ns)

    def _change(self, change: Change) -> None:
        self.plan = Plan(json.dumps(change.plan))
        if change.registry_first:
            for registry in self.registries:
                registry.set_plan(self.plan)
        for number, shard in enumerate(self.shards):
            self._merge(number, shard.set_plan(self.plan, self.now_ns))
        if not change.registry_first:
            for registry in self.registries:
                registry.set_plan(self.plan)

    def _collect(self, collect: Collect) -> None:
        rules = [None, MERGING_RULES] if collect.is_relabelled else [None]
        endpoints = [(each, message) for each in rules for message in ProtobufMessage]
        kept, restored = (
            [
                (bodies(batches), left_out)
                for batches, left_out in registry.collect_each(
                    self.now_ms,
                    [("cluster", "c")],
                    collect.max_samples,
                    endpoints,
                    counter_exemplars=collect.counter_exemplars,
                )
            ]
            for registry in (self.kept, self.restored)
        )
        assert kept == restored
        self.silent.collect_silently(self.now_ms)


def bodies(batches: Any) -> list[bytes]:
    """Return what is sent."""
    return [write.body for write in batches]


def figures(registry: Registry) -> Any:
    """Return all that a registry tells of itself, but for its memory: room to grow is not kept."""
    stats = registry.stats()
    del stats["state_bytes"]
    return stats, registry.label_stats(), registry.drain_tokens_per_line()


names = st.sampled_from(["GET /users/1", "GET /users/2", "GET /users/42/a", "GET /users/me", "GET /users/you", "op"])
spans = st.builds(
    Seen,
    entity=st.integers(0, 6),
    name=names,
    kind=st.sampled_from([SERVER, CLIENT, INTERNAL]),
    status=st.sampled_from([None, ERROR]),
    duration_ns=st.sampled_from([0, 1, 10**6, 10**9, 3 * 10**9]) | st.integers(0, 2**36),
    ratio=st.sampled_from([1.0, 1.0, 1.0, 0.3]),
    pod=st.integers(0, 2),
)
flags = st.booleans()
bounds = st.sampled_from([[], [0.002, 0.1, 1.0], [0.1, 0.5, 1.0, 2.0]])
multipliers = st.sampled_from(["", "", MULTIPLIER_KEY])


@st.composite
def changing_plans(draw: st.DrawFn) -> dict[str, Any]:
    """Draw settings under which much ends, is limited, learned and moved."""
    enable = st.sampled_from([True, True, True, False])
    of_spans = span_metrics_plan(
        count=draw(enable),
        latency=draw(enable),
        size=draw(enable),
        histogram_buckets=draw(bounds),
        dimensions=draw(st.sampled_from([["e"], ["e"], []])),
        enable_target_info=draw(flags),
        span_multiplier_key=draw(multipliers),
    )
    of_graphs = service_graphs_plan(
        request=draw(enable),
        latency=draw(enable),
        connection_info=draw(flags),
        histogram_buckets=draw(bounds),
        dimensions=draw(st.sampled_from([["e"], []])),
        peer_attributes=["e"],
        span_multiplier_key=draw(multipliers),
        enable_messaging_system_latency_histogram=draw(flags),
    )
    return plan(
        of_spans if draw(enable) else None,
        of_graphs if draw(flags) else None,
        draw(st.none() | st.builds(host_info_plan, metric_name=st.sampled_from(["hosts", "h"]))),
        histograms=histograms_plan(
            draw(st.sampled_from(["classic", "native", "both"])),
            native_bucket_factor=draw(st.sampled_from([1.1, 1.5, 65536.0])),
            native_max_buckets=draw(st.sampled_from([1, 2, 100])),
            native_min_reset_duration_s=draw(st.sampled_from([0.0, 30.0])),
        ),
        stale_duration_s=draw(st.sampled_from([30.0, 300.0, 900.0, 1e6])),
        limiter_type=draw(st.sampled_from(["series", "entity"])),
        max_active_series=draw(st.sampled_from([0, 0, 12, 40])),
        max_active_entities=draw(st.sampled_from([0, 0, 2])),
        max_cardinality_per_label=draw(st.sampled_from([0, 0, 1, 3])),
        span_name_sanitization=draw(st.sampled_from(["", "dry_run", "enabled", "enabled"])),
    )


shards = st.integers(0, SHARDS - 1)
counts = st.builds(Count, shards, st.lists(spans, min_size=1, max_size=5))
collections = st.builds(Collect, flags, st.sampled_from([1, 20, 2000]), flags)
others = st.builds(Replace, shards) | st.builds(Change, changing_plans(), flags) | st.builds(Sweep) | st.builds(EndAll)
pauses_ms = st.sampled_from([1, 1, SECOND_MS, 15 * SECOND_MS, 31 * SECOND_MS, 301 * SECOND_MS])
steps = st.tuples(
    st.one_of(counts, counts, counts, counts, collections, collections, st.builds(Restore), others), pauses_ms
)


@given(one=changing_plans(), has_traces=flags, lived=st.lists(steps, min_size=5, max_size=40))
def test_restored_and_silent_registries_go_on_as_the_one_that_was_kept(
    one: dict[str, Any], has_traces: bool, lived: list[tuple[Step, int]]
) -> None:
    compare(Life(one, has_traces=has_traces), lived)


def compare(life: Life, lived: list[tuple[Step, int]]) -> None:
    """Live through all steps, each behind its pause, and the end: the three registries are alike at every moment."""
    for step, pause_ms in [*lived, (Restore(), 1), (COLLECT, SECOND_MS), (COLLECT, SECOND_MS)]:
        life.step(step, pause_ms)
        kept, restored, silent = (figures(registry) for registry in life.registries)
        assert kept == restored == silent
    kept, restored, silent = (registry.checkpoint() for registry in life.registries)
    assert kept == restored == silent


def test_a_label_set_stays_known_as_long_as_one_of_its_shards_lives() -> None:
    life = Life(plan(span_metrics_plan(), stale_duration_s=30.0), has_traces=False)
    seen = Seen(0, "GET /users/1", SERVER, None, 10**6, 1.0, 0)
    both = [(Count(0, [seen]), 1), (Count(1, [seen]), 1)]
    end_and_go_on = [(Replace(0), 1), (COLLECT, 31 * SECOND_MS), (Count(1, [seen]), 1), (COLLECT, SECOND_MS)]
    compare(life, [*both, (COLLECT, SECOND_MS), (Restore(), 1), *end_and_go_on])
    assert life.kept.stats()["entities_removed"] == 1
    assert life.kept.stats()["active_entities"] == 1


def counted() -> tuple[Plan, Registry]:
    """Return a registry with a little of everything, and the settings it was counted under."""
    one = plan(span_metrics_plan(dimensions=["e"]), service_graphs_plan(), span_name_sanitization="enabled")
    life = Life(one, has_traces=True)
    seen = [Seen(entity, f"GET /users/{entity}", SERVER, None, 10**6, 1.0, 0) for entity in range(5)]
    life.step(Count(0, seen), SECOND_MS)
    return life.plan, life.kept


def test_a_checkpoint_says_nothing_of_how_its_registry_came_to_be() -> None:
    compiled, registry = counted()
    checkpoint = registry.checkpoint()
    assert registry.checkpoint() == checkpoint
    assert Registry.restore(compiled, memoryview(checkpoint)).checkpoint() == checkpoint


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (lambda checkpoint: b"", "too short"),
        (lambda checkpoint: checkpoint[:-1], "checksum differs"),
        (lambda checkpoint: checkpoint[:99] + b"\xff" + checkpoint[100:], "checksum differs"),
    ],
)
def test_bytes_that_are_no_checkpoint_are_refused(changed: Any, fault: str) -> None:
    compiled, registry = counted()
    with pytest.raises(MalformedFrame, match=f"damaged checkpoint: {fault}"):
        Registry.restore(compiled, changed(registry.checkpoint()))


@pytest.mark.parametrize(
    "other",
    [
        plan(span_metrics_plan(), None),
        plan(span_metrics_plan(size=False), service_graphs_plan()),
        plan(span_metrics_plan(histogram_buckets=[1.0]), service_graphs_plan()),
        plan(span_metrics_plan(), service_graphs_plan(), histograms=histograms_plan("both")),
        plan(span_metrics_plan(), service_graphs_plan(), host_info_plan()),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_and_says_what_to_do(other: dict[str, Any]) -> None:
    _, registry = counted()
    with pytest.raises(
        MalformedFrame, match="made under settings with other metrics or buckets; restore it with those"
    ):
        Registry.restore(Plan(json.dumps(other)), registry.checkpoint())
