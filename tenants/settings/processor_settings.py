"""What the processors of one tenant do: the layers resolved field by field (processors §5.4 "Override application").

A processor that is not listed, or of which no part is, is None. Nothing is checked here: layers arrive checked.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from tenants.settings.dimension_mappings import DimensionMapping
from tenants.settings.filter_policies import FilterPolicy
from tenants.settings.layers import Layers, static
from tenants.settings.processors import ProcessorConfig, ProcessorName
from tenants.settings.scalars import Duration
from tenants.settings.span_metrics import IntrinsicDimensions


@dataclass(frozen=True, slots=True)
class SpanMetricsSettings:
    """What the span metrics of one tenant are made of."""

    count: bool
    latency: bool
    size: bool
    histogram_buckets: tuple[float, ...]
    intrinsic_dimensions: IntrinsicDimensions
    dimensions: tuple[str, ...]
    dimension_mappings: tuple[DimensionMapping, ...]
    filter_policies: tuple[FilterPolicy, ...]
    enable_target_info: bool
    target_info_excluded_dimensions: tuple[str, ...]
    enable_instance_label: bool
    span_multiplier_key: str
    enable_tracestate_span_multiplier: bool
    keep_colliding_dimensions: bool
    enable_strict_filter_types: bool


@dataclass(frozen=True, slots=True)
class ServiceGraphsSettings:
    """What the service graph of one tenant is made of. ``max_items`` is the tenant's, over all shards."""

    request: bool
    latency: bool
    connection_info: bool
    histogram_buckets: tuple[float, ...]
    dimensions: tuple[str, ...]
    peer_attributes: tuple[str, ...]
    database_name_attributes: tuple[str, ...]
    filter_policies: tuple[FilterPolicy, ...]
    wait: Duration
    max_items: int
    enable_client_server_prefix: bool
    enable_messaging_system_latency_histogram: bool
    enable_virtual_node_label: bool
    span_multiplier_key: str
    enable_tracestate_span_multiplier: bool
    keep_colliding_dimensions: bool
    enable_strict_filter_types: bool
    pair_database_spans: bool
    count_every_receiver: bool
    enable_virtual_node_latency: bool
    zero_parent_id_is_root: bool


@dataclass(frozen=True, slots=True)
class HostInfoSettings:
    """What the host info of one tenant is made of."""

    host_identifiers: tuple[str, ...]
    metric_name: str


class _Fields:
    """The fields of one processor: their names are the same in overrides, service configuration and settings."""

    def __init__(self, layers: Layers, config: ProcessorConfig, processor: str) -> None:
        self._layers = layers
        self._static: BaseModel = getattr(config, processor)
        self._prefix = f"metrics_generator.processor.{processor}"

    def pick(self, name: str, group: str = "") -> Any:
        """Return the value of a field that tenants may override; ``group`` is a mapping that it stands in."""
        within = getattr(self._static, group) if group else self._static
        key = ".".join(part for part in (self._prefix, group, name) if part)
        return self._layers.pick(key, static(within, name))

    def take(self, name: str) -> Any:
        """Return the value of a field that only the service configuration holds."""
        return self._layers.take(f"{self._prefix}.{name}", static(self._static, name))


def span_metrics(
    layers: Layers, processors: Collection[ProcessorName], config: ProcessorConfig
) -> SpanMetricsSettings | None:
    """Resolve span metrics."""
    fields = _Fields(layers, config, "span_metrics")
    settings = SpanMetricsSettings(
        count=_runs(processors, ProcessorName.SPAN_METRICS, ProcessorName.SPAN_METRICS_COUNT),
        latency=_runs(processors, ProcessorName.SPAN_METRICS, ProcessorName.SPAN_METRICS_LATENCY),
        size=_runs(processors, ProcessorName.SPAN_METRICS, ProcessorName.SPAN_METRICS_SIZE),
        # The reference drops configured buckets when only sub-processors are listed (processors Q27).
        histogram_buckets=fields.pick("histogram_buckets"),
        intrinsic_dimensions=IntrinsicDimensions(
            **{name: fields.pick(name, group="intrinsic_dimensions") for name in IntrinsicDimensions.model_fields}
        ),
        dimensions=fields.pick("dimensions"),
        dimension_mappings=fields.pick("dimension_mappings"),
        filter_policies=fields.pick("filter_policies"),
        enable_target_info=fields.pick("enable_target_info"),
        target_info_excluded_dimensions=fields.pick("target_info_excluded_dimensions"),
        enable_instance_label=fields.pick("enable_instance_label"),
        span_multiplier_key=fields.pick("span_multiplier_key"),
        enable_tracestate_span_multiplier=fields.pick("enable_tracestate_span_multiplier"),
        keep_colliding_dimensions=fields.pick("keep_colliding_dimensions"),
        enable_strict_filter_types=fields.pick("enable_strict_filter_types"),
    )
    return settings if settings.count or settings.latency or settings.size else None


def service_graphs(
    layers: Layers, processors: Collection[ProcessorName], config: ProcessorConfig
) -> ServiceGraphsSettings | None:
    """Resolve service graphs."""
    fields = _Fields(layers, config, "service_graphs")
    settings = ServiceGraphsSettings(
        request=_runs(processors, ProcessorName.SERVICE_GRAPHS, ProcessorName.SERVICE_GRAPHS_REQUEST),
        latency=_runs(processors, ProcessorName.SERVICE_GRAPHS, ProcessorName.SERVICE_GRAPHS_LATENCY),
        # The one part that its parent does not run.
        connection_info=ProcessorName.SERVICE_GRAPHS_CONNECTION_INFO in processors,
        histogram_buckets=fields.pick("histogram_buckets"),
        dimensions=fields.pick("dimensions"),
        peer_attributes=fields.pick("peer_attributes"),
        database_name_attributes=fields.take("database_name_attributes"),
        filter_policies=fields.pick("filter_policies"),
        wait=fields.take("wait"),
        max_items=fields.take("max_items"),
        enable_client_server_prefix=fields.pick("enable_client_server_prefix"),
        enable_messaging_system_latency_histogram=fields.pick("enable_messaging_system_latency_histogram"),
        enable_virtual_node_label=fields.pick("enable_virtual_node_label"),
        span_multiplier_key=fields.pick("span_multiplier_key"),
        enable_tracestate_span_multiplier=fields.pick("enable_tracestate_span_multiplier"),
        keep_colliding_dimensions=fields.pick("keep_colliding_dimensions"),
        enable_strict_filter_types=fields.pick("enable_strict_filter_types"),
        pair_database_spans=fields.pick("pair_database_spans"),
        count_every_receiver=fields.pick("count_every_receiver"),
        enable_virtual_node_latency=fields.pick("enable_virtual_node_latency"),
        zero_parent_id_is_root=fields.pick("zero_parent_id_is_root"),
    )
    return settings if settings.request or settings.latency or settings.connection_info else None


def host_info(
    layers: Layers, processors: Collection[ProcessorName], config: ProcessorConfig
) -> HostInfoSettings | None:
    """Resolve host info."""
    fields = _Fields(layers, config, "host_info")
    settings = HostInfoSettings(
        host_identifiers=fields.pick("host_identifiers"),
        metric_name=fields.pick("metric_name"),
    )
    return settings if ProcessorName.HOST_INFO in processors else None


def _runs(processors: Collection[ProcessorName], parent: ProcessorName, part: ProcessorName) -> bool:
    """Fold sub-names into their parent: the bare parent runs every part (processors §5.4)."""
    return parent in processors or part in processors
