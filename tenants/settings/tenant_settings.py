"""The effective settings of one tenant: every layer resolved field by field, and where each value came from.

Weakest first: built-in < service configuration < ``overrides.defaults`` < entry ``*`` < entry of the tenant < document
of the tenant. Lists and maps are taken whole, except intrinsic dimensions, which resolve one by one. The tenant's state
has the last word. Nothing is checked here: layers arrive checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from tenants.identity.tenant_id import TenantId
from tenants.settings import processor_settings
from tenants.settings.in_force import OverridesInForce
from tenants.settings.ingestion import (
    DEFAULT_BURST_BYTES,
    DEFAULT_RATE_BYTES,
    Acknowledge,
    IngestionSettings,
    RateStrategy,
)
from tenants.settings.layers import Layers, Resolved, Source, builtin, static
from tenants.settings.native_histograms import (
    DEFAULT_BUCKET_FACTOR,
    DEFAULT_MAX_BUCKETS,
    DEFAULT_MIN_RESET_DURATION,
    HistogramMode,
)
from tenants.settings.overrides import SpanNameSanitization
from tenants.settings.processor_settings import HostInfoSettings, ServiceGraphsSettings, SpanMetricsSettings
from tenants.settings.processors import ProcessorName
from tenants.settings.remote_write import RemoteWriteEndpoint
from tenants.settings.scalars import Duration
from tenants.settings.service_config import LimiterType, RegistryConfig, ServiceConfig
from tenants.settings.tenant_state import TenantState

__all__ = [
    "HistogramSettings",
    "HostInfoSettings",
    "Resolved",
    "ServiceGraphsSettings",
    "Source",
    "SpanMetricsSettings",
    "TenantSettings",
    "explain",
    "resolve",
]

_GENERATOR = "metrics_generator"

# The operator's own file; overrides may be written by people who are not trusted with the network.
_TRUSTED = frozenset({Source.BUILTIN, Source.STATIC})


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
        is_remote_write_confined: the endpoints come from overrides, and may send only where ``remote_write_targets`` of
            the service configuration allow it.
    """

    tenant: TenantId
    state: TenantState
    ingestion: IngestionSettings
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
    is_remote_write_confined: bool

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


def resolve(config: ServiceConfig, overrides: OverridesInForce, tenant: TenantId) -> TenantSettings:
    """Merge all layers for one tenant. Pure; cheap enough to call for every tenant on every change."""
    return _resolve(config, overrides, tenant, Layers(config, overrides, tenant))


def explain(config: ServiceConfig, overrides: OverridesInForce, tenant: TenantId) -> dict[str, Resolved[Any]]:
    """Return every field of a tenant's settings by its dotted key, with the layer that it came from."""
    layers = Layers(config, overrides, tenant)
    _resolve(config, overrides, tenant, layers)
    # Settings that nothing is done with, but that a document may hold.
    layers.pick("forwarders", builtin(()))
    layers.pick("cost_attribution.dimensions", builtin(dict[str, str]()))
    return dict(sorted(layers.resolved.items()))


def _resolve(config: ServiceConfig, overrides: OverridesInForce, tenant: TenantId, layers: Layers) -> TenantSettings:
    generator, registry = config.metrics_generator, config.metrics_generator.registry
    state = _state(config, overrides, str(tenant))
    processors = _processors(layers, state)
    return TenantSettings(
        tenant=tenant,
        state=state,
        ingestion=_ingestion(layers, config),
        span_metrics=processor_settings.span_metrics(layers, processors, generator.processor),
        service_graphs=processor_settings.service_graphs(layers, processors, generator.processor),
        host_info=processor_settings.host_info(layers, processors, generator.processor),
        histograms=_histograms(layers),
        ingestion_time_range_slack=layers.pick(
            f"{_GENERATOR}.ingestion_time_range_slack", static(generator, "metrics_ingestion_time_range_slack")
        ),
        collection_interval=layers.pick(f"{_GENERATOR}.collection_interval", static(registry, "collection_interval")),
        disable_collection=_disable_collection(layers, state),
        stale_duration=layers.take(f"{_GENERATOR}.registry.stale_duration", static(registry, "stale_duration")),
        trace_id_label_name=layers.pick(f"{_GENERATOR}.trace_id_label_name", builtin("traceID")),
        limiter_type=layers.take(f"{_GENERATOR}.limiter_type", static(generator, "limiter_type")),
        max_active_series=layers.pick(f"{_GENERATOR}.max_active_series", builtin(0)),
        max_active_entities=layers.pick(f"{_GENERATOR}.max_active_entities", builtin(0)),
        max_cardinality_per_label=layers.pick(f"{_GENERATOR}.max_cardinality_per_label", builtin(0)),
        span_name_sanitization=_span_name_sanitization(layers),
        max_label_name_length=layers.take(
            f"{_GENERATOR}.registry.max_label_name_length", static(registry, "max_label_name_length")
        ),
        max_label_value_length=layers.take(
            f"{_GENERATOR}.registry.max_label_value_length", static(registry, "max_label_value_length")
        ),
        external_labels=_external_labels(layers, registry, tenant),
        shards=layers.pick(f"{_GENERATOR}.shards", builtin(0), from_defaults=True)
        or overrides.sizes.get(str(tenant), 1),
        remote_write=_remote_write(layers, config, tenant),
        is_remote_write_confined=layers.resolved[f"{_GENERATOR}.remote_write"].source not in _TRUSTED,
    )


def _state(config: ServiceConfig, overrides: OverridesInForce, tenant: str) -> TenantState:
    is_known = config.tenant_registry == "open" or tenant in overrides.runtime
    return overrides.states.get(tenant, TenantState.ACTIVE if is_known else TenantState.BLOCKED)


def _processors(layers: Layers, state: TenantState) -> tuple[ProcessorName, ...]:
    nothing: tuple[ProcessorName, ...] = ()
    key = f"{_GENERATOR}.processors"
    processors = layers.pick(key, builtin(nothing))
    if state in {TenantState.PAUSED, TenantState.BLOCKED}:
        return layers.take(key, Resolved(nothing, Source.STATE))
    return processors


def _disable_collection(layers: Layers, state: TenantState) -> bool:
    key = f"{_GENERATOR}.disable_collection"
    is_disabled = layers.pick(key, builtin(False))
    return layers.take(key, Resolved(True, Source.STATE)) if state is TenantState.DRY_RUN else is_disabled


def _ingestion(layers: Layers, config: ServiceConfig) -> IngestionSettings:
    local: RateStrategy = "local"
    accepted: Acknowledge = "accepted"
    return IngestionSettings(
        # One for all tenants: gateways share the rates of all in the same way (tenancy §2.2).
        rate_strategy=layers.from_defaults("ingestion.rate_strategy", builtin(local)),
        # What an entry that is used whole leaves out is zero, and zero refuses everything (tenancy §2.1).
        rate_limit_bytes=layers.pick("ingestion.rate_limit_bytes", builtin(DEFAULT_RATE_BYTES), unset=0),
        burst_size_bytes=layers.pick("ingestion.burst_size_bytes", builtin(DEFAULT_BURST_BYTES), unset=0),
        max_attribute_bytes=layers.pick(
            "ingestion.max_attribute_bytes", static(config.ingestion, "max_attribute_bytes")
        ),
        artificial_delay=layers.pick("ingestion.artificial_delay", static(config.ingestion, "artificial_delay")),
        retry_info_enabled=layers.pick("ingestion.retry_info_enabled", builtin(True), from_defaults=True),
        acknowledge=layers.pick("ingestion.acknowledge", builtin(accepted), from_defaults=True),
    )


def _histograms(layers: Layers) -> HistogramSettings:
    classic: HistogramMode = "classic"
    return HistogramSettings(
        mode=layers.pick(f"{_GENERATOR}.generate_native_histograms", builtin(classic)),
        native_bucket_factor=layers.pick(
            f"{_GENERATOR}.native_histogram_bucket_factor", builtin(DEFAULT_BUCKET_FACTOR), from_defaults=True
        ),
        native_max_buckets=layers.pick(
            f"{_GENERATOR}.native_histogram_max_bucket_number", builtin(DEFAULT_MAX_BUCKETS), from_defaults=True
        ),
        native_min_reset_duration=layers.pick(
            f"{_GENERATOR}.native_histogram_min_reset_duration",
            builtin(DEFAULT_MIN_RESET_DURATION),
            from_defaults=True,
        ),
    )


def _span_name_sanitization(layers: Layers) -> SpanNameSanitization:
    off: SpanNameSanitization = ""
    return layers.pick(f"{_GENERATOR}.span_name_sanitization", builtin(off), from_defaults=True)


def _external_labels(layers: Layers, registry: RegistryConfig, tenant: TenantId) -> tuple[tuple[str, str], ...]:
    labels = dict(layers.take(f"{_GENERATOR}.registry.external_labels", static(registry, "external_labels")))
    # The tenant id is set last, so it wins over an external label of the same name (processors §4.5).
    if name := layers.take(f"{_GENERATOR}.registry.inject_tenant_id_as", static(registry, "inject_tenant_id_as")):
        labels[name] = str(tenant)
    return tuple(sorted(labels.items()))


def _remote_write(layers: Layers, config: ServiceConfig, tenant: TenantId) -> tuple[RemoteWriteEndpoint, ...]:
    endpoints = layers.pick(f"{_GENERATOR}.remote_write", static(config, "remote_write"), from_defaults=True)
    no_headers: Mapping[str, SecretStr] = {}
    own = layers.pick(f"{_GENERATOR}.remote_write_headers", builtin(no_headers))
    org_id = tenant if config.multitenancy_enabled and config.remote_write_add_org_id_header else None
    return tuple(endpoint.for_tenant(own, org_id) for endpoint in endpoints)
