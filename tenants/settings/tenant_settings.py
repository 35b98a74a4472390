"""The effective settings of one tenant: every layer resolved field by field, and where each value came from.

Weakest first: built-in < service configuration < ``overrides.defaults`` < entry ``*`` < entry of the tenant. Lists and
maps are taken whole, except intrinsic dimensions, which resolve one by one. Nothing is checked here: layers arrive
checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from tenants.identity.tenant_id import TenantId
from tenants.settings import processor_settings
from tenants.settings.headers import final_headers
from tenants.settings.layers import Layers, Source, builtin, static
from tenants.settings.native_histograms import (
    DEFAULT_BUCKET_FACTOR,
    DEFAULT_MAX_BUCKETS,
    DEFAULT_MIN_RESET_DURATION,
    HistogramMode,
)
from tenants.settings.overrides import RuntimeOverrides, SpanNameSanitization
from tenants.settings.processor_settings import HostInfoSettings, ServiceGraphsSettings, SpanMetricsSettings
from tenants.settings.processors import ProcessorName
from tenants.settings.remote_write import RemoteWriteEndpoint
from tenants.settings.scalars import Duration
from tenants.settings.service_config import LimiterType, RegistryConfig, ServiceConfig

__all__ = [
    "HistogramSettings",
    "HostInfoSettings",
    "ServiceGraphsSettings",
    "Source",
    "SpanMetricsSettings",
    "TenantSettings",
    "resolve",
]


@dataclass(frozen=True, slots=True)
class HistogramSettings:
    """The form of all histograms of one tenant; the bounds are those of native ones."""

    mode: HistogramMode
    native_bucket_factor: float
    native_max_buckets: int
    native_min_reset_duration: Duration


@dataclass(frozen=True, slots=True)
class TenantSettings:
    """Everything that is decided about one tenant. Pickles; headers print masked.

    Attributes:
        span_metrics: None when no span-metrics processor is listed.
        service_graphs: None when no service-graphs processor is listed.
        host_info: None when host-info is not listed.
        disable_collection: count, but write nothing (tenancy §2.4).
        limiter_type: which of ``max_active_series`` and ``max_active_entities`` is in force.
        external_labels: on every series, the injected tenant id included; sorted by name.
        remote_write: endpoints with all headers that a request of this tenant carries.
        provenance: dotted key to :class:`Source`. Not part of equality: the value counts, not its origin.
    """

    tenant: TenantId
    span_metrics: SpanMetricsSettings | None
    service_graphs: ServiceGraphsSettings | None
    host_info: HostInfoSettings | None
    histograms: HistogramSettings
    ingestion_time_range_slack: Duration
    collection_interval: Duration
    disable_collection: bool
    stale_duration: Duration
    trace_id_label_name: str
    limiter_type: LimiterType
    max_active_series: int
    max_active_entities: int
    max_cardinality_per_label: int
    span_name_sanitization: SpanNameSanitization
    max_label_name_length: int
    max_label_value_length: int
    external_labels: tuple[tuple[str, str], ...]
    shards: int
    remote_write: tuple[RemoteWriteEndpoint, ...]
    provenance: Mapping[str, str] = field(compare=False, repr=False)

    @property
    def active_processors(self) -> tuple[ProcessorName, ...]:
        """The processors that run, whole or in part, as the metric ``active_processors`` names them: by the parent."""
        running = {
            ProcessorName.SPAN_METRICS: self.span_metrics,
            ProcessorName.SERVICE_GRAPHS: self.service_graphs,
            ProcessorName.HOST_INFO: self.host_info,
        }
        return tuple(name for name, settings in running.items() if settings is not None)

    @property
    def is_generating(self) -> bool:
        """Whether any processor is listed; if not, spans are accepted and nothing is generated."""
        return bool(self.active_processors)


def resolve(config: ServiceConfig, runtime: RuntimeOverrides, tenant: TenantId) -> TenantSettings:
    """Merge all layers for one tenant. Pure; cheap enough to call for every tenant on every change."""
    layers = Layers(config, runtime, tenant)
    generator, registry = config.metrics_generator, config.metrics_generator.registry
    nothing: tuple[ProcessorName, ...] = ()
    processors = layers.pick("processors", lambda g: g.processors, builtin(nothing))
    return TenantSettings(
        tenant=tenant,
        span_metrics=processor_settings.span_metrics(layers, processors, generator.processor),
        service_graphs=processor_settings.service_graphs(layers, processors, generator.processor),
        host_info=processor_settings.host_info(layers, processors, generator.processor),
        histograms=_histograms(layers),
        ingestion_time_range_slack=layers.pick(
            "ingestion_time_range_slack",
            lambda g: g.ingestion_time_range_slack,
            static(generator, "metrics_ingestion_time_range_slack"),
        ),
        collection_interval=layers.pick(
            "collection_interval", lambda g: g.collection_interval, static(registry, "collection_interval")
        ),
        disable_collection=layers.pick("disable_collection", lambda g: g.disable_collection, builtin(False)),
        stale_duration=layers.take("registry.stale_duration", static(registry, "stale_duration")),
        trace_id_label_name=layers.pick("trace_id_label_name", lambda g: g.trace_id_label_name, builtin("traceID")),
        limiter_type=layers.take("limiter_type", static(generator, "limiter_type")),
        max_active_series=layers.pick("max_active_series", lambda g: g.max_active_series, builtin(0)),
        max_active_entities=layers.pick("max_active_entities", lambda g: g.max_active_entities, builtin(0)),
        max_cardinality_per_label=layers.pick(
            "max_cardinality_per_label", lambda g: g.max_cardinality_per_label, builtin(0)
        ),
        span_name_sanitization=_span_name_sanitization(layers),
        max_label_name_length=layers.take("registry.max_label_name_length", static(registry, "max_label_name_length")),
        max_label_value_length=layers.take(
            "registry.max_label_value_length", static(registry, "max_label_value_length")
        ),
        external_labels=_external_labels(layers, registry, tenant),
        shards=layers.pick("shards", lambda g: g.shards, builtin(1)),
        remote_write=_remote_write(layers, config, tenant),
        provenance=layers.provenance,
    )


def _histograms(layers: Layers) -> HistogramSettings:
    classic: HistogramMode = "classic"
    return HistogramSettings(
        mode=layers.pick("generate_native_histograms", lambda g: g.generate_native_histograms, builtin(classic)),
        native_bucket_factor=layers.pick(
            "native_histogram_bucket_factor",
            lambda g: g.native_histogram_bucket_factor,
            builtin(DEFAULT_BUCKET_FACTOR),
        ),
        native_max_buckets=layers.pick(
            "native_histogram_max_bucket_number",
            lambda g: g.native_histogram_max_bucket_number,
            builtin(DEFAULT_MAX_BUCKETS),
        ),
        native_min_reset_duration=layers.pick(
            "native_histogram_min_reset_duration",
            lambda g: g.native_histogram_min_reset_duration,
            builtin(DEFAULT_MIN_RESET_DURATION),
        ),
    )


def _span_name_sanitization(layers: Layers) -> SpanNameSanitization:
    off: SpanNameSanitization = ""
    return layers.pick("span_name_sanitization", lambda g: g.span_name_sanitization, builtin(off))


def _external_labels(layers: Layers, registry: RegistryConfig, tenant: TenantId) -> tuple[tuple[str, str], ...]:
    labels = dict(layers.take("registry.external_labels", static(registry, "external_labels")))
    # The tenant id is set last, so it wins over an external label of the same name (processors §4.5).
    if name := layers.take("registry.inject_tenant_id_as", static(registry, "inject_tenant_id_as")):
        labels[name] = str(tenant)
    return tuple(sorted(labels.items()))


def _remote_write(layers: Layers, config: ServiceConfig, tenant: TenantId) -> tuple[RemoteWriteEndpoint, ...]:
    endpoints = layers.pick("remote_write", lambda g: g.remote_write, static(config, "remote_write"))
    no_headers: Mapping[str, SecretStr] = {}
    own = layers.pick("remote_write_headers", lambda g: g.remote_write_headers, builtin(no_headers))
    org_id = tenant if config.multitenancy_enabled and config.remote_write_add_org_id_header else None
    return tuple(
        endpoint.model_copy(
            update={"name": endpoint.display_name, "headers": final_headers(endpoint.headers, own, org_id)}
        )
        for endpoint in endpoints
    )
