"""From what all processes measured to figures by process and tenant, for the control plane."""

from collections.abc import Mapping

from cluster.measurements import Measurements
from tenants.control.figures import TenantFigures

_SENT = "sent"


def tenant_figures(measured: Mapping[str, Measurements]) -> dict[str, dict[str, TenantFigures]]:
    """Read the figures; by actor, then by tenant."""
    return {actor: _of_actor(measurements) for actor, measurements in measured.items()}


def _of_actor(measurements: Measurements) -> dict[str, TenantFigures]:
    by_tenant: dict[str, TenantFigures] = {}
    for name, labels, value in measurements:
        if not isinstance(value, float | int):
            continue
        match name, labels:
            case "millrace_spans_received_total", (tenant,):
                _figures(by_tenant, tenant).spans += int(value)
            case "millrace_bytes_received_total", (tenant,):
                _figures(by_tenant, tenant).bytes += int(value)
            case "millrace_remote_write_samples_total", (tenant, _, outcome) if outcome == _SENT:
                _figures(by_tenant, tenant).samples_sent += int(value)
            case "millrace_registry_active_series", (tenant,):
                _figures(by_tenant, tenant).active_series += int(value)
            case "millrace_registry_series_limited_total", (tenant,):
                _figures(by_tenant, tenant).series_limited += int(value)
            case "millrace_registry_active_series_demand_estimate", (tenant,):
                _figures(by_tenant, tenant).series_demand += int(value)
            case "millrace_spans_discarded_total", (tenant, stage, reason):
                _figures(by_tenant, tenant).discarded[(stage, reason)] += int(value)
            case _:
                pass
    return by_tenant


def _figures(by_tenant: dict[str, TenantFigures], tenant: str) -> TenantFigures:
    return by_tenant.setdefault(tenant, TenantFigures())
