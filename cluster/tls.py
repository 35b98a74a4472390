"""Certificates of the service's own ports, for every protocol: read and checked at start, and again once renewed.

Certificates and keys come from files alone. A renewed file that is no good is reported, and the last good one stays.
"""

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc
import structlog

from cluster.errors import StartError
from tenants.settings.tls import ServerTlsConfig

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 10.0
"""For a client to finish its handshake, on every port."""

_LOOK_INTERVAL_S: Final = 1.0
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True)
class _Files:
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    client_ca: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Loaded:
    files: _Files
    context: ssl.SSLContext


class Certificates:
    """The certificate of one port, as it is on disk. Files are looked at for new connections, once a second at most.

    Blocks on the files, which are small. May be asked from any thread.

    Args:
        config: where they are.
        setting: the setting that says so, for messages.
        monotonic: seconds, from any origin.

    Raises:
        StartError: a file cannot be read, or they do not fit together; says which, and what to do.
    """

    def __init__(self, config: ServerTlsConfig, setting: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._setting = setting
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._loaded = self._load()
        self._looked_at = monotonic()
        self._problem = ""

    @property
    def context(self) -> ssl.SSLContext:
        """The context of a new HTTP connection."""
        return self.current().context

    def renewing_context(self) -> ssl.SSLContext:
        """Return a context for servers that take one for good: it gives every new connection that of its time."""
        return _RenewingContext(self)

    def grpc_credentials(self) -> Any:
        """Return the credentials of a gRPC server, which gives every new connection the certificate of that time.

        gRPC speaks TLS 1.2 and 1.3 and cannot be told otherwise.
        """
        given = self._loaded

        def renewed() -> Any:
            nonlocal given
            if (current := self.current()) is given:
                return None
            given = current
            return _grpc_configuration(current.files)

        # Called from threads of gRPC's own.
        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(given.files), renewed, self._config.client_ca_file is not None
        )

    def current(self) -> _Loaded:
        """Return what new connections get."""
        with self._lock:
            now = self._monotonic()
            if now - self._looked_at >= _LOOK_INTERVAL_S:
                self._looked_at = now
                self._look()
            return self._loaded

    def _look(self) -> None:
        try:
            if self._read() == self._loaded.files:
                self._problem = ""
                return
            self._loaded = self._load()
        except StartError as error:
            if self._problem != str(error):
                log.error("renewed certificate refused, the last good one stays", problem=str(error))  # noqa: TRY400
            self._problem = str(error)
        else:
            self._problem = ""
            log.info("certificate renewed", setting=self._setting, cert_file=str(self._config.cert_file))

    def _load(self) -> _Loaded:
        files = self._read()
        config = self._config
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[config.min_version]
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(config.cert_file, config.key_file, password=self._refuse_password)
        except (ssl.SSLError, OSError) as error:
            raise self._unfit(error) from None
        if config.client_ca_file is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(config.client_ca_file)
            except (ssl.SSLError, OSError) as error:
                raise self._error("client_ca_file", config.client_ca_file, f"is damaged ({_reason(error)})") from None
        if self._read() != files:
            # The context was made from the files, gRPC is given their bytes: both have to be the same.
            raise self._error("cert_file", config.cert_file, "changed while it was read; start again")
        return _Loaded(files, context)

    def _read(self) -> _Files:
        ca = self._config.client_ca_file
        return _Files(
            self._read_pem("cert_file", self._config.cert_file, b"CERTIFICATE", "a certificate"),
            self._read_pem("key_file", self._config.key_file, b"PRIVATE KEY", "a private key"),
            None if ca is None else self._read_pem("client_ca_file", ca, b"CERTIFICATE", "a certificate"),
        )

    def _read_pem(self, key: str, path: Path, marker: bytes, what: str) -> bytes:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise self._error(key, path, f"cannot be read: {error.strerror}") from None
        if marker + b"-----" not in content:
            raise self._error(key, path, f"holds no {what.partition(' ')[2]} in PEM; put {what} there")
        return content

    def _refuse_password(self) -> NoReturn:
        # Without this OpenSSL would ask on the terminal, and wait.
        raise self._error("key_file", self._config.key_file, "has a password; store the key without one")

    def _unfit(self, error: Exception) -> StartError:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            problem = f"is not the key of the certificate in {self._config.cert_file}; renew both together"
            return self._error("key_file", self._config.key_file, problem)
        problem = f"or its key in {self._config.key_file} is damaged ({_reason(error)}); renew both together"
        return self._error("cert_file", self._config.cert_file, problem)

    def _error(self, key: str, path: Path, problem: str) -> StartError:
        return StartError(f"{self._setting}.{key}: {path} {problem}")


def certificates(config: ServerTlsConfig | None, setting: str) -> Certificates | None:
    """Load the certificate of a port; None if it has none and speaks in the clear.

    Raises:
        StartError: as :class:`Certificates`.
    """
    return None if config is None else Certificates(config, setting)


class _RenewingContext(ssl.SSLContext):
    """Stands for whatever context is in force when a connection is made.

    Replacing the certificate inside a context that is in use would not be atomic, and could not take an authority away.
    """

    def __new__(cls, _: Certificates) -> "_RenewingContext":
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Begin a connection."""
        return self._certificates.context.wrap_bio(*arguments, **options)


def _grpc_configuration(files: _Files) -> Any:
    return grpc.ssl_server_certificate_configuration([(files.key, files.certificate)], files.client_ca)


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or "not PEM")
