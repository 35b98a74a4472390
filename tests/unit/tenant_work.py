"""Settings and spans of small tenants, and what their registries come to: for tests of everything between the two."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tenants import _engine
from tenants.identity import TenantId
from tenants.processing.flush_record import Claimed, ShardKey
from tenants.processing.frame_group import FrameGroup, FrameHead
from tenants.processing.profile import ProfileBook, TenantProfile
from tenants.settings import Overrides, RuntimeOverrides, ServiceConfig, parse_service_config
from tenants.settings.model import validate
from tests.overrides_in_force import whole_of
from tests.remote_write import decode

ACME: Final = TenantId("acme")
NOW_NS: Final = 1_800_000_000_000_000_000
SECOND_NS: Final = 1_000_000_000


def config(text: str = "") -> ServiceConfig:
    return parse_service_config(text.encode(), {})


def overrides(**generators: Mapping[str, Any]) -> RuntimeOverrides:
    """Entries of a runtime file: the ``metrics_generator`` of each tenant."""
    return {tenant: validate(Overrides, {"metrics_generator": dict(entry)}) for tenant, entry in generators.items()}


def spans_on(**generator: Any) -> dict[str, Any]:
    return {"processors": ["span-metrics"], **generator}


def edges_on(**generator: Any) -> dict[str, Any]:
    return {"processors": ["service-graphs"], **generator}


def book(runtime: RuntimeOverrides | None = None, text: str = "") -> ProfileBook:
    """A book in which ``runtime`` is in force as version 1; by default one tenant, acme, with span metrics."""
    made = ProfileBook(config(text))
    made.put_overrides(whole_of(1, overrides(acme=spans_on()) if runtime is None else runtime))
    return made


class TraceIds:
    """A new trace id for every span, so that the spans spread over the shards."""

    def __init__(self) -> None:
        self._last = 0

    def __next__(self) -> bytes:
        self._last += 1
        # Far apart, as random ids are; the same in every run.
        return (self._last * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128).to_bytes(16, "big")


_trace_ids = TraceIds()


def request(*names: str, spans: Iterable[Span] = (), service: str = "") -> bytes:
    """The body of an export request with one span of each name, each in a trace of its own."""
    built = ExportTraceServiceRequest()
    resource_spans = built.resource_spans.add()
    if service:
        attribute = KeyValue(key="service.name", value=AnyValue(string_value=service))
        resource_spans.resource.attributes.append(attribute)
    scope = resource_spans.scope_spans.add()
    for name in names:
        scope.spans.append(span(name, trace_id=next(_trace_ids)))
    scope.spans.extend(spans)
    return built.SerializeToString()


def span(name: str = "op", **fields: Any) -> Span:
    times = {"start_time_unix_nano": NOW_NS - SECOND_NS, "end_time_unix_nano": NOW_NS}
    ids = {"trace_id": b"\x07" * 16, "span_id": b"\x01" * 8}
    return Span(name=name, **{**times, **ids, **fields})


def group(profile: TenantProfile, *names: str, count: int | None = None, body: bytes = b"") -> FrameGroup:
    """The frames of one request, as a gateway makes them."""
    shards = count or profile.settings.shards
    body = body or request(*names)
    split = _engine.split(body, profile.plan, shards, NOW_NS)
    tenant = profile.settings.tenant
    heads = tuple(
        FrameHead(ShardKey(tenant, index, shards), (index, shards), _engine.fingerprint(body), len(frame))
        for index, frame in split.frames
    )
    return FrameGroup(heads, b"".join(frame for _, frame in split.frames))


def joined(*groups: FrameGroup) -> FrameGroup:
    return FrameGroup(sum((each.heads for each in groups), ()), b"".join(each.payload for each in groups))


class EmptyClaims:
    """Gives out ranges that nobody had before, each time in a new epoch."""

    def __init__(self) -> None:
        self.epoch = 0
        self.refused: set[TenantId] = set()
        self.asked: list[list[ShardKey]] = []

    def __call__(self, keys: Sequence[ShardKey]) -> dict[ShardKey, Claimed]:
        self.asked.append(list(keys))
        claimed = {}
        for key in keys:
            if key.tenant not in self.refused:
                self.epoch += 1
                claimed[key] = Claimed(self.epoch, b"")
        return claimed


def calls(bodies: Iterable[bytes], label: str = "span_name") -> dict[str, float]:
    """The last value of the call counter in these remote writes, by one label."""
    values: dict[str, float] = {}
    for body in bodies:
        for key, series in decode(body).items():
            labels = dict(key)
            if labels["__name__"] == "traces_spanmetrics_calls_total":
                values[labels.get(label, "")] = series.samples[-1][1]
    return values


def collected(registry: _engine.Registry, now_ms: int = NOW_NS // 1_000_000 + 60_000) -> dict[str, float]:
    """Collect, and return the call counters by span name."""
    return calls(batch.body for batch in registry.collect(now_ms, [], 2000))
