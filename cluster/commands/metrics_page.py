"""Reads what a command needs from ``/metrics``, and no more: the page has megabytes for ten thousand tenants."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families


class Sample(NamedTuple):
    """One value of one metric.

    Attributes:
        name: of the metric.
        labels: its labels.
        value: its value.
    """

    name: str
    labels: Mapping[str, str]
    value: float


def samples(page: str, *names: str) -> Iterator[Sample]:
    """Return the samples of these metrics, in the order of the page."""
    starts = tuple(f"{name}{{" for name in names)
    # A label's value may hold no line break, so that each sample is a line.
    wanted = "".join(f"{line}\n" for line in page.split("\n") if line.startswith(starts))
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            yield Sample(sample.name, sample.labels, sample.value)
