"""One request with spans to the receiver of traces. Never retries or waits; blocks.

Our own and not the SDK's exporter: that follows redirects with our secret headers, reads proxies and ``.netrc``, and a
dozen variables of the environment that would win over the settings.
"""

import gzip
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan

from tenants.endpoint.errors import SecretUnavailableError
from tenants.endpoint.secret_files import read_secret
from tenants.endpoint.tls_context import context_of
from tenants.identity.tenant_id import HEADER as ORG_ID_HEADER
from tenants.settings.remote_write_auth import TlsConfig
from tenants.settings.tracing import TracingConfig

_TIMEOUT_S = 5.0
_MAX_MESSAGE_BYTES = 1024
_MAX_MESSAGE_CHARACTERS = 256
_WORTH_A_RETRY = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Posted:
    """What became of a request.

    Attributes:
        problem: why it was not taken, without secrets; empty: it was.
        is_final: whether it would be refused again.
    """

    problem: str = ""
    is_final: bool = False


class SpanPost:
    """The way to the receiver. One thread uses it."""

    def __init__(self, config: TracingConfig, version: str, environ: Mapping[str, str] = os.environ) -> None:
        self._config = config
        self._version = version
        self._environ = environ
        self._client: httpx.Client | None = None

    def send(self, spans: Sequence[ReadableSpan]) -> Posted:
        """Send spans once."""
        try:
            headers = self._headers()
            client = self._client = self._client or _new_client(self._config.tls_config)
        except SecretUnavailableError as error:
            return Posted(str(error))
        body = gzip.compress(encode_spans(spans).SerializeToString(), compresslevel=1)
        try:
            with client.stream(
                "POST", self._config.url, content=body, headers=headers, extensions=self._extensions()
            ) as response:
                if response.is_success:
                    return Posted()
                message = next(response.iter_bytes(_MAX_MESSAGE_BYTES), b"").decode("utf-8", "replace")
                problem = f"http_{response.status_code} {message}"
                return Posted(self._readable(problem, headers), response.status_code not in _WORTH_A_RETRY)
        except (httpx.HTTPError, OSError) as error:
            # The next one reads certificates again, which may be what has to change.
            self.close()
            return Posted(self._readable(f"{type(error).__name__}: {error}", headers))

    def close(self) -> None:
        """Let go of the connection. Can be repeated."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _headers(self) -> dict[str, str]:
        config = self._config
        headers = {name.lower(): value.get_secret_value() for name, value in config.headers.items()}
        headers |= {name.lower(): read_secret(source, self._environ) for name, source in config.headers_from.items()}
        if config.tenant:
            headers[ORG_ID_HEADER.lower()] = config.tenant
        return headers | {
            "content-type": "application/x-protobuf",
            "content-encoding": "gzip",
            "user-agent": f"millrace/{self._version}",
        }

    def _extensions(self) -> dict[str, str]:
        tls = self._config.tls_config
        return {} if tls is None or tls.server_name is None else {"sni_hostname": tls.server_name}

    def _readable(self, text: str, headers: Mapping[str, str]) -> str:
        configured = {name.lower() for name in (*self._config.headers, *self._config.headers_from)}
        for secret in filter(None, (headers[name] for name in configured)):
            text = text.replace(secret, "***")
        printable = "".join(character if character.isprintable() else " " for character in text)
        return " ".join(printable.split())[:_MAX_MESSAGE_CHARACTERS]


def _new_client(tls: TlsConfig | None) -> httpx.Client:
    context: ssl.SSLContext = context_of(tls or TlsConfig())
    return httpx.Client(verify=context, trust_env=False, follow_redirects=False, timeout=_TIMEOUT_S)
