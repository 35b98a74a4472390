"""How a remote write proves who sends it: basic or other authorization, and TLS. Keys as Prometheus has them."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from tenants.settings.headers import SecretHeaderValue
from tenants.settings.model import SettingsModel
from tenants.settings.names import check_size
from tenants.settings.secret_source import FilePath, SecretSource, VariableName

_MAX_SECRET = 8192
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")  # an authentication scheme, RFC 9110 §11.1
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SERVER_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")


def _check_user(user: str) -> str:
    if ":" in user or _CONTROL.search(check_size(user, 1024)):
        raise ValueError("should hold neither a colon nor control characters")
    return user


def _check_password(password: SecretStr) -> SecretStr:
    text = password.get_secret_value()
    if len(text) > _MAX_SECRET or _CONTROL.search(text):
        raise ValueError(f"should be at most {_MAX_SECRET} characters without control characters")
    return password


def _check_scheme(scheme: str) -> str:
    if scheme.lower() == "basic":
        raise ValueError('should not be "basic"; use basic_auth instead')
    if not _TOKEN.fullmatch(scheme):
        raise ValueError("should be an authentication scheme, such as Bearer")
    return scheme


def _check_server_name(name: str) -> str:
    if not _SERVER_NAME.fullmatch(name):
        raise ValueError("should be a host name or an IPv4 address")
    return name


def _source(file: str | None, variable: str | None) -> SecretSource | None:
    return None if file is None and variable is None else SecretSource(file=file, env=variable)


class BasicAuth(SettingsModel):
    """User and password, sent as ``Authorization: Basic``."""

    username: Annotated[str, AfterValidator(_check_user)] = Field(default="", description="User.")
    password: Annotated[SecretStr, AfterValidator(_check_password)] | None = Field(
        default=None, description="Password, secret. Without any of the three it is empty."
    )
    password_file: FilePath | None = Field(default=None, description="File with the password (path).")
    password_env: VariableName | None = Field(
        default=None, description="Environment variable of the sending process with the password (name)."
    )

    @property
    def source(self) -> SecretSource | None:
        """Where the password is, if it is not here."""
        return _source(self.password_file, self.password_env)

    @model_validator(mode="after")
    def _has_one_password(self) -> Self:
        if [self.password, self.password_file, self.password_env].count(None) < 2:
            raise ValueError("at most one of password, password_file and password_env may be set")
        return self


class Authorization(SettingsModel):
    """The header ``Authorization``: a scheme and credentials."""

    type: Annotated[str, AfterValidator(_check_scheme)] = Field(
        default="Bearer", description="Authentication scheme, such as Bearer."
    )
    credentials: SecretHeaderValue | None = Field(default=None, description="Credentials, secret.")
    credentials_file: FilePath | None = Field(default=None, description="File with the credentials (path).")
    credentials_env: VariableName | None = Field(
        default=None, description="Environment variable of the sending process with the credentials (name)."
    )

    @property
    def source(self) -> SecretSource | None:
        """Where the credentials are, if they are not here."""
        return _source(self.credentials_file, self.credentials_env)

    @model_validator(mode="after")
    def _has_credentials(self) -> Self:
        if [self.credentials, self.credentials_file, self.credentials_env].count(None) != 2:
            raise ValueError("should have one of credentials, credentials_file and credentials_env")
        return self


class TlsConfig(SettingsModel):
    """TLS to an endpoint, and our own certificate for it (mTLS). Files are read by the process that sends."""

    ca_file: FilePath | None = Field(
        default=None, description="Certificates of the authorities that are trusted (path, PEM); empty: the system's."
    )
    cert_file: FilePath | None = Field(default=None, description="Our certificate (path, PEM), with key_file.")
    key_file: FilePath | None = Field(default=None, description="Its private key, not encrypted (path, PEM).")
    server_name: Annotated[str, AfterValidator(_check_server_name)] | None = Field(
        default=None, description="Name in the endpoint's certificate; empty: the host of the URL."
    )
    insecure_skip_verify: bool = Field(default=False, description="Take any certificate. Anybody can then read along.")

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file should be set together")
        return self
