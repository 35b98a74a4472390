"""Overrides as processes are told them: for tests that have the entries of a runtime file and need a change."""

from tenants.settings import RuntimeOverrides
from tenants.settings.in_force import OverridesChange, OverridesInForce, whole


def in_force(runtime: RuntimeOverrides, version: int = 1) -> OverridesInForce:
    """Nothing but the entries of a runtime file."""
    return OverridesInForce(version, runtime)


def whole_of(version: int, runtime: RuntimeOverrides) -> OverridesChange:
    """The change that leads from anywhere to nothing but these entries."""
    return whole(in_force(runtime, version))
