"""Settings of host info: one gauge for each host that spans come from (processors §3)."""

from typing import Annotated

from pydantic import AfterValidator, Field

from tenants.settings.model import SettingsModel
from tenants.settings.names import AttributeNames, MetricName


def _names_a_host(identifiers: tuple[str, ...]) -> tuple[str, ...]:
    if not identifiers:
        raise ValueError(
            "should name an attribute at least; to generate no host info, take host-info out of processors"
        )
    return identifiers


_HostIdentifiers = Annotated[AttributeNames, AfterValidator(_names_a_host)]


class HostInfoConfig(SettingsModel):
    """Service-wide settings of host info; a tenant's overrides win."""

    host_identifiers: _HostIdentifiers = Field(
        default=("k8s.node.name", "host.id"),
        description="Resource attributes that name a host, first found with a text wins.",
    )
    metric_name: MetricName = Field(default="traces_host_info", description="Name of the gauge.")


class HostInfoOverrides(SettingsModel):
    """What a tenant may change about host info."""

    host_identifiers: _HostIdentifiers | None = Field(
        default=None, description="Resource attributes that name a host; replaces the list."
    )
    metric_name: MetricName | None = Field(default=None, description="Name of the gauge.")
