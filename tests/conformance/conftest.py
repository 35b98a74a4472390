"""Registers the mark that carries a case's number."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark beside the tests that have it."""
    config.addinivalue_line("markers", "conformance(number, differs): the case of the contract (processors §6)")
    config.addinivalue_line("markers", "sender(version, number, names): cases of suites for senders (remote-write §5)")
