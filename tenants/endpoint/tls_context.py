"""TLS contexts of clients: how an endpoint is verified, and the certificate that we show it. Blocks on files."""

import ssl

import httpx

from tenants.endpoint.errors import SecretUnavailableError
from tenants.settings.remote_write_auth import TlsConfig


def context_of(tls: TlsConfig) -> ssl.SSLContext:
    """Make a context for an endpoint's settings. ``server_name`` is not in it: it belongs to a request.

    Without ``ca_file`` the CA bundle of ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` is trusted, where set, else that of the
    package certifi.

    Raises:
        SecretUnavailableError: a file is missing, or is not what it should be.
    """
    if tls.ca_file is None:
        context = httpx.create_ssl_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(tls.ca_file)
        except OSError as error:
            raise SecretUnavailableError(f"file {tls.ca_file}", _problem(error, "holds no certificate")) from None
    if tls.cert_file is not None:
        try:
            # Without a password for the key, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        except (OSError, ValueError) as error:
            files = f"files {tls.cert_file} and {tls.key_file}"
            raise SecretUnavailableError(files, _problem(error, "are no certificate and its unencrypted key")) from None
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _problem(error: Exception, otherwise: str) -> str:
    # An ssl.SSLError is an OSError too; its texts help nobody.
    is_missing = isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
    return (error.strerror if is_missing and isinstance(error, OSError) else None) or otherwise
