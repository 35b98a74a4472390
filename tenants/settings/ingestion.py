"""Settings of what a tenant may send: rates, sizes, and how a refusal reads (tenancy §4)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tenants.settings.model import SettingsModel
from tenants.settings.scalars import Duration, between
from tenants.settings.schema import BYTES, COUNT, About, Effect

RateStrategy = Literal["local", "global"]

Acknowledge = Literal["accepted", "durable"]
"""When a request is answered: once it is counted, or once what was counted is journalled."""

DEFAULT_RATE_BYTES = 30_000_000
DEFAULT_BURST_BYTES = 30_000_000
LEAST_ATTRIBUTE_BYTES = 64
"""A lower limit would cut the names of attributes that mean something, such as ``service.name`` (tenancy §4.5)."""


def _off_or_enough(value: int) -> int:
    if 0 < value < LEAST_ATTRIBUTE_BYTES:
        raise ValueError(f"should be at least {LEAST_ATTRIBUTE_BYTES} bytes, or 0 for no limit")
    return value


_Integer = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Count = Annotated[_Integer, COUNT]
_Bytes = Annotated[_Integer, BYTES]
_BytesASecond = Annotated[_Integer, About(unit="bytes a second")]
_AttributeBytes = Annotated[int, Field(ge=0, le=1 << 30), AfterValidator(_off_or_enough), BYTES]
_Delay = Annotated[Duration, between("0s", "1m")]
_WithoutEffect = About(effect=Effect.NEVER)


class IngestionConfig(SettingsModel):
    """Service-wide settings of ingestion; a tenant's overrides win."""

    max_attribute_bytes: _AttributeBytes = Field(
        default=2048,
        description="Longer names and texts of attributes are cut at a character; 64 at least, 0: never.",
    )
    artificial_delay: _Delay = Field(
        default=Duration(0), description="Answer no request sooner than this, give or take a tenth."
    )


class IngestionOverrides(SettingsModel):
    """Limits on what a tenant may send. Zero rate or burst: everything is refused."""

    rate_strategy: RateStrategy | None = Field(
        default=None,
        description="local: each gateway allows the whole rate; global: they share it. "
        "One for all tenants: only in overrides.defaults.",
    )
    rate_limit_bytes: _BytesASecond | None = Field(
        default=None, description="Most that is taken in, of decoded requests; 0: refuse everything."
    )
    burst_size_bytes: _Bytes | None = Field(
        default=None, description="Most at once, and so the largest request; 0: refuse everything."
    )
    max_attribute_bytes: _AttributeBytes | None = Field(
        default=None,
        description="Longer names and texts of attributes are cut at a character; 64 at least, 0: never.",
    )
    artificial_delay: _Delay | None = Field(
        default=None, description="Answer no request sooner than this, give or take a tenth."
    )
    retry_info_enabled: bool | None = Field(
        default=None, description="Tell clients above their rate when to try again. Off: their spans are lost."
    )
    acknowledge: Acknowledge | None = Field(
        default=None,
        description="accepted: answer a request once it is counted; losing a gateway and a shard host at the same "
        "instant may then lose what was counted since the last flush. durable: answer once it is journalled.",
    )
    max_traces_per_user: Annotated[_Count | None, _WithoutEffect] = Field(
        default=None, description="A limit of the trace store."
    )
    max_global_traces_per_user: Annotated[_Count | None, _WithoutEffect] = Field(
        default=None, description="A limit of the trace store."
    )
    tenant_shard_size: Annotated[_Count | None, _WithoutEffect] = Field(
        default=None, description="Distributors of the tenant; shards says how far a tenant is spread."
    )


@dataclass(frozen=True, slots=True)
class IngestionSettings:
    """What one tenant may send. The rate is a gateway's or everybody's, by the strategy."""

    rate_strategy: RateStrategy
    rate_limit_bytes: int
    burst_size_bytes: int
    max_attribute_bytes: int
    artificial_delay: Duration
    retry_info_enabled: bool
    acknowledge: Acknowledge
