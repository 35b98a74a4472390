"""From the settings of a tenant to those of its senders. Keeps nothing, and opens no connection."""

import structlog

from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.errors import InvalidEndpointError
from tenants.settings.remote_write import RemoteWriteEndpoint
from tenants.settings.tenant_settings import TenantSettings

_DEFAULT_MAX_SAMPLES = 2000

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


def endpoint_configs(settings: TenantSettings) -> list[EndpointConfig]:
    """Turn a tenant's endpoint settings into those of the senders; one that cannot be used is logged and left out."""
    configs = []
    for endpoint in settings.remote_write:
        try:
            configs.append(_endpoint_config(endpoint))
        except InvalidEndpointError as error:
            log.error(  # noqa: TRY400  (the fault is in a setting; a traceback would say nothing)
                "remote_write endpoint cannot be used",
                tenant=str(settings.tenant),
                endpoint=endpoint.display_name,
                problem=str(error),
            )
    return configs


def _endpoint_config(endpoint: RemoteWriteEndpoint) -> EndpointConfig:
    return EndpointConfig(
        url=endpoint.url,
        name=endpoint.display_name,
        headers=tuple((name, value.get_secret_value()) for name, value in endpoint.headers.items()),
        timeout_s=endpoint.remote_timeout.seconds,
        max_queue_bytes=endpoint.queue_max_bytes,
        min_backoff_s=endpoint.min_backoff.seconds,
        max_backoff_s=endpoint.max_backoff.seconds,
    )


def max_samples(settings: TenantSettings) -> int:
    """Return the bound of a batch: all endpoints get the same ones, so the most modest decides."""
    limits = [endpoint.max_samples_per_send for endpoint in settings.remote_write]
    return min(limits, default=_DEFAULT_MAX_SAMPLES)
