"""The scoped overrides: one type for ``defaults``, the wildcard entry ``*``, the entry and the document of a tenant.

Everything is optional; what is absent is inherited (tenancy §2.1). A file written for Tempo loads: scopes and keys
without a use here are typed and listed as without effect. Who owns a key is annotated; what a tenant's document may
hold follows from it.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from tenants.settings.foreign_scopes import (
    CompactionOverrides,
    CostAttributionOverrides,
    Forwarders,
    GlobalOverrides,
    ReadOverrides,
    StorageOverrides,
)
from tenants.settings.headers import Headers
from tenants.settings.ingestion import IngestionOverrides
from tenants.settings.model import SettingsModel
from tenants.settings.names import check_label_name
from tenants.settings.native_histograms import (
    BucketFactor,
    HistogramMode,
    MaxBuckets,
    MinResetDuration,
    TenantBucketFactor,
)
from tenants.settings.processors import ProcessorNames, ProcessorOverrides
from tenants.settings.remote_write import RemoteWriteEndpoints
from tenants.settings.scalars import (
    CollectionInterval,
    IngestionSlack,
    TenantCollectionInterval,
    zero_duration_is_absent,
)
from tenants.settings.schema import COUNT, About, Effect, Owner

_TENANT = About(owner=Owner.TENANT)
_WITHOUT_EFFECT = About(effect=Effect.NEVER)

SpanNameSanitization = Literal["", "dry_run", "enabled"]

# A label set of an exemplar has at most 128 characters (OpenMetrics "Exemplars"); a trace id takes 32.
_ExemplarLabelName = Annotated[str, Field(max_length=96), AfterValidator(check_label_name)]
# In the reference a zero here means "not set" (tenancy §2.2).
_CollectionInterval = Annotated[CollectionInterval | None, BeforeValidator(zero_duration_is_absent)]
MAX_SHARDS = 64
"""Greatest number of shards of a tenant."""

_Limit = Annotated[int, Field(ge=0, le=2**32 - 1), COUNT]


class ForwarderOverrides(SettingsModel):
    """The reference's queue between its distributor and generator; Millrace has none. Checked all the same (D-7)."""

    queue_size: Annotated[int, Field(ge=1, le=1_000_000), COUNT] | None = Field(
        default=None, description="Without effect: there is no such queue."
    )
    workers: Annotated[int, Field(ge=1, le=64), COUNT] | None = Field(
        default=None, description="Without effect: there is no such queue."
    )


class GeneratorOverrides(SettingsModel):
    """What is generated for a tenant, and where it goes (tenancy §2.4)."""

    processors: Annotated[ProcessorNames | None, _TENANT] = Field(
        default=None, description="Processors to run. None listed: nothing is generated."
    )
    max_active_series: _Limit | None = Field(
        default=None,
        description="Most live series of the tenant, while limiter_type is series; 0: unlimited.",
    )
    max_active_entities: _Limit | None = Field(
        default=None,
        description="Most live label sets of the tenant, while limiter_type is entity; 0: unlimited.",
    )
    max_cardinality_per_label: Annotated[int, Field(ge=0, le=2**64 - 1), COUNT] | None = Field(
        default=None, description="Most values of one label before they are replaced; 0: unlimited."
    )
    collection_interval: Annotated[
        _CollectionInterval, About(owner=Owner.TENANT, tenant_type=TenantCollectionInterval | None)
    ] = Field(default=None, description="Time between two samples of a series.")
    disable_collection: Annotated[bool | None, _TENANT] = Field(
        default=None, description="Go on counting, but write nothing: for sizing before samples are paid for."
    )
    generate_native_histograms: Annotated[HistogramMode | None, _TENANT] = Field(
        default=None, description="Form of all histograms: classic, native or both."
    )
    native_histogram_bucket_factor: Annotated[
        BucketFactor, About(owner=Owner.TENANT, tenant_type=TenantBucketFactor | None)
    ] = Field(default=None, description="Greatest ratio of two neighbouring native bounds (above 1); 0: inherited.")
    native_histogram_max_bucket_number: Annotated[MaxBuckets, _TENANT] = Field(
        default=None, description="Most native buckets of a series before it loses resolution; 0: inherited."
    )
    native_histogram_min_reset_duration: Annotated[MinResetDuration | None, _TENANT] = Field(
        default=None,
        description="Least time before a native histogram that lost resolution starts anew; 0s: never.",
    )
    trace_id_label_name: Annotated[_ExemplarLabelName | None, _TENANT] = Field(
        default=None, description="Label of exemplars that holds the trace id (label name)."
    )
    ingestion_time_range_slack: Annotated[IngestionSlack | None, _TENANT] = Field(
        default=None,
        description="How far from now a span may end, either way. 0s discards all.",
    )
    span_name_sanitization: Annotated[SpanNameSanitization | None, _TENANT] = Field(
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
    shards: Annotated[int, Field(ge=0, le=MAX_SHARDS), COUNT] | None = Field(
        default=None,
        description="Parts that the tenant's traces are divided into, by trace id; 0: as its rate demands.",
    )
    processor: Annotated[ProcessorOverrides, _TENANT] = Field(
        default=ProcessorOverrides(), description="Settings of the processors."
    )

    ring_size: Annotated[_Limit | None, _WITHOUT_EFFECT] = Field(
        default=None, description="Without effect: shards says how far a tenant is spread."
    )
    forwarder: Annotated[ForwarderOverrides, _WITHOUT_EFFECT] = Field(
        default=ForwarderOverrides(), description="Without effect."
    )


class Overrides(SettingsModel):
    """One layer of tenant settings, by scope (tenancy §2.3)."""

    metrics_generator: Annotated[GeneratorOverrides, About(effect=Effect.COLLECTION)] = Field(
        default=GeneratorOverrides(), description="What is generated for the tenant, and where it goes."
    )
    ingestion: Annotated[IngestionOverrides, About(effect=Effect.REQUEST)] = Field(
        default=IngestionOverrides(), description="What the tenant may send."
    )
    read: Annotated[ReadOverrides, _WITHOUT_EFFECT] = Field(default=ReadOverrides(), description="Limits of queries.")
    compaction: Annotated[CompactionOverrides, _WITHOUT_EFFECT] = Field(
        default=CompactionOverrides(), description="How long traces are kept."
    )
    forwarders: Forwarders = Field(default=None, description="Generic forwarders of traces; there are none.")
    # `global` is a keyword of Python.
    global_: Annotated[GlobalOverrides, _WITHOUT_EFFECT] = Field(
        default=GlobalOverrides(), alias="global", description="Limits on whole traces."
    )
    storage: Annotated[StorageOverrides, _WITHOUT_EFFECT] = Field(
        default=StorageOverrides(), description="How traces are stored."
    )
    cost_attribution: Annotated[CostAttributionOverrides, _WITHOUT_EFFECT] = Field(
        default=CostAttributionOverrides(), description="Accounting by attribute."
    )


WILDCARD = "*"

RuntimeOverrides = Mapping[str, Overrides]
"""The entries of a runtime file: tenant id, or ``*`` for every tenant."""
