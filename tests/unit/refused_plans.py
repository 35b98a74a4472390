"""How each implementation of the processors refuses a plan."""

from typing import Any

from tests.reference import ReferenceModel
from tests.reference_plan import RefusedPlanError


def refusal(implementation: Any) -> type[Exception]:
    """Return what an implementation raises for a plan that it cannot carry out."""
    if implementation is ReferenceModel:
        return RefusedPlanError
    from tenants._engine import InvalidPlan  # noqa: PLC0415  # the model's tests need no engine

    return InvalidPlan
