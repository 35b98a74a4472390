"""Whether every expectation of the suites for senders is met by some test, or cannot be asked."""

import importlib
import inspect
import pkgutil
from collections import Counter

from tests.conformance import sender
from tests.conformance.sender.expectations import MARK, NOT_APPLICABLE, SUITES


def cases() -> Counter[tuple[int, int, str]]:
    """Return how many tests have each case."""
    found: Counter[tuple[int, int, str]] = Counter()
    for module in pkgutil.iter_modules(sender.__path__, f"{sender.__name__}."):
        for name, test in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            if name.startswith("test_") and test.__module__ == module.name:
                marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == MARK]
                found.update((mark.args[0], mark.args[1], case) for mark in marks for case in mark.args[2])
    return found


def test_every_expectation_has_one_test_or_a_reason() -> None:
    expected = {
        (version, number, name)
        for version, suite in SUITES.items()
        for number, names in suite.items()
        for name in names
    }
    found = cases()
    assert set(found) | set(NOT_APPLICABLE) == expected
    assert not set(found) & set(NOT_APPLICABLE)
    assert [case for case, count in found.items() if count > 1] == []


def test_numbers_are_those_of_the_suites() -> None:
    assert {version: list(suite) for version, suite in SUITES.items()} == {1: [*range(1, 20)], 2: [*range(1, 26)]}
