"""Secrets given to the service in tests, marked so that they can be searched for wherever they must not be."""

from typing import Final

MARK: Final = "planted-secret"
STATIC_SECRET: Final = f"{MARK}-of-the-endpoint"
DEFAULTS_SECRET: Final = f"{MARK}-of-the-defaults"
TENANT_SECRET: Final = f"{MARK}-of-a-tenant"
