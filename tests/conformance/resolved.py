"""Plans as they come from a tenant's settings, and the calls that their cases count (processors §5)."""

import json
from typing import Any, Final

from tenants.identity import TenantId
from tenants.processing.plan import plan_json
from tenants.settings import Overrides, TenantSettings, parse_service_config, resolve
from tenants.settings.model import validate
from tests.conformance.fixtures import NOW_NS
from tests.overrides_in_force import in_force
from tests.traces import SECOND_NS, batch, span

BOTH_PROCESSORS: Final = ["span-metrics", "service-graphs"]


def settings(generator: dict[str, Any], config: str = "") -> TenantSettings:
    """Return the settings of a tenant with these overrides, under this service configuration."""
    entry = validate(Overrides, {"metrics_generator": generator}, path=("overrides", "acme"))
    return resolve(parse_service_config(config.encode(), {}), in_force({"acme": entry}), TenantId("acme"))


def plan_of(generator: dict[str, Any], config: str = "") -> dict[str, Any]:
    """Return the plan of :func:`settings`."""
    document: dict[str, Any] = json.loads(plan_json(settings(generator, config)))
    return document


def call(service: str, name: str, kind: int, own: int, parent: int, seconds: float, end_ns: int = NOW_NS) -> Any:
    """Return a resource with one span of one trace; parent 0 is no parent."""
    one = span(
        name,
        kind=kind,
        span_id=bytes([own]) * 8,
        parent=bytes([parent]) * 8 if parent else b"",
        start_ns=end_ns - round(seconds * SECOND_NS),
        end_ns=end_ns,
    )
    return batch({"service.name": service}, one)
