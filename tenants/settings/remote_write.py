"""Where a tenant's metrics are written to, and how hard to try. The sending itself is not here."""

import hashlib
import re
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, Strict, model_validator

from tenants.settings.headers import Headers
from tenants.settings.model import SettingsModel
from tenants.settings.scalars import Duration, between

_MAX_URL = 2048


def _check_url(url: str) -> str:
    # Messages never quote the URL: a refused one may hold a password.
    if len(url) > _MAX_URL or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(f"should be a URL of at most {_MAX_URL} visible ASCII characters")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("has a host or port that cannot be read") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("should be http:// or https:// with a host, such as https://metrics.example/api/v1/push")
    if "@" in parts.netloc:
        raise ValueError("should not hold a user or password; send an Authorization header instead")
    if parts.fragment:
        raise ValueError("should have no fragment (#...)")
    return url


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
    remote_timeout: Annotated[Duration, between("10ms", "10m")] = Field(
        default=Duration.parse("30s"),
        description="Time a request may take before it counts as failed (duration).",
    )
    max_samples_per_send: int = Field(
        default=2000, ge=1, le=100_000, description="Most samples in one request (count)."
    )
    queue_max_bytes: int = Field(
        default=64 << 20,
        ge=64 << 10,
        le=16 << 30,
        description="Most compressed bytes of one tenant that wait for this endpoint (bytes).",
    )
    min_backoff: Annotated[Duration, between("1ms", "5m")] = Field(
        default=Duration.parse("30ms"),
        description="Wait after the first failed attempt; doubles each time (duration).",
    )
    max_backoff: Annotated[Duration, between("1ms", "5m")] = Field(
        default=Duration.parse("5s"), description="Longest wait between two attempts (duration)."
    )

    @property
    def display_name(self) -> str:
        """The name, or one that stays the same as long as the URL does."""
        return self.name or hashlib.sha256(self.url.encode()).hexdigest()[:8]

    @model_validator(mode="after")
    def _backoff_grows(self) -> Self:
        if self.min_backoff > self.max_backoff:
            raise ValueError(f"min_backoff ({self.min_backoff}) should not exceed max_backoff ({self.max_backoff})")
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
