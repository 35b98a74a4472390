"""Certificates of the service's own ports: paths only. The files are read, and checked, where they are used."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from tenants.settings.model import SettingsModel


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("should be a path, in quotes if it looks like a number")
    return Path(value)


# Absolute, because the configuration travels to processes with other working directories.
_File = Annotated[Path, BeforeValidator(_path), AfterValidator(Path.absolute)]


class ServerTlsConfig(SettingsModel):
    """TLS of one port. Files that are renewed are taken up by new connections, without a restart."""

    cert_file: _File = Field(description="Certificate, followed by those that lead to its authority (path, PEM).")
    key_file: _File = Field(description="Its private key, without a password (path, PEM).")
    client_ca_file: _File | None = Field(
        default=None,
        description="Authorities of clients (path, PEM); given: every client needs a certificate of theirs.",
    )
    min_version: Literal["1.2", "1.3"] = Field(
        default="1.2", description="Oldest TLS that is spoken, as text; over gRPC 1.2 only, which takes 1.3 too."
    )
