"""Where the journal is."""

from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url

from tenants.settings.service_config import ServiceConfig

_FILE: Final = "journal.db"


def journal_url(config: ServiceConfig) -> str:
    """Return the database of the journal: its own, or else the store's if one is set, or a file in ``data_dir``."""
    own, store = config.journal.url.get_secret_value(), config.store.url.get_secret_value()
    return own or store or f"sqlite:///{config.data_dir / _FILE}"


def journal_file(config: ServiceConfig) -> Path | None:
    """Return the file of the journal, None if it is in a database server."""
    url = make_url(journal_url(config))
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
