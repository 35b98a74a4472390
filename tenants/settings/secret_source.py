"""Secrets that settings only point to: a file or a variable of the environment. Nothing is read here.

The process that sends reads them, so that they stand in no settings file and travel through no other process.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from tenants.settings.model import SettingsModel

_MAX_PATH = 4096


def _absolute(path: str) -> str:
    # Absolute, because the settings travel to processes with other working directories.
    if not path or "\0" in path or len(path) > _MAX_PATH:
        raise ValueError(f"should be a path of at most {_MAX_PATH} characters")
    return str(Path(path).absolute())


FilePath = Annotated[str, AfterValidator(_absolute)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,255}$")]


class SecretSource(SettingsModel):
    """Where a secret is: in a file or in a variable of the environment of the process that sends. Hashable."""

    file: FilePath | None = Field(
        default=None, description="File with the secret (path); read again when it changes. Space at its ends is cut."
    )
    env: VariableName | None = Field(default=None, description="Environment variable with the secret (name).")

    def __str__(self) -> str:
        return f"file {self.file}" if self.file is not None else f"environment variable {self.env}"

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("should have either file or env")
        return self
