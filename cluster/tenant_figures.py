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
            case "millrace_ledger_spans_total", (tenant, stage, outcome):
                _figures(by_tenant, tenant).ledger[(stage, outcome)] += int(value)
            case _:
                _add_endpoint(by_tenant, name, labels, value)
    return by_tenant


def _add_endpoint(by_tenant: dict[str, TenantFigures], name: str, labels: tuple[str, ...], value: float) -> None:
    match name, labels:
        case "millrace_remote_write_lag_seconds", (tenant, _):
            figures = _figures(by_tenant, tenant)
            figures.lag_s = max(figures.lag_s, value)
        case "millrace_remote_write_state", (tenant, _, state):
            _figures(by_tenant, tenant).endpoints[state] += 1
        case _:
            pass


def _figures(by_tenant: dict[str, TenantFigures], tenant: str) -> TenantFigures:
    return by_tenant.setdefault(tenant, TenantFigures())
