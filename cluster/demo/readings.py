"""What the demo asks of a metrics receiver.

One receiver takes the series of all demo tenants; Millrace tells them apart by the label
:data:`TENANT_LABEL`. The reads are a few aggregates for the view and nothing else: whoever wants more asks
Prometheus itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

TENANT_LABEL = "tenant"
EXEMPLAR_LABEL = "traceID"

Rates = Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One observation that says which trace it came from."""

    labels: Mapping[str, str]
    """Labels of its series."""
    trace_id: str
    value: float
    timestamp_ms: int


class Receiver(Protocol):
    """Takes remote writes at ``write_url`` and answers for what it took.

    Every read raises :class:`~cluster.demo.errors.ReceiverError` if there is no answer to be had.
    """

    name: str
    write_url: str

    def rates(self, tenant: str, metric: str, by: tuple[str, ...], window_s: float) -> Rates:
        """Return increase per second over the last ``window_s``, summed by the values of the labels ``by``.

        A label that a series does not have counts as empty. Empty before the second sample of a series.
        """

    def total(self, tenant: str, metric: str) -> float:
        """Return the newest values of all series of ``metric``, added up."""

    def exemplars(self, tenant: str, metric: str, window_s: float) -> list[Exemplar]:
        """Return the exemplars of the last ``window_s``, in no order."""

    def look_here(self) -> list[tuple[str, str]]:
        """Return what the user can open to see more: pairs of what and where."""

    def check(self) -> None:
        """Return if it is still running; raises :class:`~cluster.demo.errors.ChildFailedError` otherwise."""

    def close(self) -> None:
        """Stop it and free what it holds."""
