"""The limits that an operator sets for one tenant through the API: some keys of the overrides (tenancy §4)."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tenants.settings.errors import Fault, SettingsError, dotted
from tenants.settings.model import validate
from tenants.settings.overrides import Overrides

LIMIT_KEYS: Final = frozenset(
    {
        "ingestion.rate_limit_bytes",
        "ingestion.burst_size_bytes",
        "ingestion.max_attribute_bytes",
        "ingestion.artificial_delay",
        "ingestion.retry_info_enabled",
        "metrics_generator.max_active_series",
        "metrics_generator.max_active_entities",
        "metrics_generator.max_cardinality_per_label",
        "metrics_generator.shards",
    }
)
"""What may be set. Endpoints and headers may not: they hold secrets, which belong in files."""


def read_limits(limits: Mapping[str, Any]) -> Overrides:
    """Check limits, written as in the overrides: ``{"ingestion": {"rate_limit_bytes": 1000}}``.

    Raises:
        SettingsError: with every fault.
    """
    faults = [
        Fault(key, f"is not a limit; limits are {', '.join(sorted(LIMIT_KEYS))}")
        for key in _leaves(limits, ())
        if key not in LIMIT_KEYS
    ]
    if faults:
        raise SettingsError(faults)
    return validate(Overrides, dict(limits))


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, Mapping) and (not path or len(path) < 2):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif path:
        yield dotted(path)
