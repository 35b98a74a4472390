"""Mappings that collide with a dimension of another layer: visible only where the layers meet (processors §1.3).

Within one layer the models compare them. Here an entry is compared with what it inherits, so that its owner hears of it
before a tenant's processor would have to be refused.
"""

from collections.abc import Sequence

from tenants.settings.dimension_mappings import find_collision
from tenants.settings.errors import Fault, PathPart, dotted
from tenants.settings.overrides import WILDCARD, Overrides, RuntimeOverrides
from tenants.settings.span_metrics import SpanMetricsConfig, SpanMetricsOverrides
from tenants.settings.yaml_document import YamlDocument

_SPAN_METRICS = ("metrics_generator", "processor", "span_metrics")

_DEFAULTS = "overrides.defaults of the service configuration"

InheritedLayer = tuple[str, SpanMetricsOverrides | SpanMetricsConfig]
"""Where a layer is from, in words, and what it says of span metrics."""


def inherited_layers(
    static: SpanMetricsConfig, defaults: Overrides | None = None, wildcard: Overrides | None = None
) -> tuple[InheritedLayer, ...]:
    """Line up what an entry inherits, strongest first; ``defaults`` and ``wildcard`` only if they are below it."""
    overrides = (("the entry *", wildcard), (_DEFAULTS, defaults))
    present = tuple((where, _span_metrics(entry)) for where, entry in overrides if entry is not None)
    return (*present, ("the service configuration", static))


def document_collision(
    document: Overrides,
    static: SpanMetricsConfig,
    defaults: Overrides,
    runtime: RuntimeOverrides,
    tenant: str,
    *,
    uses_entries_whole: bool = False,
) -> Fault | None:
    """Return what is wrong with a tenant's document, given what it inherits.

    Args:
        document: as a layer.
        static: what the service configuration says of span metrics.
        defaults: the defaults there.
        runtime: the entries of the runtime file.
        tenant: whose document it is.
        uses_entries_whole: only the strongest entry is below the document, not those that it hides (tenancy §2.1).
    """
    entries = (
        ("the tenant's entry in the runtime file", runtime.get(tenant)),
        ("the entry * of the runtime file", runtime.get(WILDCARD)),
        (_DEFAULTS, defaults),
    )
    present = tuple((where, _span_metrics(entry)) for where, entry in entries if entry is not None)
    below = present[:1] if uses_entries_whole else present
    return inherited_collision(document, (*below, *inherited_layers(static)), ())


def inherited_collision(
    entry: Overrides,
    below: Sequence[InheritedLayer],
    path: tuple[PathPart, ...],
    document: YamlDocument | None = None,
) -> Fault | None:
    """Return what is wrong with an entry, given what it inherits.

    Args:
        entry: the layer whose owner can mend it.
        below: the layers that answer for what the entry does not hold.
        path: where the entry stands in its document.
        document: gives the fault its line.
    """
    own = _span_metrics(entry)
    if (own.dimensions is None) == (own.dimension_mappings is None):
        # Both its own: compared before. Neither: the fault of a layer below, which is compared with those below it.
        return None
    key, other = "dimensions", "dimension_mappings"
    if own.dimensions is None:
        key, other = other, key
    source, inherited = next(
        ((where, value) for where, layer in below if (value := getattr(layer, other)) is not None), ("", ())
    )
    dimensions = inherited if own.dimensions is None else own.dimensions
    mappings = inherited if own.dimension_mappings is None else own.dimension_mappings
    if not (collision := find_collision(dimensions, mappings)):
        return None
    where = (*path, *_SPAN_METRICS, key)
    message = (
        f'the mapping "{collision.mapping}" becomes the label {collision.label}, and so does the '
        f'{collision.other_kind} "{collision.other}"; rename one of them, or set {other} here too: '
        f"they are inherited from {source}"
    )
    return Fault(dotted(where), message, document.line_of(where) if document else None)


def _span_metrics(entry: Overrides) -> SpanMetricsOverrides:
    return entry.metrics_generator.processor.span_metrics
