"""The service configuration: one YAML file, read once at start, passed down and never changed.

Every key has a default, so an empty file runs. What may change while the service runs is in the overrides.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    field_validator,
    model_validator,
)

from tenants.identity.tenant_id import TenantId
from tenants.settings.auth import AuthConfig
from tenants.settings.control_config import (
    Compat,
    JournalConfig,
    LimitsExporterConfig,
    MetricsPageConfig,
    StoreConfig,
    TenantRegistry,
    UserConfigurableOverridesConfig,
)
from tenants.settings.errors import Fault, SettingsError
from tenants.settings.ingestion import IngestionConfig
from tenants.settings.inherited_collisions import inherited_collision, inherited_layers
from tenants.settings.model import SettingsModel, validate
from tenants.settings.names import LabelName, Text, check_label_name
from tenants.settings.overrides import Overrides
from tenants.settings.processors import ProcessorConfig
from tenants.settings.remote_write import RemoteWriteEndpoints
from tenants.settings.remote_write_targets import RemoteWriteTargets, target_faults
from tenants.settings.scalars import (
    CalendarDuration,
    CollectionInterval,
    Duration,
    HostPort,
    IngestionSlack,
    between,
)
from tenants.settings.schema import BYTES, COUNT
from tenants.settings.tls import ServerTlsConfig
from tenants.settings.tracing import TracingConfig
from tenants.settings.yaml_document import read_yaml


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("should be a path, in quotes if it looks like a number")
    return Path(value)


def _optional_path(value: object) -> Path | None:
    return None if value is None or value == "" else _path(value)


def _tenant_id(value: object) -> TenantId:
    if isinstance(value, TenantId):
        return value
    if not isinstance(value, str):
        raise ValueError("should be text; put it in quotes")  # noqa: TRY004  (pydantic collects ValueErrors)
    return TenantId(value)


def _optional_label_name(value: str) -> str:
    return check_label_name(value) if value else value


LimiterType = Literal["series", "entity"]

# Absolute, because the configuration travels to processes with other working directories.
_AbsolutePath = Annotated[Path, BeforeValidator(_path), AfterValidator(Path.absolute)]


class ListenConfig(SettingsModel):
    """Where the ports are. Port 0 takes any free port."""

    otlp_grpc: HostPort = Field(default=HostPort("127.0.0.1", 4317), description="OTLP/gRPC.")
    otlp_http: HostPort = Field(default=HostPort("127.0.0.1", 4318), description="OTLP/HTTP.")
    http: HostPort = Field(default=HostPort("127.0.0.1", 8080), description="/ready, /metrics and /status.")

    otlp_grpc_tls: ServerTlsConfig | None = Field(default=None, description="TLS of OTLP/gRPC; absent: in the clear.")
    otlp_http_tls: ServerTlsConfig | None = Field(default=None, description="TLS of OTLP/HTTP; absent: in the clear.")
    http_tls: ServerTlsConfig | None = Field(default=None, description="TLS of http; absent: in the clear.")

    @field_validator("otlp_grpc_tls")
    @classmethod
    def _grpc_chooses_its_versions(cls, tls: ServerTlsConfig | None) -> ServerTlsConfig | None:
        if tls is not None and tls.min_version != "1.2":
            raise ValueError("gRPC cannot be kept from TLS 1.2; write min_version: '1.2', clients get 1.3 all the same")
        return tls

    @model_validator(mode="after")
    def _addresses_differ(self) -> Self:
        taken: dict[HostPort, str] = {}
        for name in ("otlp_grpc", "otlp_http", "http"):
            address: HostPort = getattr(self, name)
            if address.port and (other := taken.setdefault(address, name)) != name:
                raise ValueError(f"{other} and {name} are both {address}; give each its own port")
        return self


class OverridesConfig(SettingsModel):
    """Settings of tenants: the defaults of all, and the file with those of each."""

    defaults: Overrides = Field(
        default=Overrides(), description="Settings of every tenant, unless the runtime file says otherwise."
    )
    per_tenant_override_config: Annotated[
        Path | None, BeforeValidator(_optional_path), AfterValidator(lambda path: path and path.absolute())
    ] = Field(default=None, description="Runtime file with the settings of each tenant (path); empty: none.")
    per_tenant_override_period: Annotated[CalendarDuration, between("100ms", "24h")] = Field(
        default=Duration.parse("10s"), description="Time between two looks at the runtime file."
    )
    expand_env: bool = Field(
        default=False,
        description="Replace ${NAME} in the runtime file by the environment variable NAME, which has to be set.",
    )
    inheritance: Literal["inherit", "replace"] = Field(
        default="inherit",
        description="How a tenant's entry meets the layers below it: inherit, field by field; or replace: it is used "
        "whole, as by Grafana Tempo, and what it leaves out is zero.",
    )
    user_configurable_overrides: UserConfigurableOverridesConfig = Field(
        default=UserConfigurableOverridesConfig(), description="Documents in which tenants set what is theirs."
    )
    allow_mass_removal: bool = Field(
        default=False,
        description="Accept a runtime file that is empty or lost more than half of its entries (5 or more).",
    )


class RegistryConfig(SettingsModel):
    """What holds for the series of every tenant."""

    collection_interval: CollectionInterval = Field(
        default=Duration.parse("15s"),
        description="Time between two samples of a series.",
    )
    stale_duration: Annotated[Duration, between("1s", "24h")] = Field(
        default=Duration.parse("15m"), description="A series without updates for this long ends."
    )
    external_labels: Annotated[Mapping[LabelName, Text], Field(max_length=64)] = Field(
        default={}, description="Labels of every series of every tenant."
    )
    inject_tenant_id_as: Annotated[str, AfterValidator(_optional_label_name)] = Field(
        default="", description="Label that holds the tenant id on every series (label name); empty: none."
    )
    max_label_name_length: Annotated[int, BYTES] = Field(
        default=1024, ge=0, le=65536, description="Longer label names are cut; 0: never."
    )
    max_label_value_length: Annotated[int, BYTES] = Field(
        default=2048, ge=0, le=65536, description="Longer label values are cut; 0: never."
    )


class MetricsGeneratorConfig(SettingsModel):
    """How metrics are generated, unless a tenant's overrides say otherwise."""

    metrics_ingestion_time_range_slack: IngestionSlack = Field(
        default=Duration.parse("30s"),
        description="How far from now a span may end, either way.",
    )
    limiter_type: LimiterType = Field(
        default="series",
        description="What a tenant's limit counts: series (max_active_series) or entity (max_active_entities).",
    )
    processor: ProcessorConfig = Field(default=ProcessorConfig(), description="Settings of the processors.")
    registry: RegistryConfig = Field(default=RegistryConfig(), description="Series and their labels.")


class ClusterConfig(SettingsModel):
    """How the work is spread and bounded. Nothing here changes a number that a tenant sees."""

    shard_hosts: Annotated[int, COUNT] = Field(
        default=0,
        ge=0,
        le=1024,
        description="Processes that generate metrics; 0: one for each shard_slot of the Ray cluster, or for every two "
        "cores.",
    )
    shard_spans_per_second: Annotated[int, COUNT] = Field(
        default=500_000,
        ge=1,
        le=10**9,
        description="Spans a second that a shard should take. A tenant without a fixed number of shards gets more, up "
        "to one for each shard host, while it sends more, and fewer when it has sent much less for a while.",
    )
    flush_interval: Annotated[Duration, between("10ms", "1m")] = Field(
        default=Duration.parse("1s"), description="Time between two pulls of what was counted."
    )
    max_request_bytes: Annotated[int, BYTES] = Field(
        default=16 << 20, ge=1 << 10, le=1 << 30, description="Largest export request, decompressed."
    )
    group_bytes: Annotated[int, BYTES] = Field(
        default=1 << 20,
        ge=1,
        le=256 << 20,
        description="Slices for one process travel together up to this.",
    )
    group_wait: Annotated[Duration, between("0s", "1s")] = Field(
        default=Duration.parse("10ms"), description="Longest a slice waits for company."
    )
    retained_bytes: Annotated[int, BYTES] = Field(
        default=256 << 20,
        ge=1 << 20,
        le=64 << 30,
        description="Slices that each gateway keeps until they are journalled; beyond it requests are refused for now.",
    )
    drain_timeout: Annotated[Duration, between("0s", "1h")] = Field(
        default=Duration.parse("30s"), description="Longest a stopping service flushes and sends."
    )


class LogConfig(SettingsModel):
    """The service's own log, on standard error."""

    format: Literal["pretty", "json"] = Field(default="pretty", description="pretty for people, json for machines.")
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe events that are written."
    )


class ServiceConfig(SettingsModel):
    """Everything that is fixed while the service runs. Frozen; pickles, secrets included."""

    data_dir: _AbsolutePath = Field(
        default=Path("millrace-data"),
        validate_default=True,
        description="Directory of what outlives the process (path; relative to the working directory).",
    )
    listen: ListenConfig = Field(default=ListenConfig(), description="Addresses of the ports.")
    auth: AuthConfig = Field(default=AuthConfig(), description="Proof of who is asking.")
    multitenancy_enabled: bool = Field(
        default=False,
        description="Read the tenant from X-Scope-OrgID. Off: all spans are single_tenant_id's.",
    )
    single_tenant_id: Annotated[TenantId, PlainValidator(_tenant_id), PlainSerializer(str, when_used="json")] = Field(
        default=TenantId("single-tenant"),
        description="Tenant of every span while multi-tenancy is off.",
    )
    compat: Compat = Field(
        default="",
        description="tempo: inheritance replace unless it is set, and the status codes of Tempo's overrides API.",
    )
    tenant_registry: TenantRegistry = Field(
        default="open",
        description="open: any tenant may send spans. closed: only those that an operator or the runtime file knows.",
    )
    store: StoreConfig = Field(default=StoreConfig(), description="Documents, tenants, tokens, audit and usage.")
    journal: JournalConfig = Field(
        default=JournalConfig(), description="What was counted, so that counters go on after a restart."
    )
    metrics_page: MetricsPageConfig = Field(
        default=MetricsPageConfig(), description="The page /metrics of the service."
    )
    limits_exporter: LimitsExporterConfig = Field(
        default=LimitsExporterConfig(), description="Metrics of the limits in force."
    )
    overrides: OverridesConfig = Field(default=OverridesConfig(), description="Settings of tenants.")
    ingestion: IngestionConfig = Field(default=IngestionConfig(), description="How spans are received.")
    metrics_generator: MetricsGeneratorConfig = Field(
        default=MetricsGeneratorConfig(), description="How metrics are generated."
    )
    remote_write: RemoteWriteEndpoints = Field(
        default=(),
        description="Where metrics go, for tenants without endpoints of their own; empty: nowhere.",
    )
    remote_write_targets: RemoteWriteTargets = Field(
        default=RemoteWriteTargets(), description="Where endpoints in overrides may send to; those above may anywhere."
    )
    remote_write_add_org_id_header: bool = Field(
        default=True, description="Send the tenant id as X-Scope-OrgID, while multi-tenancy is on."
    )
    cluster: ClusterConfig = Field(default=ClusterConfig(), description="How the work is spread and bounded.")
    log: LogConfig = Field(default=LogConfig(), description="The service's own log.")
    tracing: TracingConfig = Field(
        default=TracingConfig(), description="OpenTelemetry traces of Millrace itself; off by default."
    )

    @property
    def uses_entries_whole(self) -> bool:
        """Whether a tenant's entry is used whole, instead of field by field (tenancy §2.1, D-4)."""
        if "inheritance" in self.overrides.model_fields_set:
            return self.overrides.inheritance == "replace"
        return self.compat == "tempo"

    @property
    def single_tenant(self) -> TenantId | None:
        """The tenant of every request while multi-tenancy is off, None while it is on."""
        return None if self.multitenancy_enabled else self.single_tenant_id


def load_service_config(path: Path | None, environ: Mapping[str, str]) -> ServiceConfig:
    """Read and check the service configuration. Blocks on the file.

    Args:
        path: the YAML file; None gives the defaults.
        environ: values of ``${NAME}`` in the file; a name that is missing is a fault, never an empty text.

    Raises:
        SettingsError: the file cannot be read, is not YAML, or does not fit; every fault with path and line.
    """
    if path is None:
        return ServiceConfig()
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SettingsError([Fault("", f"cannot be read: {error.strerror}")], str(path)) from error
    return parse_service_config(text, environ, source=str(path))


def parse_service_config(text: bytes, environ: Mapping[str, str], *, source: str = "") -> ServiceConfig:
    """Check the text of a service configuration; ``source`` names it in errors.

    Raises:
        SettingsError: as :func:`load_service_config`.
    """
    try:
        document = read_yaml(text, environ)
    except SettingsError as error:
        raise SettingsError(error.faults, source) from None
    config = validate(ServiceConfig, document.value, document=document, source=source)
    below = inherited_layers(config.metrics_generator.processor.span_metrics)
    defaults, path = config.overrides.defaults, ("overrides", "defaults")
    faults = list(target_faults(defaults, config.remote_write_targets, path, document))
    if fault := inherited_collision(defaults, below, path, document):
        faults.append(fault)
    if faults:
        raise SettingsError(faults, source)
    return config
