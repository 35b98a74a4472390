"""Every case of tenancy §8 is shown by a test."""

import importlib
import pkgutil

from tests.integration import tenancy
from tests.integration.tenancy.case import LAST, SHOWN


def test_every_case_is_shown() -> None:
    for module in pkgutil.iter_modules(tenancy.__path__):
        importlib.import_module(f"{tenancy.__name__}.{module.name}")
    assert set(SHOWN) == set(range(1, LAST + 1))
