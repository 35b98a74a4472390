"""Service settings of the control plane: documents of tenants, the store behind them, which tenants are known."""

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from tenants.settings.model import SettingsModel
from tenants.settings.scalars import CalendarDuration, Duration, between
from tenants.settings.schema import COUNT

Compat = Literal["", "tempo"]

TenantRegistry = Literal["open", "closed"]

LimitName = Literal[
    "ingestion_rate_limit_bytes",
    "ingestion_burst_size_bytes",
    "ingestion_max_attribute_bytes",
    "metrics_generator_max_active_series",
    "metrics_generator_max_active_entities",
    "metrics_generator_max_cardinality_per_label",
    "metrics_generator_collection_interval_seconds",
    "metrics_generator_dry_run_enabled",
]
"""Names on the metrics of limits; the reference's where it has one (tenancy §6.3)."""

_DEFAULT_LIMITS: tuple[LimitName, ...] = (
    "ingestion_rate_limit_bytes",
    "ingestion_burst_size_bytes",
    "metrics_generator_max_active_series",
    "metrics_generator_dry_run_enabled",
)


class DocumentsApiConfig(SettingsModel):
    """How the API takes documents."""

    check_for_conflicting_runtime_overrides: bool = Field(
        default=False,
        description="Refuse a tenant's first document if the runtime file sets other values for that tenant.",
    )


class UserConfigurableOverridesConfig(SettingsModel):
    """Documents in which tenants set what is theirs, through /api/overrides."""

    enabled: bool = Field(default=False, description="Let tenants have documents, and apply them.")
    poll_interval: Annotated[CalendarDuration, between("100ms", "1h")] = Field(
        default=Duration.parse("2s"),
        description="Time between two looks at the store for what other processes changed.",
    )
    api: DocumentsApiConfig = Field(default=DocumentsApiConfig(), description="How the API takes documents.")


class StoreConfig(SettingsModel):
    """Where documents, tenants, tokens, audit and usage are kept."""

    url: SecretStr = Field(
        default=SecretStr(""),
        description="postgresql://user:password@host/database; empty: an SQLite file in data_dir.",
    )
    usage_interval: Annotated[Duration, between("1s", "1h")] = Field(
        default=Duration.parse("10s"), description="Time between two readings of usage."
    )
    audit_retention: Annotated[CalendarDuration, between("1h", "20y")] = Field(
        default=Duration.parse("1y", calendar_units=True),
        description="How long it is kept who changed what.",
    )
    usage_retention: Annotated[CalendarDuration, between("1d", "20y")] = Field(
        default=Duration.parse("2y", calendar_units=True), description="How long usage by day is kept."
    )


class JournalConfig(SettingsModel):
    """Where it is kept what was counted, before it is acknowledged to anybody."""

    url: SecretStr = Field(
        default=SecretStr(""),
        description="postgresql://user:password@host/database; empty: the store's if that is set, "
        "else an SQLite file in data_dir.",
    )


class MetricsPageConfig(SettingsModel):
    """The page /metrics of the service."""

    max_tenants: Annotated[int, Field(ge=0, le=20_000), COUNT] = Field(
        default=1_000,
        description="Tenants that /metrics names, those seen first; the counts of all others are added up as tenant "
        "__other__. 1000 tenants take some 7 MB and half a second.",
    )


class LimitsExporterConfig(SettingsModel):
    """Metrics of the limits in force."""

    limits: Annotated[tuple[LimitName, ...], Field(max_length=32, strict=False)] = Field(
        default=_DEFAULT_LIMITS, description="Which limits millrace_limits_… show."
    )
