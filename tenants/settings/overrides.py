"""The scoped overrides: one type for ``defaults``, the wildcard entry ``*`` and the entry of a tenant.

Everything is optional; what is absent is inherited (tenancy §2.1). Scopes and keys of the reference that this
version does not act on are known by name, so that a file written for it is refused with reasons, not ignored.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from tenants.settings.headers import Headers
from tenants.settings.model import (
    SettingsModel,
    Unsupported,
    UnsupportedLimit,
    UnsupportedList,
    UnsupportedScope,
    UnsupportedSwitch,
    UnsupportedText,
    not_supported,
)
from tenants.settings.processors import ProcessorNames, ProcessorOverrides
from tenants.settings.remote_write import RemoteWriteEndpoints
from tenants.settings.scalars import CollectionInterval, IngestionSlack, check_label_name

_NOT_YET = "Not supported by this version."
_FIFTEEN_MINUTES = ("15m", "15m0s", 900_000_000_000)
_ZERO_DURATION = (0, "0", "0s")

# A label set of an exemplar has at most 128 characters (OpenMetrics "Exemplars"); a trace id takes 32.
_ExemplarLabelName = Annotated[str, Field(max_length=96), AfterValidator(check_label_name)]


class ForwarderOverrides(SettingsModel):
    """The reference's queue between its distributor and generator; Millrace has none."""

    queue_size: Annotated[None, not_supported(0, 100)] = Field(default=None, description=_NOT_YET)
    workers: Annotated[None, not_supported(0, 2)] = Field(default=None, description=_NOT_YET)


class GeneratorOverrides(SettingsModel):
    """What is generated for a tenant, and where it goes (tenancy §2.4)."""

    processors: ProcessorNames | None = Field(
        default=None, description="Processors to run (names). None listed: nothing is generated."
    )
    max_active_series: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = Field(
        default=None, description="Most live series of the tenant (count); 0: unlimited."
    )
    collection_interval: CollectionInterval | None = Field(
        default=None, description="Time between two samples of a series (duration, 1s to 5m)."
    )
    trace_id_label_name: _ExemplarLabelName | None = Field(
        default=None, description="Label of exemplars that holds the trace id (label name)."
    )
    ingestion_time_range_slack: IngestionSlack | None = Field(
        default=None,
        description="How far from now a span may end, either way (duration, 0s to 12h). 0s discards all.",
    )
    remote_write_headers: Headers | None = Field(
        default=None,
        description="Headers of this tenant's remote writes, over those of the endpoint. Secret values.",
    )
    remote_write: RemoteWriteEndpoints | None = Field(
        default=None, description="Endpoints of this tenant; replaces the list of the service configuration."
    )
    shards: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="Parts that the tenant's traces are divided into, by trace id (count)."
    )
    processor: ProcessorOverrides = Field(default=ProcessorOverrides(), description="Settings of the processors.")

    ring_size: UnsupportedLimit = Field(default=None, description=_NOT_YET)
    max_active_entities: UnsupportedLimit = Field(default=None, description=_NOT_YET)
    max_cardinality_per_label: UnsupportedLimit = Field(default=None, description=_NOT_YET)
    disable_collection: UnsupportedSwitch = Field(default=None, description=_NOT_YET)
    generate_native_histograms: Annotated[None, not_supported("classic", "")] = Field(
        default=None, description=_NOT_YET
    )
    native_histogram_bucket_factor: Annotated[None, not_supported(1.1, 0)] = Field(default=None, description=_NOT_YET)
    native_histogram_max_bucket_number: Annotated[None, not_supported(100, 0)] = Field(
        default=None, description=_NOT_YET
    )
    native_histogram_min_reset_duration: Annotated[None, not_supported(*_FIFTEEN_MINUTES, *_ZERO_DURATION)] = Field(
        default=None, description=_NOT_YET
    )
    span_name_sanitization: UnsupportedText = Field(default=None, description=_NOT_YET)
    forwarder: ForwarderOverrides = Field(default=ForwarderOverrides(), description=_NOT_YET)


class IngestionOverrides(SettingsModel):
    """Limits on what a tenant may send. This version enforces none, so it accepts none."""

    rate_strategy: Annotated[None, not_supported("local")] = Field(default=None, description=_NOT_YET)
    rate_limit_bytes: Unsupported = Field(default=None, description=_NOT_YET)
    burst_size_bytes: Unsupported = Field(default=None, description=_NOT_YET)
    max_traces_per_user: UnsupportedLimit = Field(default=None, description=_NOT_YET)
    max_global_traces_per_user: UnsupportedLimit = Field(default=None, description=_NOT_YET)
    tenant_shard_size: UnsupportedLimit = Field(default=None, description=_NOT_YET)
    max_attribute_bytes: UnsupportedLimit = Field(default=None, description=_NOT_YET)
    artificial_delay: Annotated[None, not_supported(*_ZERO_DURATION)] = Field(default=None, description=_NOT_YET)
    retry_info_enabled: Annotated[None, not_supported(True)] = Field(default=None, description=_NOT_YET)


class GlobalOverrides(SettingsModel):
    """Limits on whole traces."""

    max_bytes_per_trace: UnsupportedLimit = Field(default=None, description=_NOT_YET)


class CostAttributionOverrides(SettingsModel):
    """Accounting by attribute."""

    dimensions: UnsupportedScope = Field(default=None, description=_NOT_YET)
    max_cardinality: UnsupportedLimit = Field(default=None, description=_NOT_YET)


class Overrides(SettingsModel):
    """One layer of tenant settings, by scope (tenancy §2.3)."""

    metrics_generator: GeneratorOverrides = Field(
        default=GeneratorOverrides(), description="What is generated for the tenant, and where it goes."
    )
    ingestion: IngestionOverrides = Field(default=IngestionOverrides(), description=_NOT_YET)
    read: UnsupportedScope = Field(default=None, description=_NOT_YET)
    compaction: UnsupportedScope = Field(default=None, description=_NOT_YET)
    forwarders: UnsupportedList = Field(default=None, description=_NOT_YET)
    # `global` is a keyword of Python.
    global_: GlobalOverrides = Field(default=GlobalOverrides(), alias="global", description=_NOT_YET)
    storage: UnsupportedScope = Field(default=None, description=_NOT_YET)
    cost_attribution: CostAttributionOverrides = Field(default=CostAttributionOverrides(), description=_NOT_YET)


WILDCARD = "*"

RuntimeOverrides = Mapping[str, Overrides]
"""The entries of a runtime file: tenant id, or ``*`` for every tenant."""
