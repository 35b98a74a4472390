"""Where the journal is."""

from typing import Final

from tenants.settings.service_config import ServiceConfig

_FILE: Final = "journal.db"


def journal_url(config: ServiceConfig) -> str:
    """Return the database of the journal: its own, or else the store's if one is set, or a file in ``data_dir``."""
    own, store = config.journal.url.get_secret_value(), config.store.url.get_secret_value()
    return own or store or f"sqlite:///{config.data_dir / _FILE}"
