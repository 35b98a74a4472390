"""The one way in which commands reach a running service: address, authorities, token.

Talks to the API alone, as any operator could.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import httpx

from cluster.errors import CommandError
from tenants.identity.tenant_id import TenantId
from tenants.settings.scalars import HostPort
from tenants.settings.service_config import load_service_config

TOKEN: Final = "MILLRACE_TOKEN"  # noqa: S105  (the name of a variable)
"""Environment variable with the token that every command sends."""

_ANSWER_TIMEOUT_S: Final = 20.0
_HOW_TO_GET_ONE: Final = f"put an operator's token into {TOKEN} (millrace tokens create --scope operator)"
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Who listens on every interface does so on this one too."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reach:
    """How a command was told to reach the service.

    Attributes:
        url: address of its port; None: that of the configuration.
        config: the service configuration, which says where it listens; None: the defaults.
        ca_file: authorities of its certificate; None: the system's.
    """

    url: str | None = None
    config: Path | None = None
    ca_file: Path | None = None

    def address(self, environ: Mapping[str, str]) -> str:
        """Return the address of the service's own port.

        Raises:
            SettingsError: the configuration has faults.
            CommandError: it takes any free port.
        """
        if self.url:
            return self.url
        listen = load_service_config(self.config, environ).listen
        return address_of(listen.http, "listen.http", is_encrypted=listen.http_tls is not None)

    def gateway_address(self, environ: Mapping[str, str]) -> str:
        """Return the address of OTLP/HTTP. Raises as :meth:`address`."""
        if self.url:
            return self.url
        listen = load_service_config(self.config, environ).listen
        return address_of(listen.otlp_http, "listen.otlp_http", is_encrypted=listen.otlp_http_tls is not None)

    def client(self, url: str, headers: Mapping[str, str], timeout_s: float = _ANSWER_TIMEOUT_S) -> httpx.Client:
        """Make a client for one address.

        Raises:
            CommandError: it is no address, or the authorities cannot be read.
        """
        try:
            host = httpx.URL(url).host
        except httpx.InvalidURL as error:
            raise CommandError(f"--url {url} is no address ({error}); write http://host:port") from None
        if not url.startswith(("http://", "https://")) or not host:
            raise CommandError(f"--url {url} is no address; write http://host:port or https://host:port")
        try:
            verify = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise CommandError(
                f"--ca-file {self.ca_file} cannot be used ({error.strerror or error}); it should be certificates in PEM"
            ) from None
        # No proxy is nearer to this machine than itself.
        return httpx.Client(
            base_url=url, headers=headers, timeout=timeout_s, verify=verify, trust_env=not _is_loopback(host)
        )


class Service:
    """A running service, as its operator reaches it. A context manager.

    Raises:
        CommandError: it cannot be reached, wants another token, or refuses; from every method.
    """

    def __init__(self, url: str, client: httpx.Client, *, has_token: bool) -> None:
        self.url = url
        self._client = client
        self._has_token = has_token

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None, tenant: TenantId | None = None) -> Json:
        """Return what a route answers."""
        return self.checked(self.ask("GET", path, params=params, tenant=tenant))

    def patch(self, path: str, body: Json, tenant: TenantId | None = None) -> Json:
        """Change what a route leads to, whatever its revision is."""
        return self.checked(self.ask("PATCH", path, body=body, tenant=tenant))

    def text(self, path: str) -> str:
        """Return what a route answers that does not answer JSON."""
        answer = self.ask("GET", path)
        if not answer.is_success:
            self.checked(answer)
        return answer.text

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        tenant: TenantId | None = None,
    ) -> httpx.Response:
        """Ask once; what is answered is the caller's to judge.

        Args:
            method: of HTTP.
            path: of the route.
            body: sent as JSON.
            params: the query.
            headers: beside the token.
            tenant: for which it is asked.
        """
        sent = {**(headers or {}), **({"X-Scope-OrgID": str(tenant)} if tenant else {})}
        try:
            return self._client.request(method, path, json=body, params=params, headers=sent)
        except (httpx.HTTPError, OSError) as error:
            raise CommandError(
                f"no service answers at {self.url} ({type(error).__name__}: {error}); "
                "check that it runs, --url, and listen.http of --config"
            ) from None

    def checked(self, answer: httpx.Response) -> Json:
        """Return the JSON of an answer.

        Raises:
            CommandError: it is a refusal, or not from the service's own port.
        """
        try:
            content = answer.json()
        except ValueError:
            content = None
        if answer.is_success and isinstance(content, dict):
            return content
        if not isinstance(content, dict) or "detail" not in content:
            raise CommandError(
                f"{self.url} is not the service's own port (listen.http): it answers {answer.status_code} "
                f"{answer.text[:100]!r}; name that port with --url"
            )
        said = [content["detail"], *(f"{each['path']}: {each['message']}" for each in content.get("violations", ()))]
        if answer.status_code in {401, 403}:
            said.append(_HOW_TO_GET_ONE if not self._has_token else f"{TOKEN} may have expired, or lack the scope")
        raise CommandError(f"the service refused ({answer.status_code}): {'; '.join(map(str, said))}")


def service_of(reach: Reach, environ: Mapping[str, str], *, needs_token: bool) -> Service:
    """Return the service that an address, or a configuration, leads to.

    Args:
        reach: how to get there.
        environ: may have a token.
        needs_token: everything that will be asked is for operators alone.

    Raises:
        SettingsError: the configuration has faults.
        CommandError: no address, or no token.
    """
    token = environ.get(TOKEN, "").strip()
    if needs_token and not token:
        raise CommandError(f"{TOKEN} is not set: {_HOW_TO_GET_ONE}")
    url = reach.address(environ)
    return Service(url, reach.client(url, bearer(token)), has_token=bool(token))


def bearer(token: str) -> dict[str, str]:
    """Return the header that carries a token, or none."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def address_of(listen: HostPort, key: str, *, is_encrypted: bool) -> str:
    """Return the address under which a port is reached from this machine.

    Raises:
        CommandError: it is any free port.
    """
    if not listen.port:
        raise CommandError(f"{key} takes any free port; give the service's address with --url")
    host = _ANY.get(listen.host, listen.host)
    return f"{'https' if is_encrypted else 'http'}://{f'[{host}]' if ':' in host else host}:{listen.port}"


def tenant_of(text: str | None) -> TenantId:
    """Read a tenant's id.

    Raises:
        CommandError: it is none.
    """
    try:
        return TenantId(text or "")
    except ValueError as error:
        raise CommandError(f"TENANT {error}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
