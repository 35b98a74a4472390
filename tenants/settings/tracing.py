"""OpenTelemetry traces of Millrace itself: whether, where to, and how many."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from tenants.identity.tenant_id import HEADER as ORG_ID_HEADER
from tenants.identity.tenant_id import TenantId
from tenants.settings.headers import Headers
from tenants.settings.model import SettingsModel
from tenants.settings.receiver_url import check_receiver_url
from tenants.settings.remote_write import HeaderSources
from tenants.settings.remote_write_auth import TlsConfig
from tenants.settings.schema import RATIO

_PATH = "/v1/traces"


def _check_endpoint(url: str) -> str:
    if not url:
        return url
    return check_receiver_url(url, example="http://127.0.0.1:4318", instead="headers")


def _check_tenant(name: str) -> str:
    return str(TenantId(name)) if name else name


class TracingConfig(SettingsModel):
    """OpenTelemetry traces of Millrace itself. Every process sends its own, headers and all."""

    endpoint: Annotated[str, AfterValidator(_check_endpoint)] = Field(
        default="",
        description="Receiver of OTLP/HTTP in protobuf, such as http://127.0.0.1:4318; without a path, /v1/traces is "
        "added. No password. Empty: nothing is traced.",
    )
    headers: Headers = Field(
        default={}, description="Headers of every request, such as Authorization. Values are secret."
    )
    headers_from: HeaderSources = Field(
        default={}, description="Headers of every request whose values are in a file or an environment variable."
    )
    tls_config: TlsConfig | None = Field(default=None, description="TLS; only for https.")
    tenant: Annotated[str, AfterValidator(_check_tenant)] = Field(
        default="",
        description="Sent as X-Scope-OrgID. Nothing that is done for this tenant alone is traced: name it where traces "
        "are sent to Millrace itself, or they would be traced in turn. Empty: none.",
    )
    sample_ratio: Annotated[float, RATIO] = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Part of what happens all the time that is traced: export requests, pulls, commits, collections, "
        "remote writes, claims, reads of the API. What changes something, or happens once, is traced always, up to ten "
        "a second in each process.",
    )

    @property
    def is_on(self) -> bool:
        """Whether anything is traced."""
        return bool(self.endpoint)

    @property
    def url(self) -> str:
        """Where requests go."""
        parts = urlsplit(self.endpoint)
        return self.endpoint if parts.path.strip("/") else parts._replace(path=_PATH).geturl()

    @model_validator(mode="after")
    def _headers_are_said_once(self) -> Self:
        given = [name.lower() for name in (*self.headers, *self.headers_from)]
        if len(set(given)) < len(given):
            twice = next(name for name in given if given.count(name) > 1)
            raise ValueError(f"{twice} is both in headers and in headers_from; keep one")
        if self.tenant and ORG_ID_HEADER.lower() in given:
            raise ValueError(f"tenant is sent as {ORG_ID_HEADER}; remove that header")
        return self

    @model_validator(mode="after")
    def _settings_have_a_use(self) -> Self:
        if self.tls_config is not None and self.endpoint.startswith("http:"):
            raise ValueError("tls_config has no effect on http; use an endpoint with https, or remove it")
        return self
