"""Where a tenant's metrics are written to, and how hard to try. The sending itself is not here."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, Strict, model_validator

from tenants.identity.tenant_id import HEADER as ORG_ID_HEADER
from tenants.identity.tenant_id import TenantId
from tenants.settings.headers import HeaderName, Headers, check_unique, final_headers
from tenants.settings.model import SettingsModel
from tenants.settings.receiver_url import check_receiver_url
from tenants.settings.remote_write_auth import Authorization, BasicAuth, TlsConfig
from tenants.settings.scalars import Duration, between
from tenants.settings.schema import BYTES, COUNT
from tenants.settings.secret_source import SecretSource
from tenants.settings.write_relabel import RelabelRules


def _check_url(url: str) -> str:
    return check_receiver_url(url, example="https://metrics.example/api/v1/push", instead="basic_auth")


HeaderSources = Annotated[Mapping[HeaderName, SecretSource], Field(max_length=32), AfterValidator(check_unique)]

_AUTHORIZATION = "authorization"


class RemoteWriteEndpoint(SettingsModel):
    """One Remote-Write receiver."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,64}$")] = Field(
        default="", description="Name in metrics and logs; empty: derived from the URL. Unique in its list."
    )
    url: Annotated[str, AfterValidator(_check_url)] = Field(
        description="Receiver, such as https://metrics.example/api/v1/push (http or https). No password."
    )
    headers: Headers = Field(
        default={}, description="Headers of every request, such as Authorization. Values are secret."
    )
    headers_from: HeaderSources = Field(
        default={}, description="Headers of every request whose values are in a file or an environment variable."
    )
    basic_auth: BasicAuth | None = Field(default=None, description="User and password.")
    authorization: Authorization | None = Field(default=None, description="Authorization other than basic_auth.")
    tls_config: TlsConfig | None = Field(default=None, description="TLS; only for https.")
    write_relabel_configs: RelabelRules = Field(
        default=(), description="Rules for the labels of what is sent here, as in Prometheus; after external labels."
    )
    protobuf_message: Literal["auto", "prometheus.WriteRequest", "io.prometheus.write.v2.Request"] = Field(
        default="auto",
        description="Remote-Write 1.0 or 2.0, by its message. auto: 2.0, or 1.0 if the receiver does not know that.",
    )
    remote_timeout: Annotated[Duration, between("10ms", "10m")] = Field(
        default=Duration.parse("30s"),
        description="Time a request may take before it counts as failed.",
    )
    max_samples_per_send: Annotated[int, COUNT] = Field(
        default=2000, ge=1, le=100_000, description="Most samples in one request."
    )
    queue_max_bytes: Annotated[int, BYTES] = Field(
        default=256 << 20,
        ge=64 << 10,
        le=64 << 30,
        description="Most compressed bytes of one tenant that wait for this endpoint, on disk and in memory; the "
        "oldest go beyond it.",
    )
    queue_memory_bytes: Annotated[int, BYTES] = Field(
        default=16 << 20,
        ge=64 << 10,
        le=1 << 30,
        description="Most compressed bytes of one tenant that wait for this endpoint in memory; beyond it they are put "
        "on disk at once.",
    )
    max_sample_age: Annotated[Duration, between("1m", "7d")] = Field(
        default=Duration.parse("2h"),
        description="Samples that have waited for longer are dropped: a receiver takes none that are older than its "
        "newest block.",
    )
    max_lanes: Annotated[int, COUNT] = Field(
        default=4,
        ge=1,
        le=16,
        description="Most requests at once; samples of one series never overtake each other.",
    )
    min_backoff: Annotated[Duration, between("1ms", "5m")] = Field(
        default=Duration.parse("30ms"),
        description="Wait after the first failed attempt; doubles each time.",
    )
    max_backoff: Annotated[Duration, between("1ms", "5m")] = Field(
        default=Duration.parse("5s"), description="Longest wait between two attempts."
    )

    @property
    def display_name(self) -> str:
        """The name, or one that stays the same as long as the URL does."""
        return self.name or hashlib.sha256(self.url.encode()).hexdigest()[:8]

    def for_tenant(self, own: Mapping[str, SecretStr], org_id: TenantId | None) -> Self:
        """Return the endpoint as one tenant uses it: named, and with the headers of its requests (tenancy §7).

        Args:
            own: the tenant's ``remote_write_headers``; they win over headers and authorization of the endpoint.
            org_id: sent as ``X-Scope-OrgID`` unless another header of that name is configured; None to send none.
        """
        replaced = {name.lower() for name in own}
        sources = {name: source for name, source in self.headers_from.items() if name.lower() not in replaced}
        if ORG_ID_HEADER.lower() in {name.lower() for name in sources}:
            org_id = None
        update: dict[str, object] = {
            "name": self.display_name,
            "headers": final_headers(self.headers, own, org_id),
            "headers_from": sources,
        }
        if _AUTHORIZATION in replaced:
            update |= {"basic_auth": None, "authorization": None}
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _backoff_grows(self) -> Self:
        if self.min_backoff > self.max_backoff:
            raise ValueError(f"min_backoff ({self.min_backoff}) should not exceed max_backoff ({self.max_backoff})")
        return self

    @model_validator(mode="after")
    def _headers_are_said_once(self) -> Self:
        twice = {name.lower() for name in self.headers} & {name.lower() for name in self.headers_from}
        if twice:
            raise ValueError(f"{min(twice)} is both in headers and in headers_from; keep one")
        is_header = _AUTHORIZATION in {name.lower() for name in (*self.headers, *self.headers_from)}
        if [self.basic_auth is not None, self.authorization is not None, is_header].count(True) > 1:
            raise ValueError("at most one of basic_auth, authorization and a header Authorization may be set")
        return self

    @model_validator(mode="after")
    def _tls_has_a_use(self) -> Self:
        if self.tls_config is not None and not self.url.startswith("https:"):
            raise ValueError("tls_config has no effect on http; use a URL with https, or remove it")
        return self


def _check_names(endpoints: tuple[RemoteWriteEndpoint, ...]) -> tuple[RemoteWriteEndpoint, ...]:
    seen: dict[str, int] = {}
    for index, endpoint in enumerate(endpoints):
        if (first := seen.setdefault(endpoint.display_name, index)) != index:
            raise ValueError(f"entries [{first}] and [{index}] have the same name or URL; name them differently")
    return endpoints


RemoteWriteEndpoints = Annotated[
    tuple[RemoteWriteEndpoint, ...], Field(max_length=16), AfterValidator(_check_names), Strict(False)
]
