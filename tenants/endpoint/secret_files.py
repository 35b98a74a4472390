"""Reads secrets from where settings point to, and tells when a file has changed. Blocks; keeps nothing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tenants.endpoint.errors import SecretUnavailableError
from tenants.settings.secret_source import SecretSource

_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What changes when a file is written or replaced.

    Attributes:
        modified_ns: time of the last write.
        size: bytes.
        number: of the file itself, which is another one after a rename.
    """

    modified_ns: int
    size: int
    number: int

    @classmethod
    def of(cls, path: str) -> Self:
        """Look at a file now.

        Raises:
            SecretUnavailableError: it is not there, or may not be read.
        """
        try:
            status = os.stat(path)  # noqa: PTH116  (follows links, as whoever reads it does)
        except OSError as error:
            raise SecretUnavailableError(f"file {path}", error.strerror or "cannot be read") from None
        return cls(status.st_mtime_ns, status.st_size, status.st_ino)


def read_secret(source: SecretSource, environ: Mapping[str, str]) -> str:
    """Read a secret, without space and line breaks at its ends.

    Raises:
        SecretUnavailableError: it is not there, empty, or no text of one line. The text never repeats what was read.
    """
    text = _content(source, environ).strip()
    if not text:
        raise SecretUnavailableError(str(source), "is empty")
    if not text.isprintable():
        raise SecretUnavailableError(str(source), "holds more than one line, or characters that are not printable")
    return text


def _content(source: SecretSource, environ: Mapping[str, str]) -> str:
    if source.env is not None:
        if source.env not in environ:
            raise SecretUnavailableError(str(source), "is not set where the collectors run")
        return environ[source.env]
    try:
        with Path(source.file or "").open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise SecretUnavailableError(str(source), f"is longer than {_MAX_BYTES} bytes")
        return content.decode()
    except OSError as error:
        raise SecretUnavailableError(str(source), error.strerror or "cannot be read") from None
    except UnicodeDecodeError:
        raise SecretUnavailableError(str(source), "is not UTF-8") from None
