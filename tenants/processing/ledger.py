"""A tenant's ledger: what was received is what was generated, waits, or was discarded for a reason (design P5).

The engine counts; here its rows become what users read.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

OUTCOMES_OF_OFFERED: Final = frozenset(
    {
        "generated",
        "repeated",
        "edge_buffer_full",
        "other_side_filtered",
        "unpaired",
        "invalid_utf8",
        "turned_off",
    }
)
"""What becomes of a span that was offered to service graphs, when it waits no longer."""

Rows = Iterable[tuple[str, str, str, int]]
"""Service, stage, outcome, spans: see ``Registry.ledger`` of the engine."""


@dataclass(frozen=True, slots=True)
class ProcessorLedger:
    """What became of the spans that reached a processor.

    Attributes:
        received: spans that no stage before had discarded.
        generated: spans that are in its metrics.
        over_limit: of the generated ones, those that a limit put into overflow.
        waiting: spans whose other side may still come.
        discarded: spans by reason.
    """

    received: int
    generated: int
    over_limit: int
    waiting: int
    discarded: Mapping[str, int]

    @property
    def closes(self) -> bool:
        """Whether every span is accounted for, once."""
        return self.received == self.generated + self.waiting + sum(self.discarded.values())


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of spans: all of a tenant's, or of one service.

    Attributes:
        received: spans in requests, also in those that came again.
        discarded: spans that reached no processor, by reason.
        processors: what became of the others, by processor.
    """

    received: int
    discarded: Mapping[str, int]
    processors: Mapping[str, ProcessorLedger] = field(default_factory=dict)

    @classmethod
    def of(cls, spans: Mapping[tuple[str, str], int]) -> "Ledger":
        """Read spans by stage and outcome."""
        by_stage: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (stage, outcome), count in spans.items():
            by_stage[stage][outcome] = count
        gateway = by_stage["gateway"]
        received = gateway.pop("received", 0)
        left = received - sum(gateway.values())
        metrics, graph = by_stage["span_metrics"], by_stage["service_graphs"]
        offered = graph.pop("offered", 0)
        waiting = offered - sum(graph.get(outcome, 0) for outcome in OUTCOMES_OF_OFFERED)
        processors = {
            "span_metrics": ProcessorLedger(
                left, metrics.pop("generated", 0), metrics.pop("over_limit", 0), 0, metrics
            ),
            "service_graphs": ProcessorLedger(left, graph.pop("generated", 0), 0, waiting, graph),
        }
        return cls(received, gateway, processors)

    @property
    def waiting(self) -> int:
        """Spans whose other side may still come."""
        return sum(processor.waiting for processor in self.processors.values())

    @property
    def closes(self) -> bool:
        """Whether every span is accounted for, once at each processor."""
        return all(processor.closes for processor in self.processors.values())

    def as_json(self) -> dict[str, Any]:
        """Return it as the API tells it."""
        return {
            "received": self.received,
            "discarded": dict(sorted(self.discarded.items())),
            "processors": {
                name: {
                    "received": processor.received,
                    "generated": processor.generated,
                    "over_limit": processor.over_limit,
                    "waiting": processor.waiting,
                    "discarded": dict(sorted(processor.discarded.items())),
                }
                for name, processor in self.processors.items()
            },
        }


def ledgers_by_service(rows: Rows) -> tuple[Ledger, dict[str, Ledger]]:
    """Return the ledger of all services together, and that of each."""
    total: Counter[tuple[str, str]] = Counter()
    by_service: defaultdict[str, dict[tuple[str, str], int]] = defaultdict(dict)
    for service, stage, outcome, spans in rows:
        total[stage, outcome] += spans
        by_service[service][stage, outcome] = spans
    return Ledger.of(total), {service: Ledger.of(spans) for service, spans in sorted(by_service.items())}
