"""The reference model's limit on attributes: long keys and string values are cut on arrival (tenancy §4.5)."""

from collections import Counter as Tally
from collections.abc import Iterable
from typing import Any

from tests.reference_labels import cut


def cut_attributes(request: Any, limit: int) -> Tally[str]:
    """Cut what is longer than ``limit`` bytes at a character, in place; 0 is no limit.

    Returns:
        How many attributes were cut, by where they stand.
    """
    cuts: Tally[str] = Tally()
    for group in request.resource_spans:
        cuts["resource"] += _cut(group.resource.attributes, limit)
        for scope_spans in group.scope_spans:
            cuts["scope"] += _cut(scope_spans.scope.attributes, limit)
            for span in scope_spans.spans:
                cuts["span"] += _cut(span.attributes, limit)
                cuts["event"] += sum(_cut(event.attributes, limit) for event in span.events)
                cuts["link"] += sum(_cut(link.attributes, limit) for link in span.links)
    return +cuts  # "+" leaves out where nothing was cut


def _cut(attributes: Iterable[Any], limit: int) -> int:
    count = 0
    for attribute in attributes:
        before = attribute.ByteSize()
        attribute.key = cut(attribute.key, limit)
        if attribute.value.WhichOneof("value") == "string_value":
            attribute.value.string_value = cut(attribute.value.string_value, limit)
        count += attribute.ByteSize() < before
    return count
