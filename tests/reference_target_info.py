"""The reference model's ``traces_target_info``: what a resource says of itself (processors §1.5, §1.6)."""

from typing import Any

from tests.reference_labels import INTRINSIC_LABELS, LabelLimits, find, sanitize_protected, value_text

RESERVED = INTRINSIC_LABELS | {"job", "instance"}
IDENTIFYING = frozenset({"service.name", "service.namespace", "service.instance.id"})
MERGING_LABELS = frozenset({b"__name__", b"le"})


def target_labels(resource: Any, settings: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Return the labels ``job`` and ``instance`` of a resource, those that it has (processors §1.3, §1.5)."""
    if not settings["enable_target_info"]:
        return []
    service = find("service.name", resource.attributes)
    namespace = find("service.namespace", resource.attributes)
    instance = find("service.instance.id", resource.attributes)
    labels = []
    if service:
        labels.append(("job", namespace + b"/" + service if namespace else service))
    if instance and settings["enable_instance_label"]:
        labels.append(("instance", instance))
    return labels


def target_info(resource: Any, settings: dict[str, Any], limits: LabelLimits) -> list[tuple[str, bytes]] | None:
    """Return the labels of a resource's ``traces_target_info``; None if there is nothing to say (processors §1.6)."""
    identity = target_labels(resource, settings)
    if not identity:
        return None
    labels = []
    for attribute in resource.attributes:
        key = attribute.key.decode("utf-8", "surrogateescape")
        is_left_out = key in IDENTIFYING or key in settings["target_info_excluded_dimensions"]
        if key and key[0] not in "0123456789" and not is_left_out:
            label = sanitize_protected(key, RESERVED)
            if not limits.compact([(label, b"any")]).keys() & MERGING_LABELS:  # Q38
                labels.append((label, value_text(attribute.value)))
    labels += identity
    return labels if len(limits.compact(labels)) > len(identity) else None
