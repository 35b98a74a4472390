"""The state of a tenant: what is done with what it sends (tenancy §5.1, D-21)."""

from enum import StrEnum


class TenantState(StrEnum):
    """What an operator decided about a tenant. The texts are part of the API and of metrics and never change."""

    ACTIVE = "active"
    """Spans are accepted and generated from, series are sent."""

    DRY_RUN = "dry_run"
    """Spans are accepted, series are counted, and nothing is sent."""

    PAUSED = "paused"
    """Spans are accepted, and nothing is generated."""

    BLOCKED = "blocked"
    """Spans are refused."""
