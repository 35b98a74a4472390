"""Every numbered query of remote-write §4 is asked by a test."""

import importlib
import pkgutil

from tests.integration import dashboards
from tests.integration.dashboards.query import LAST, SHOWN


def test_every_numbered_query_is_asked() -> None:
    for module in pkgutil.iter_modules(dashboards.__path__):
        importlib.import_module(f"{dashboards.__name__}.{module.name}")
    assert set(SHOWN) == set(range(1, LAST + 1))
