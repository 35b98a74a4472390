"""Whether every case of the contract is here, once, and is run."""

import importlib
import inspect
import pkgutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from string import ascii_lowercase
from typing import Any

from tests import conformance
from tests.conformance.case import MARK, NUMBER

CASES = range(1, 136)
"""The cases of processors §6."""


@dataclass(frozen=True, slots=True)
class Row:
    """A numbered row or test: its id or name, and the names of all its marks."""

    number: str
    label: str
    marks: frozenset[str]


def rows() -> Iterator[Row]:
    """Find every row of every table, and every test that is no table, by its mark."""
    for module in pkgutil.iter_modules(conformance.__path__, f"{conformance.__name__}."):
        if module.name.rpartition(".")[2].startswith("test_"):
            for name, test in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
                if name.startswith("test_") and test.__module__ == module.name:
                    yield from rows_of(name, test)


def rows_of(name: str, test: Any) -> Iterator[Row]:
    """Find the rows of one test: itself, or the rows of its tables."""
    marks = getattr(test, "pytestmark", [])
    shared = frozenset(mark.name for mark in marks)
    yield from (Row(mark.args[0], name.removeprefix("test_"), shared) for mark in marks if mark.name == MARK)
    for table in (mark.args[1] for mark in marks if mark.name == "parametrize"):
        for parameters in table:
            own = list(getattr(parameters, "marks", ()))
            for mark in own:
                if mark.name == MARK:
                    yield Row(mark.args[0], parameters.id, shared | {other.name for other in own})


def test_every_case_is_here_and_its_parts_are_lettered_in_order() -> None:
    parts: dict[int, list[str]] = defaultdict(list)
    for row in rows():
        number = NUMBER.fullmatch(row.number)
        assert number is not None
        parts[int(number["case"])].append(number["part"])
    assert sorted(parts) == list(CASES)
    for case, letters in parts.items():
        once = [""] if len(letters) == 1 else list(ascii_lowercase[: len(letters)])
        assert sorted(letters) == once, f"case {case}"


def test_ids_begin_with_the_number() -> None:
    for row in rows():
        assert "".join(takewhile(str.isalnum, row.label)) == row.number


def test_no_case_is_skipped_or_expected_to_fail() -> None:
    assert [row.label for row in rows() if row.marks & {"skip", "skipif", "xfail"}] == []
