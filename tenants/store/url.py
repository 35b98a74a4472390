"""Where the store of a service is, by its configuration."""

from typing import Final

from tenants.settings.service_config import ServiceConfig

_FILE: Final = "millrace.db"


def store_url(config: ServiceConfig) -> str:
    """Return the configured database, or the file in the data directory. A secret: it may hold a password."""
    return config.store.url.get_secret_value() or f"sqlite:///{config.data_dir / _FILE}"


def has_store(config: ServiceConfig) -> bool:
    """Whether there is one already, as far as that can be told without asking: a file appears with the first start."""
    return bool(config.store.url.get_secret_value()) or (config.data_dir / _FILE).exists()
