"""The reference model's host-info processor: which hosts send traces (processors §3)."""

from collections.abc import Iterator
from typing import Any

from tests.reference_labels import LabelLimits
from tests.reference_metrics import Gauge
from tests.reference_registry import Group, Registry
from tests.reference_spans import Batch


class HostInfo:
    """The host-info processor: one label set per resource, whether spans of it are left or not."""

    def __init__(self, plan: dict[str, Any], registry: Registry) -> None:
        self._identifiers: list[str] = plan["host_info"]["host_identifiers"]
        self._limits = LabelLimits.of(plan)
        self._gauge = Gauge(plan["host_info"]["metric_name"], registry.limiter)
        self.group = Group(self._gauge, is_info=True)
        self.invalid_utf8 = 0

    def push(self, batches: list[Batch]) -> None:
        """See the hosts of a push."""
        for batch in batches:
            source, host = next(self._hosts(batch.resource), ("", b""))
            if not host:
                continue
            entity = self._limits.label_set([("grafana_host_id", host), ("host_source", source.encode())])
            if entity is None:
                self.invalid_utf8 += 1
            else:
                self.group.add(entity, self._gauge, 1)

    def _hosts(self, resource: Any) -> Iterator[tuple[str, bytes]]:
        """Yield every text that identifies the host, the best first; other values and empty texts do not."""
        for identifier in self._identifiers:
            for attribute in resource.attributes:
                if attribute.key == identifier.encode() and attribute.value.string_value:
                    yield identifier, attribute.value.string_value
