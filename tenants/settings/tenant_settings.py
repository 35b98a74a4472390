"""The effective settings of one tenant: every layer resolved field by field, and where each value came from.

Weakest first: built-in < service configuration < ``overrides.defaults`` < entry ``*`` < entry of the tenant.
The strongest layer in which a field is present wins (tenancy §2.1, D-4). Lists and maps are taken whole,
except intrinsic dimensions, which resolve one by one. Nothing is checked here: layers arrive checked.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, SecretStr

from tenants.identity.tenant_id import TenantId
from tenants.settings.headers import final_headers
from tenants.settings.overrides import WILDCARD, GeneratorOverrides, Overrides, RuntimeOverrides
from tenants.settings.processors import (
    IntrinsicDimensions,
    ProcessorName,
    ServiceGraphsConfig,
    ServiceGraphsOverrides,
    SpanMetricsConfig,
)
from tenants.settings.remote_write import RemoteWriteEndpoint
from tenants.settings.scalars import Duration
from tenants.settings.service_config import RegistryConfig, ServiceConfig

T = TypeVar("T")


class Source(StrEnum):
    """The layer a value came from."""

    BUILTIN = "builtin"
    STATIC = "static"
    DEFAULTS = "defaults"
    WILDCARD = "wildcard"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class SpanMetricsSettings:
    """What the span metrics of one tenant are made of."""

    count: bool
    latency: bool
    size: bool
    histogram_buckets: tuple[float, ...]
    intrinsic_dimensions: IntrinsicDimensions
    dimensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceGraphsSettings:
    """What the service graph of one tenant is made of. ``max_items`` is the tenant's, over all shards."""

    request: bool
    latency: bool
    histogram_buckets: tuple[float, ...]
    dimensions: tuple[str, ...]
    peer_attributes: tuple[str, ...]
    database_name_attributes: tuple[str, ...]
    wait: Duration
    max_items: int
    enable_client_server_prefix: bool
    enable_messaging_system_latency_histogram: bool
    enable_virtual_node_label: bool


@dataclass(frozen=True, slots=True)
class TenantSettings:
    """Everything that is decided about one tenant. Pickles; headers print masked.

    Attributes:
        span_metrics: None when no span-metrics processor is listed.
        service_graphs: None when no service-graphs processor is listed.
        external_labels: on every series, the injected tenant id included; sorted by name.
        remote_write: endpoints with all headers that a request of this tenant carries.
        provenance: dotted key to :class:`Source`. Not part of equality: the value counts, not its origin.
    """

    tenant: TenantId
    span_metrics: SpanMetricsSettings | None
    service_graphs: ServiceGraphsSettings | None
    ingestion_time_range_slack: Duration
    collection_interval: Duration
    stale_duration: Duration
    trace_id_label_name: str
    max_active_series: int
    max_label_name_length: int
    max_label_value_length: int
    external_labels: tuple[tuple[str, str], ...]
    shards: int
    remote_write: tuple[RemoteWriteEndpoint, ...]
    provenance: Mapping[str, str] = field(compare=False, repr=False)

    @property
    def is_generating(self) -> bool:
        """Whether any processor is listed; if not, spans are accepted and nothing is generated."""
        return self.span_metrics is not None or self.service_graphs is not None


def resolve(config: ServiceConfig, runtime: RuntimeOverrides, tenant: TenantId) -> TenantSettings:
    """Merge all layers for one tenant. Pure; cheap enough to call for every tenant on every change."""
    layers = _Layers(config, runtime, tenant)
    generator, registry = config.metrics_generator, config.metrics_generator.registry
    nothing: tuple[ProcessorName, ...] = ()
    processors = layers.pick("processors", lambda g: g.processors, _builtin(nothing))
    return TenantSettings(
        tenant=tenant,
        span_metrics=_span_metrics(layers, processors, generator.processor.span_metrics),
        service_graphs=_service_graphs(layers, processors, generator.processor.service_graphs),
        ingestion_time_range_slack=layers.pick(
            "ingestion_time_range_slack",
            lambda g: g.ingestion_time_range_slack,
            _static(generator, "metrics_ingestion_time_range_slack"),
        ),
        collection_interval=layers.pick(
            "collection_interval", lambda g: g.collection_interval, _static(registry, "collection_interval")
        ),
        stale_duration=layers.take("registry.stale_duration", _static(registry, "stale_duration")),
        trace_id_label_name=layers.pick("trace_id_label_name", lambda g: g.trace_id_label_name, _builtin("traceID")),
        max_active_series=layers.pick("max_active_series", lambda g: g.max_active_series, _builtin(0)),
        max_label_name_length=layers.take("registry.max_label_name_length", _static(registry, "max_label_name_length")),
        max_label_value_length=layers.take(
            "registry.max_label_value_length", _static(registry, "max_label_value_length")
        ),
        external_labels=_external_labels(layers, registry, tenant),
        shards=layers.pick("shards", lambda g: g.shards, _builtin(1)),
        remote_write=_remote_write(layers, config, tenant),
        provenance=layers.provenance,
    )


@dataclass(frozen=True, slots=True)
class _Fallback(Generic[T]):
    """The value of a field that no override layer holds."""

    value: T
    source: Source


def _builtin(value: T) -> _Fallback[T]:
    return _Fallback(value, Source.BUILTIN)


def _static(model: BaseModel, name: str) -> _Fallback[Any]:
    """Read a field of the service configuration; a default there is built in, not configured."""
    is_set = name in model.model_fields_set
    return _Fallback(getattr(model, name), Source.STATIC if is_set else Source.BUILTIN)


class _Layers:
    """The override layers of one tenant, strongest first, and a record of which one answered."""

    def __init__(self, config: ServiceConfig, runtime: RuntimeOverrides, tenant: TenantId) -> None:
        entries: tuple[tuple[Source, Overrides | None], ...] = (
            (Source.TENANT, runtime.get(str(tenant))),
            (Source.WILDCARD, runtime.get(WILDCARD)),
            (Source.DEFAULTS, config.overrides.defaults),
        )
        self._layers = tuple((source, entry.metrics_generator) for source, entry in entries if entry is not None)
        self.provenance: dict[str, str] = {}

    def pick(self, key: str, read: Callable[[GeneratorOverrides], T | None], fallback: _Fallback[T]) -> T:
        """Return the strongest value that is present; an explicit zero, false or empty list is present."""
        for source, layer in self._layers:
            value = read(layer)
            if value is not None:
                return self.take(key, _Fallback(value, source))
        return self.take(key, fallback)

    def take(self, key: str, found: _Fallback[T]) -> T:
        """Record where the value of ``key`` came from and return it."""
        self.provenance[f"metrics_generator.{key}"] = found.source
        return found.value


def _span_metrics(
    layers: _Layers, processors: Collection[ProcessorName], static: SpanMetricsConfig
) -> SpanMetricsSettings | None:
    prefix = "processor.span_metrics"
    settings = SpanMetricsSettings(
        count=_runs(processors, ProcessorName.SPAN_METRICS, ProcessorName.SPAN_METRICS_COUNT),
        latency=_runs(processors, ProcessorName.SPAN_METRICS, ProcessorName.SPAN_METRICS_LATENCY),
        size=_runs(processors, ProcessorName.SPAN_METRICS, ProcessorName.SPAN_METRICS_SIZE),
        # The reference drops configured buckets when only sub-processors are listed (processors Q27).
        histogram_buckets=layers.pick(
            f"{prefix}.histogram_buckets",
            lambda g: g.processor.span_metrics.histogram_buckets,
            _static(static, "histogram_buckets"),
        ),
        intrinsic_dimensions=_intrinsic_dimensions(layers, static.intrinsic_dimensions),
        dimensions=layers.pick(
            f"{prefix}.dimensions",
            lambda g: g.processor.span_metrics.dimensions,
            _static(static, "dimensions"),
        ),
    )
    return settings if settings.count or settings.latency or settings.size else None


def _intrinsic_dimensions(layers: _Layers, static: IntrinsicDimensions) -> IntrinsicDimensions:
    prefix = "processor.span_metrics.intrinsic_dimensions"

    def chosen(name: str) -> bool:
        def read(layer: GeneratorOverrides) -> bool | None:
            value: bool | None = getattr(layer.processor.span_metrics.intrinsic_dimensions, name)
            return value

        is_label: bool = layers.pick(f"{prefix}.{name}", read, _static(static, name))
        return is_label

    return IntrinsicDimensions(**{name: chosen(name) for name in IntrinsicDimensions.model_fields})


def _service_graphs(
    layers: _Layers, processors: Collection[ProcessorName], static: ServiceGraphsConfig
) -> ServiceGraphsSettings | None:
    def pick(name: str, read: Callable[[ServiceGraphsOverrides], T | None]) -> T:
        key = f"processor.service_graphs.{name}"
        value: T = layers.pick(key, lambda g: read(g.processor.service_graphs), _static(static, name))
        return value

    def take(name: str) -> Any:
        return layers.take(f"processor.service_graphs.{name}", _static(static, name))

    settings = ServiceGraphsSettings(
        request=_runs(processors, ProcessorName.SERVICE_GRAPHS, ProcessorName.SERVICE_GRAPHS_REQUEST),
        latency=_runs(processors, ProcessorName.SERVICE_GRAPHS, ProcessorName.SERVICE_GRAPHS_LATENCY),
        histogram_buckets=pick("histogram_buckets", lambda s: s.histogram_buckets),
        dimensions=pick("dimensions", lambda s: s.dimensions),
        peer_attributes=pick("peer_attributes", lambda s: s.peer_attributes),
        database_name_attributes=take("database_name_attributes"),
        wait=take("wait"),
        max_items=take("max_items"),
        enable_client_server_prefix=pick("enable_client_server_prefix", lambda s: s.enable_client_server_prefix),
        enable_messaging_system_latency_histogram=pick(
            "enable_messaging_system_latency_histogram", lambda s: s.enable_messaging_system_latency_histogram
        ),
        enable_virtual_node_label=pick("enable_virtual_node_label", lambda s: s.enable_virtual_node_label),
    )
    return settings if settings.request or settings.latency else None


def _runs(processors: Collection[ProcessorName], parent: ProcessorName, part: ProcessorName) -> bool:
    """Fold sub-names into their parent: the bare parent runs every part (processors §5.4)."""
    return parent in processors or part in processors


def _external_labels(layers: _Layers, registry: RegistryConfig, tenant: TenantId) -> tuple[tuple[str, str], ...]:
    labels = dict(layers.take("registry.external_labels", _static(registry, "external_labels")))
    # The tenant id is set last, so it wins over an external label of the same name (processors §4.5).
    if name := layers.take("registry.inject_tenant_id_as", _static(registry, "inject_tenant_id_as")):
        labels[name] = str(tenant)
    return tuple(sorted(labels.items()))


def _remote_write(layers: _Layers, config: ServiceConfig, tenant: TenantId) -> tuple[RemoteWriteEndpoint, ...]:
    endpoints = layers.pick("remote_write", lambda g: g.remote_write, _static(config, "remote_write"))
    no_headers: Mapping[str, SecretStr] = {}
    own = layers.pick("remote_write_headers", lambda g: g.remote_write_headers, _builtin(no_headers))
    org_id = tenant if config.multitenancy_enabled and config.remote_write_add_org_id_header else None
    return tuple(
        endpoint.model_copy(
            update={"name": endpoint.display_name, "headers": final_headers(endpoint.headers, own, org_id)}
        )
        for endpoint in endpoints
    )
