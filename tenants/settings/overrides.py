"""The scoped overrides: one type for ``defaults``, the wildcard entry ``*`` and the entry of a tenant.

Everything is optional; what is absent is inherited (tenancy §2.1). Scopes and keys of the reference that this
version does not act on are known by name, so that a file written for it is refused with reasons, not ignored.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tenants.settings.headers import Headers
from tenants.settings.model import (
    SettingsModel,
    Unsupported,
    UnsupportedLimit,
    UnsupportedList,
    UnsupportedScope,
    not_supported,
)
from tenants.settings.names import check_label_name
from tenants.settings.native_histograms import BucketFactor, HistogramMode, MaxBuckets, MinResetDuration
from tenants.settings.processors import ProcessorNames, ProcessorOverrides
from tenants.settings.remote_write import RemoteWriteEndpoints
from tenants.settings.scalars import CollectionInterval, IngestionSlack

_NOT_YET = "Not supported by this version."
_ZERO_DURATION = (0, "0", "0s")

SpanNameSanitization = Literal["", "dry_run", "enabled"]

# A label set of an exemplar has at most 128 characters (OpenMetrics "Exemplars"); a trace id takes 32.
_ExemplarLabelName = Annotated[str, Field(max_length=96), AfterValidator(check_label_name)]
_Limit = Annotated[int, Field(ge=0, le=2**32 - 1)]


class ForwarderOverrides(SettingsModel):
    """The reference's queue between its distributor and generator; Millrace has none. Checked all the same (D-7)."""

    queue_size: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Without effect: there is no such queue (count, 1 to 1000000)."
    )
    workers: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="Without effect: there is no such queue (count, 1 to 64)."
    )


class GeneratorOverrides(SettingsModel):
    """What is generated for a tenant, and where it goes (tenancy §2.4)."""

    processors: ProcessorNames | None = Field(
        default=None, description="Processors to run (names). None listed: nothing is generated."
    )
    max_active_series: _Limit | None = Field(
        default=None,
        description="Most live series of the tenant (count), while limiter_type is series; 0: unlimited.",
    )
    max_active_entities: _Limit | None = Field(
        default=None,
        description="Most live label sets of the tenant (count), while limiter_type is entity; 0: unlimited.",
    )
    max_cardinality_per_label: Annotated[int, Field(ge=0, le=2**64 - 1)] | None = Field(
        default=None, description="Most values of one label before they are replaced (count); 0: unlimited."
    )
    collection_interval: CollectionInterval | None = Field(
        default=None, description="Time between two samples of a series (duration, 1s to 5m)."
    )
    disable_collection: bool | None = Field(
        default=None, description="Go on counting, but write nothing: for sizing before samples are paid for."
    )
    generate_native_histograms: HistogramMode | None = Field(
        default=None, description="Form of all histograms: classic, native or both."
    )
    native_histogram_bucket_factor: BucketFactor = Field(
        default=None, description="Greatest ratio of two neighbouring native bounds (above 1); 0: inherited."
    )
    native_histogram_max_bucket_number: MaxBuckets = Field(
        default=None, description="Most native buckets of a series before it loses resolution (count); 0: inherited."
    )
    native_histogram_min_reset_duration: MinResetDuration | None = Field(
        default=None,
        description="Least time before a native histogram that lost resolution starts anew (duration); 0s: never.",
    )
    trace_id_label_name: _ExemplarLabelName | None = Field(
        default=None, description="Label of exemplars that holds the trace id (label name)."
    )
    ingestion_time_range_slack: IngestionSlack | None = Field(
        default=None,
        description="How far from now a span may end, either way (duration, 0s to 12h). 0s discards all.",
    )
    span_name_sanitization: SpanNameSanitization | None = Field(
        default=None,
        description="Replace what varies in span names: enabled, dry_run (only estimate the gain), or empty: off.",
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

    ring_size: _Limit | None = Field(
        default=None, description="Without effect: shards says how far a tenant is spread (count)."
    )
    forwarder: ForwarderOverrides = Field(default=ForwarderOverrides(), description="Without effect.")


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
