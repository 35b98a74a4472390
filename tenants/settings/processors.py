"""The processors: their names, and the settings of all of them in one place for either layer."""

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from tenants.settings.host_info import HostInfoConfig, HostInfoOverrides
from tenants.settings.model import SettingsModel
from tenants.settings.service_graphs import ServiceGraphsConfig, ServiceGraphsOverrides
from tenants.settings.span_metrics import SpanMetricsConfig, SpanMetricsOverrides


class ProcessorName(StrEnum):
    """What a tenant can have generated (processors §5.4): whole processors, and parts of them."""

    SPAN_METRICS = "span-metrics"
    SPAN_METRICS_COUNT = "span-metrics-count"
    SPAN_METRICS_LATENCY = "span-metrics-latency"
    SPAN_METRICS_SIZE = "span-metrics-size"
    SERVICE_GRAPHS = "service-graphs"
    SERVICE_GRAPHS_REQUEST = "service-graphs-request"
    SERVICE_GRAPHS_LATENCY = "service-graphs-latency"
    SERVICE_GRAPHS_CONNECTION_INFO = "service-graphs-connection-info"
    HOST_INFO = "host-info"


def _processor_name(value: object) -> object:
    if not isinstance(value, str):
        return value
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


class ProcessorConfig(SettingsModel):
    """Service-wide settings of the processors."""

    span_metrics: SpanMetricsConfig = Field(default=SpanMetricsConfig(), description="Span metrics.")
    service_graphs: ServiceGraphsConfig = Field(default=ServiceGraphsConfig(), description="Service graphs.")
    host_info: HostInfoConfig = Field(default=HostInfoConfig(), description="Host info.")


class ProcessorOverrides(SettingsModel):
    """What a tenant may change about the processors."""

    span_metrics: SpanMetricsOverrides = Field(default=SpanMetricsOverrides(), description="Span metrics.")
    service_graphs: ServiceGraphsOverrides = Field(default=ServiceGraphsOverrides(), description="Service graphs.")
    host_info: HostInfoOverrides = Field(default=HostInfoOverrides(), description="Host info.")
