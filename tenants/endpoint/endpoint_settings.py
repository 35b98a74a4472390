"""From the settings of a tenant to those of its senders. Keeps nothing, and opens no connection."""

import structlog

from tenants.endpoint.config import EndpointConfig, HeaderFrom, basic_authorization
from tenants.endpoint.encoding import Encoding, unique_encodings
from tenants.endpoint.errors import InvalidEndpointError
from tenants.settings.protobuf_message import ProtobufMessage
from tenants.settings.remote_write import RemoteWriteEndpoint
from tenants.settings.tenant_settings import TenantSettings
from tenants.settings.write_relabel import rules_json

_DEFAULT_MAX_SAMPLES = 2000
_AUTHORIZATION = "Authorization"

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


def endpoint_configs(settings: TenantSettings) -> list[EndpointConfig]:
    """Turn a tenant's endpoint settings into those of the senders; one that cannot be used is logged and left out."""
    configs = []
    for endpoint in settings.remote_write:
        try:
            configs.append(_endpoint_config(endpoint, settings.is_remote_write_confined))
        except InvalidEndpointError as error:
            log.error(  # noqa: TRY400  (the fault is in a setting; a traceback would say nothing)
                "remote_write endpoint cannot be used",
                tenant=str(settings.tenant),
                endpoint=endpoint.display_name,
                problem=str(error),
            )
    return configs


def _endpoint_config(endpoint: RemoteWriteEndpoint, is_confined: bool) -> EndpointConfig:
    headers = [(name, value.get_secret_value()) for name, value in endpoint.headers.items()]
    headers_from = [HeaderFrom(name, source) for name, source in endpoint.headers_from.items()]
    if (basic := endpoint.basic_auth) is not None:
        if basic.source is not None:
            headers_from.append(HeaderFrom(_AUTHORIZATION, basic.source, user=basic.username))
        else:
            password = basic.password.get_secret_value() if basic.password is not None else ""
            headers.append((_AUTHORIZATION, basic_authorization(basic.username, password)))
    if (other := endpoint.authorization) is not None:
        if other.source is not None:
            headers_from.append(HeaderFrom(_AUTHORIZATION, other.source, prefix=f"{other.type} "))
        elif other.credentials is not None:
            headers.append((_AUTHORIZATION, f"{other.type} {other.credentials.get_secret_value()}"))
    return EndpointConfig(
        url=endpoint.url,
        name=endpoint.display_name,
        headers=tuple(headers),
        headers_from=tuple(headers_from),
        tls=endpoint.tls_config,
        is_confined=is_confined,
        protobuf_message=_pinned(endpoint),
        relabel=rules_json(endpoint.write_relabel_configs),
        timeout_s=endpoint.remote_timeout.seconds,
        max_queue_bytes=endpoint.queue_max_bytes,
        max_memory_bytes=endpoint.queue_memory_bytes,
        max_sample_age_s=endpoint.max_sample_age.seconds,
        max_lanes=endpoint.max_lanes,
        min_backoff_s=endpoint.min_backoff.seconds,
        max_backoff_s=endpoint.max_backoff.seconds,
    )


def max_samples(settings: TenantSettings) -> int:
    """Return the bound of a batch: all endpoints get the same ones, so the most modest decides."""
    limits = [endpoint.max_samples_per_send for endpoint in settings.remote_write]
    return min(limits, default=_DEFAULT_MAX_SAMPLES)


def max_lanes(settings: TenantSettings) -> int:
    """Return into how many lanes series may be divided: an endpoint with fewer sends one after the other."""
    return max((endpoint.max_lanes for endpoint in settings.remote_write), default=1)


def encodings(settings: TenantSettings) -> list[Encoding]:
    """Return how series are encoded for endpoints of which nothing is known yet; for none at all they are too."""
    endpoints = settings.remote_write
    return unique_encodings(
        Encoding(rules_json(endpoint.write_relabel_configs), _pinned(endpoint) or ProtobufMessage.V2)
        for endpoint in endpoints
    )


def _pinned(endpoint: RemoteWriteEndpoint) -> ProtobufMessage | None:
    message = endpoint.protobuf_message
    return None if message == "auto" else ProtobufMessage(message)
