"""What a plan may not say, in the reference model (processors §0.8, §1.3, Q3, Q39, Q40).

The engine refuses the same plans with ``InvalidPlan``. The shape of the document is not checked here.
"""

import math
from collections.abc import Iterable
from typing import Any

from tests.reference_labels import INTRINSIC_LABELS, sanitize, sanitize_protected

REFUSED_LABELS = frozenset({"", "le", "__name__"})
MAX_BOUNDS = 100


class RefusedPlanError(ValueError):
    """A plan cannot be carried out; the text says which setting is wrong."""


def check_span_metrics(settings: dict[str, Any]) -> None:
    """Refuse bad bounds, labels that would merge series, and mappings that share a label (processors §1.3)."""
    check_bounds(settings["histogram_buckets"])
    taken: dict[str, str] = {}
    for dimension in settings["dimensions"]:
        label = sanitize_protected(dimension, INTRINSIC_LABELS)
        check_label(dimension, label)
        taken[label] = dimension  # two dimensions may share a label
    for mapping in settings["dimension_mappings"]:
        label = sanitize_protected(mapping["name"], INTRINSIC_LABELS)
        check_label(mapping["name"], label)
        if label in taken:
            raise RefusedPlanError(f"mapping {mapping['name']!r}: label {label!r} is that of {taken[label]!r}")
        taken[label] = mapping["name"]


def check_service_graphs(settings: dict[str, Any]) -> None:
    """Refuse bad bounds, and dimensions that would merge series."""
    check_bounds(settings["histogram_buckets"])
    for dimension in settings["dimensions"]:
        check_label(dimension, dimension and sanitize(dimension))


def check_label(name: str, label: str) -> None:
    """Refuse a dimension or mapping that becomes no label of an entity (Q3, Q39)."""
    if label in REFUSED_LABELS:
        raise RefusedPlanError(f"dimension {name!r} becomes the label {label!r}")


def check_bounds(bounds: Iterable[float]) -> None:
    """Refuse bounds that are not finite, not positive, repeated or too many (Q40)."""
    bounds = list(bounds)
    if not all(math.isfinite(bound) and bound > 0 for bound in bounds):
        raise RefusedPlanError(f"bounds that are not finite and positive: {bounds}")
    if len(set(bounds)) != len(bounds) or len(bounds) > MAX_BOUNDS:
        raise RefusedPlanError(f"repeated or too many bounds: {bounds}")
