"""Settings of the processors: the static ones of the service and what a tenant may override.

Keys that both share with the reference but that this version does not act on are declared once, as bases.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from tenants.settings.model import (
    SettingsModel,
    UnsupportedList,
    UnsupportedSwitch,
    UnsupportedText,
    not_supported,
)
from tenants.settings.scalars import AttributeNames, Buckets, DimensionNames, Duration, between

SPAN_METRICS_BUCKETS = tuple(0.002 * 2**n for n in range(14))
SERVICE_GRAPHS_BUCKETS = tuple(0.1 * 2**n for n in range(8))
_NOT_YET = "Not supported by this version."


class ProcessorName(StrEnum):
    """What a tenant can have generated (processors §5.4)."""

    SPAN_METRICS = "span-metrics"
    SPAN_METRICS_COUNT = "span-metrics-count"
    SPAN_METRICS_LATENCY = "span-metrics-latency"
    SPAN_METRICS_SIZE = "span-metrics-size"
    SERVICE_GRAPHS = "service-graphs"
    SERVICE_GRAPHS_REQUEST = "service-graphs-request"
    SERVICE_GRAPHS_LATENCY = "service-graphs-latency"


_KNOWN_BUT_NOT_SUPPORTED = frozenset({"host-info", "service-graphs-connection-info"})


def _processor_name(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value in _KNOWN_BUT_NOT_SUPPORTED:
        raise ValueError(f"{value} is not supported yet; remove it")
    try:
        return ProcessorName(value)
    except ValueError:
        raise ValueError(f"is not a processor; known are {', '.join(ProcessorName)}") from None


def _once_each(names: tuple[ProcessorName, ...]) -> tuple[ProcessorName, ...]:
    return tuple(dict.fromkeys(names))


ProcessorNames = Annotated[
    tuple[Annotated[ProcessorName, BeforeValidator(_processor_name)], ...],
    AfterValidator(_once_each),
    Strict(False),
]
"""A list of processor names; one that is listed twice counts once."""


class _SpanMetricsNotYet(SettingsModel):
    dimension_mappings: UnsupportedList = Field(default=None, description=_NOT_YET)
    filter_policies: UnsupportedList = Field(default=None, description=_NOT_YET)
    enable_target_info: UnsupportedSwitch = Field(default=None, description=_NOT_YET)
    target_info_excluded_dimensions: UnsupportedList = Field(default=None, description=_NOT_YET)
    enable_instance_label: Annotated[None, not_supported(True)] = Field(default=None, description=_NOT_YET)
    span_multiplier_key: UnsupportedText = Field(default=None, description=_NOT_YET)
    enable_tracestate_span_multiplier: UnsupportedSwitch = Field(default=None, description=_NOT_YET)


class _ServiceGraphsNotYet(SettingsModel):
    filter_policies: UnsupportedList = Field(default=None, description=_NOT_YET)
    span_multiplier_key: UnsupportedText = Field(default=None, description=_NOT_YET)
    enable_tracestate_span_multiplier: UnsupportedSwitch = Field(default=None, description=_NOT_YET)


class _HostInfoNotYet(SettingsModel):
    host_identifiers: Annotated[None, not_supported(["k8s.node.name", "host.id"])] = Field(
        default=None, description=_NOT_YET
    )
    metric_name: Annotated[None, not_supported("traces_host_info")] = Field(default=None, description=_NOT_YET)


class IntrinsicDimensions(SettingsModel):
    """Which properties of a span become labels of its span metrics (processors §1.3)."""

    service: bool = Field(default=True, description="Label `service`: the resource's service.name.")
    span_name: bool = Field(default=True, description="Label `span_name`.")
    span_kind: bool = Field(default=True, description="Label `span_kind`.")
    status_code: bool = Field(default=True, description="Label `status_code`.")
    status_message: bool = Field(default=False, description="Label `status_message`.")


class SpanMetricsConfig(_SpanMetricsNotYet):
    """Service-wide settings of span metrics; a tenant's overrides win."""

    histogram_buckets: Buckets = Field(
        default=SPAN_METRICS_BUCKETS, description="Upper bounds of the latency buckets, increasing (seconds)."
    )
    intrinsic_dimensions: IntrinsicDimensions = Field(
        default=IntrinsicDimensions(), description="Which properties of a span become labels."
    )
    dimensions: DimensionNames = Field(
        default=(), description="Attributes of resource or span that become labels (names)."
    )


class ServiceGraphsConfig(_ServiceGraphsNotYet):
    """Service-wide settings of service graphs; a tenant's overrides win where there are any."""

    wait: Annotated[Duration, between("1ms", "10m")] = Field(
        default=Duration.parse("10s"),
        description="Time the first half of an edge waits for the other (duration).",
    )
    max_items: int = Field(
        default=10_000,
        ge=1,
        le=10_000_000,
        description="Most half edges of one tenant that wait at once (count).",
    )
    workers: Annotated[None, not_supported(10)] = Field(default=None, description=_NOT_YET)
    histogram_buckets: Buckets = Field(
        default=SERVICE_GRAPHS_BUCKETS,
        description="Upper bounds of the latency buckets, increasing (seconds).",
    )
    dimensions: DimensionNames = Field(
        default=(), description="Attributes of resource or span that become labels of edges (names)."
    )
    peer_attributes: AttributeNames = Field(
        default=("peer.service", "db.name", "db.system", "db.system.name"),
        description="Span attributes that name a peer without spans of its own, first found wins (names).",
    )
    database_name_attributes: AttributeNames = Field(
        default=("db.namespace", "db.name", "db.system", "db.system.name"),
        description="Attributes that make a client span a database request, first found wins (names).",
    )
    enable_client_server_prefix: bool = Field(
        default=False,
        description="Give dimensions the prefix client_ or server_, by the side they come from.",
    )
    enable_messaging_system_latency_histogram: bool = Field(
        default=False, description="Generate the histogram of the time between producer and consumer."
    )
    enable_virtual_node_label: bool = Field(
        default=False, description="Add the label virtual_node to edges with an uninstrumented side."
    )


class ProcessorConfig(SettingsModel):
    """Service-wide settings of the processors."""

    span_metrics: SpanMetricsConfig = Field(default=SpanMetricsConfig(), description="Span metrics.")
    service_graphs: ServiceGraphsConfig = Field(default=ServiceGraphsConfig(), description="Service graphs.")
    host_info: _HostInfoNotYet = Field(default=_HostInfoNotYet(), description=_NOT_YET)


class IntrinsicDimensionsOverrides(SettingsModel):
    """Which of the five labels to switch; a label that is not named keeps its inherited value."""

    service: bool | None = Field(default=None, description="Label `service`: the resource's service.name.")
    span_name: bool | None = Field(default=None, description="Label `span_name`.")
    span_kind: bool | None = Field(default=None, description="Label `span_kind`.")
    status_code: bool | None = Field(default=None, description="Label `status_code`.")
    status_message: bool | None = Field(default=None, description="Label `status_message`.")


class SpanMetricsOverrides(_SpanMetricsNotYet):
    """What a tenant may change about span metrics."""

    histogram_buckets: Buckets | None = Field(
        default=None, description="Upper bounds of the latency buckets, increasing (seconds)."
    )
    intrinsic_dimensions: IntrinsicDimensionsOverrides = Field(
        default=IntrinsicDimensionsOverrides(),
        description="Which properties of a span become labels, key by key.",
    )
    dimensions: DimensionNames | None = Field(
        default=None,
        description="Attributes of resource or span that become labels (names); replaces the list.",
    )


class ServiceGraphsOverrides(_ServiceGraphsNotYet):
    """What a tenant may change about service graphs."""

    histogram_buckets: Buckets | None = Field(
        default=None, description="Upper bounds of the latency buckets, increasing (seconds)."
    )
    dimensions: DimensionNames | None = Field(
        default=None, description="Attributes of resource or span that become labels of edges (names)."
    )
    peer_attributes: AttributeNames | None = Field(
        default=None, description="Span attributes that name a peer without spans of its own (names)."
    )
    enable_client_server_prefix: bool | None = Field(
        default=None,
        description="Give dimensions the prefix client_ or server_. False switches it off (D-4).",
    )
    enable_messaging_system_latency_histogram: bool | None = Field(
        default=None, description="Generate the histogram of the time between producer and consumer."
    )
    enable_virtual_node_label: bool | None = Field(
        default=None, description="Add the label virtual_node to edges with an uninstrumented side."
    )


class ProcessorOverrides(SettingsModel):
    """What a tenant may change about the processors."""

    span_metrics: SpanMetricsOverrides = Field(default=SpanMetricsOverrides(), description="Span metrics.")
    service_graphs: ServiceGraphsOverrides = Field(default=ServiceGraphsOverrides(), description="Service graphs.")
    host_info: _HostInfoNotYet = Field(default=_HostInfoNotYet(), description=_NOT_YET)
