"""What requests to one endpoint need besides the batch: a client, and the secrets that its settings point to."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import httpx

from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.errors import SecretUnavailableError
from tenants.endpoint.http_clients import ClientKind
from tenants.endpoint.secret_files import FileVersion, read_secret
from tenants.endpoint.surroundings import Surroundings
from tenants.settings.secret_source import SecretSource

_LOOK_AGAIN_MS = 5_000
"""Files are looked at again this long after the last look: a rotated secret is in use a few seconds later."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A way to an endpoint.

    Attributes:
        config: with every header that a request carries.
        kind: of the client.
        client: to send with.
        problem: why secrets are still those of before; empty if they are not.
    """

    config: EndpointConfig
    kind: ClientKind
    client: httpx.AsyncClient
    problem: str = ""


class EndpointAccess:
    """Reads one endpoint's secrets, again when their files change, and holds the client that fits them.

    A secret that cannot be read any more keeps its last good value. One event loop owns it, in which several requests
    may ask at once; files are read in threads, by one of them.

    Of the client that fits it is one user, and each request that is under way is another: a client that does not fit
    any more is closed behind the last of them.
    """

    def __init__(self, config: EndpointConfig, around: Surroundings, environ: Mapping[str, str] = os.environ) -> None:
        self._config = config
        self._around = around
        self._environ = environ
        self._granted: Granted | None = None
        self._looked_at_ms = 0
        self._last_good: dict[SecretSource, str] = {}
        self._kind: ClientKind | None = None
        self._looking = asyncio.Lock()

    def reconfigure(self, config: EndpointConfig) -> None:
        """Go on with other settings; what they point to is read before the next request."""
        self._config = config
        self._granted = None

    @asynccontextmanager
    async def granted(self) -> AsyncIterator[Granted]:
        """Return the way to the endpoint as it is now, for one request.

        Raises:
            SecretUnavailableError: a secret cannot be read, and never could.
        """
        granted = self._fresh()
        if granted is None:
            async with self._looking:
                granted = self._fresh() or await self._look()
        # Nothing is awaited between this and the look: the client is held by then.
        await self._around.clients.take(granted.kind)
        try:
            yield granted
        finally:
            await self._around.clients.give_back(granted.kind)

    async def close(self) -> None:
        """Let go of the client. Can be repeated."""
        kind, self._kind, self._granted = self._kind, None, None
        if kind is not None:
            await self._around.clients.give_back(kind)

    def _fresh(self) -> Granted | None:
        """Return what was found at the last look, if that will do."""
        is_recent = abs(self._around.clock.now_ms() - self._looked_at_ms) < _LOOK_AGAIN_MS
        return self._granted if is_recent or not self._config.points_to_secrets else None

    async def _look(self) -> Granted:
        now_ms, config = self._around.clock.now_ms(), self._config
        problems: list[str] = []
        complete = await asyncio.to_thread(self._with_secrets, config, problems)
        kind, client = await self._take_client(config, problems)
        granted = Granted(complete, kind, client, "; ".join(problems))
        if config is self._config:
            self._granted, self._looked_at_ms = granted, now_ms
        return granted

    def _with_secrets(self, config: EndpointConfig, problems: list[str]) -> EndpointConfig:
        """Read the values of headers; in a thread."""
        secrets: dict[SecretSource, str] = {}
        headers = []
        for header in config.headers_from:
            source = header.source
            try:
                secrets[source] = read_secret(source, self._environ)
            except SecretUnavailableError as error:
                if source not in self._last_good:
                    raise
                secrets[source] = self._last_good[source]
                problems.append(str(error))
            headers.append((header.name, header.value(secrets[source])))
        self._last_good = secrets
        return replace(config, headers=(*config.headers, *headers))

    async def _take_client(self, config: EndpointConfig, problems: list[str]) -> tuple[ClientKind, httpx.AsyncClient]:
        """Take the client that fits the files as they are; the one at hand if they cannot be used any more."""
        clients, former = self._around.clients, self._kind
        try:
            kind = await asyncio.to_thread(_kind_of, config)
            client = await clients.take(kind)
        except SecretUnavailableError as error:
            if former is None or (former.is_confined, former.tls) != (config.is_confined, config.tls):
                raise
            problems.append(str(error))
            kind, client = former, await clients.take(former)
        self._kind = kind
        if former is not None:
            await clients.give_back(former)
        return kind, client


def _kind_of(config: EndpointConfig) -> ClientKind:
    """Look at the files of the TLS settings; in a thread."""
    tls = config.tls
    paths = () if tls is None else (tls.ca_file, tls.cert_file, tls.key_file)
    versions = tuple(FileVersion.of(path) for path in paths if path is not None)
    return ClientKind(config.is_confined, config.url.lower().startswith("https:"), tls, versions)
