"""Settings of span metrics: the static ones of the service and what a tenant may override (processors §1)."""

from pydantic import Field

from tenants.settings.dimension_mappings import DimensionMappings
from tenants.settings.filter_policies import FilterPolicies
from tenants.settings.model import SettingsModel
from tenants.settings.names import AttributeNames, DimensionNames, ShortText
from tenants.settings.scalars import Buckets

SPAN_METRICS_BUCKETS = tuple(0.002 * 2**n for n in range(14))


class IntrinsicDimensions(SettingsModel):
    """Which properties of a span become labels of its span metrics (processors §1.3)."""

    service: bool = Field(default=True, description="Label `service`: the resource's service.name.")
    span_name: bool = Field(default=True, description="Label `span_name`.")
    span_kind: bool = Field(default=True, description="Label `span_kind`.")
    status_code: bool = Field(default=True, description="Label `status_code`.")
    status_message: bool = Field(default=False, description="Label `status_message`.")


class SpanMetricsConfig(SettingsModel):
    """Service-wide settings of span metrics; a tenant's overrides win."""

    histogram_buckets: Buckets = Field(
        default=SPAN_METRICS_BUCKETS, description="Upper bounds of the latency buckets, increasing."
    )
    intrinsic_dimensions: IntrinsicDimensions = Field(
        default=IntrinsicDimensions(), description="Which properties of a span become labels."
    )
    dimensions: DimensionNames = Field(default=(), description="Attributes of resource or span that become labels.")
    dimension_mappings: DimensionMappings = Field(
        default=(), description="Labels joined from several attributes; their names are nobody else's."
    )
    filter_policies: FilterPolicies = Field(default=(), description="Which spans are counted; none: all.")
    enable_target_info: bool = Field(
        default=False, description="Generate traces_target_info, and the labels job and instance."
    )
    target_info_excluded_dimensions: AttributeNames = Field(
        default=(), description="Resource attributes that traces_target_info leaves out."
    )
    enable_instance_label: bool = Field(default=True, description="Add the label instance, while target info is on.")
    span_multiplier_key: ShortText = Field(
        default="", description="Attribute (double) with the ratio at which spans were sampled; empty: none."
    )
    enable_tracestate_span_multiplier: bool = Field(
        default=False, description="Count a span by the sampling threshold in its W3C tracestate."
    )
    keep_colliding_dimensions: bool = Field(
        default=False, description="Of dimensions with one label, use the last that has a value (Q2)."
    )
    enable_strict_filter_types: bool = Field(
        default=False, description="Let filters match attributes of their own type only (Q32)."
    )


class IntrinsicDimensionsOverrides(SettingsModel):
    """Which of the five labels to switch; a label that is not named keeps its inherited value."""

    service: bool | None = Field(default=None, description="Label `service`: the resource's service.name.")
    span_name: bool | None = Field(default=None, description="Label `span_name`.")
    span_kind: bool | None = Field(default=None, description="Label `span_kind`.")
    status_code: bool | None = Field(default=None, description="Label `status_code`.")
    status_message: bool | None = Field(default=None, description="Label `status_message`.")


class SpanMetricsOverrides(SettingsModel):
    """What a tenant may change about span metrics. Lists replace those of the layers below."""

    histogram_buckets: Buckets | None = Field(
        default=None, description="Upper bounds of the latency buckets, increasing."
    )
    intrinsic_dimensions: IntrinsicDimensionsOverrides = Field(
        default=IntrinsicDimensionsOverrides(),
        description="Which properties of a span become labels, key by key.",
    )
    dimensions: DimensionNames | None = Field(
        default=None,
        description="Attributes of resource or span that become labels; replaces the list.",
    )
    dimension_mappings: DimensionMappings | None = Field(
        default=None, description="Labels joined from several attributes; replaces the list."
    )
    filter_policies: FilterPolicies | None = Field(
        default=None, description="Which spans are counted; replaces the list. Empty: all."
    )
    enable_target_info: bool | None = Field(
        default=None, description="Generate traces_target_info, and the labels job and instance."
    )
    target_info_excluded_dimensions: AttributeNames | None = Field(
        default=None, description="Resource attributes that traces_target_info leaves out."
    )
    enable_instance_label: bool | None = Field(
        default=None, description="Add the label instance, while target info is on."
    )
    span_multiplier_key: ShortText | None = Field(
        default=None, description="Attribute (double) with the ratio at which spans were sampled; empty: none."
    )
    enable_tracestate_span_multiplier: bool | None = Field(
        default=None, description="Count a span by the sampling threshold in its W3C tracestate."
    )
    keep_colliding_dimensions: bool | None = Field(
        default=None, description="Of dimensions with one label, use the last that has a value (Q2)."
    )
    enable_strict_filter_types: bool | None = Field(
        default=None, description="Let filters match attributes of their own type only (Q32)."
    )
