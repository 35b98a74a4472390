"""What all tests share: how hard Hypothesis tries, and the two implementations of the processors.

``HYPOTHESIS_PROFILE=thorough pytest ...`` tries ten times as many examples as ``quick``, the default.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, settings

from tests.reference import ReferenceModel

if TYPE_CHECKING:
    from tests.engine_driver import EngineDriver

settings.register_profile("quick", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

_LONGEST_FIRST: Final = ("chaos", "integration", "console", "protocol")
"""Folders whose files take minutes. With workers side by side, one that came last would be waited for alone."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the folders that take longest; within each the order stays random."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return _LONGEST_FIRST.index(folder) if folder in _LONGEST_FIRST else len(_LONGEST_FIRST)

    if config.getoption("numprocesses", None):
        items.sort(key=rank)


@pytest.fixture(params=["reference", "engine"])
def implementation(request: pytest.FixtureRequest) -> "type[ReferenceModel | EngineDriver]":
    """Return a class that counts the spans of one tenant: the model, or the engine behind its driver."""
    if request.param == "reference":
        return ReferenceModel
    from tests.engine_driver import EngineDriver  # noqa: PLC0415  # tests without the engine need no build

    return EngineDriver
