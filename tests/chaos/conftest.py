"""Clients that ask the environment for a proxy must not look for 127.0.0.1 there."""

from tests.integration.conftest import _no_proxy

__all__ = ["_no_proxy"]
