"""The seam to whoever puts settings in force in all processes."""

from collections.abc import Mapping
from typing import Protocol

from tenants.settings.in_force import OverridesInForce
from tenants.settings.overrides import Overrides
from tenants.settings.tenant_state import TenantState


class SettingsInForce(Protocol):
    """What is in force here, and how far it has got."""

    @property
    def overrides(self) -> OverridesInForce:
        """What is in force in this process."""

    def put(
        self,
        *,
        documents: Mapping[str, Overrides | None] | None = None,
        states: Mapping[str, TenantState | None] | None = None,
        limits: Mapping[str, Overrides | None] | None = None,
        sizes: Mapping[str, int | None] | None = None,
    ) -> int:
        """Put changes in force in this process; returns the version."""

    def push_soon(self) -> None:
        """Carry what is in force here to all others, without waiting for it."""

    async def is_everywhere(self, version: int, timeout_s: float) -> bool:
        """Wait until every process has a version, at most ``timeout_s`` seconds; return whether it has."""
