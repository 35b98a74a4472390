"""The form of a row: its number in the contract, what it expects, and why that may differ from the contract's text.

:func:`row` makes a row of any table, :func:`conformance` numbers a test that is no table. Both put a mark on the test
that ``test_completeness`` reads, and the number into the test's id or name. Most rows are a :class:`Case`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.conformance.fixtures import NOW_NS
from tests.remote_write import SeriesKey

MARK = "conformance"
NUMBER = re.compile(r"(?P<case>[1-9]\d*)(?P<part>[a-z]?)")
_SOURCE = re.compile(r"Q\d+|(design|processors) §\d+(\.\d+)*|appendix [A-C]")


@dataclass(frozen=True, slots=True)
class Difference:
    """Why the engine is meant to give something else than the contract's text.

    Attributes:
        source: the decision: a question of processors §7 such as ``Q9``, or a section such as ``design §3``.
        reason: what the contract says, and why the engine does otherwise.
    """

    source: str
    reason: str

    def __post_init__(self) -> None:
        if not _SOURCE.fullmatch(self.source):
            raise ValueError(f"not a question or a section: {self.source!r}")
        if len(self.reason) < 20:
            raise ValueError(f"no reason: {self.reason!r}")


def conformance(number: str, differs: Difference | None = None) -> pytest.MarkDecorator:
    """Number a test by itself; its name starts with ``test_<number>_``."""
    if not NUMBER.fullmatch(number):
        raise ValueError(f"not a case number: {number!r}")
    return getattr(pytest.mark, MARK)(number, differs=differs)  # type: ignore[no-any-return]


def row(number: str, title: str, *values: Any, differs: Difference | None = None) -> Any:
    """Return the parameters of one row, for ``pytest.mark.parametrize``.

    Args:
        number: the case, with a letter when it has parts: ``61a``.
        title: what is particular about the row; the id is number and title.
        values: the parameters.
        differs: required if ``values`` expect something else than the contract's text.
    """
    return pytest.param(*values, id=f"{number} {title}", marks=conformance(number, differs))


Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Classic:
    """The value of one classic histogram: every bucket by its ``le``, and the sum; the count is that of ``+Inf``."""

    buckets: Mapping[str, float]
    sum: float


Expected = Mapping[str, Iterable[tuple[Labels, float | Classic]]]
"""All series of a metric, by their complete labels; ``<name>`` of a histogram stands for all its series."""


def series_of(expected: Expected) -> dict[SeriesKey, float]:
    """Return every single series that is expected."""
    pairs = [pair for metric, entities in expected.items() for pair in _pairs(metric, entities)]
    series = dict(pairs)
    if len(series) != len(pairs):
        raise ValueError("a series is expected twice")
    return series


def _pairs(metric: str, entities: Iterable[tuple[Labels, float | Classic]]) -> Iterator[tuple[SeriesKey, float]]:
    for labels, value in entities:
        if isinstance(value, Classic):
            for le, below in value.buckets.items():
                yield key_of(f"{metric}_bucket", labels, le=le), below
            yield key_of(f"{metric}_count", labels), value.buckets["+Inf"]
            yield key_of(f"{metric}_sum", labels), value.sum
        else:
            yield key_of(metric, labels), value


def key_of(metric: str, labels: Labels, **more: str) -> SeriesKey:
    """Return the complete labels of a series, the metric's name among them."""
    return frozenset({**labels, **more, "__name__": metric}.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is pushed to a tenant in one moment, and what one collection then reports.

    Attributes:
        plan: the tenant's settings.
        pushes: the requests, in the order in which they arrive.
        expected: all series of the metrics that it names.
        nothing_else: whether there is no series of any other metric.
        now_ns: when the requests arrive.
        sweep: whether half edges then wait until their time is over.
        discarded: everything that is set aside, by stage and reason.
        expired: all edges that expired and produced nothing, by the kind of the last span.
        counters: some of the other counters.
    """

    plan: dict[str, Any]
    pushes: Sequence[Any]
    expected: Expected
    nothing_else: bool = False
    now_ns: int = NOW_NS
    sweep: bool = False
    discarded: Mapping[tuple[str, str], int] = field(default_factory=dict)
    expired: Mapping[str, int] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
