"""The HTTP clients of a process: senders with the same TLS settings share one, and its connections."""

import asyncio
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

from tenants.endpoint.confined_network import ConfinedNetwork, Resolve
from tenants.endpoint.http_client import new_client
from tenants.endpoint.name_lookups import NameLookups
from tenants.endpoint.secret_files import FileVersion
from tenants.endpoint.tls_context import context_of
from tenants.settings.remote_write_auth import TlsConfig
from tenants.settings.remote_write_targets import RemoteWriteTargets


@dataclass(frozen=True, slots=True)
class ClientKind:
    """What senders must agree in to share a client, and so perhaps a connection.

    Attributes:
        is_confined: connects only where the settings allow.
        is_encrypted: for https; a client for http knows no authorities, which take a while to read.
        tls: None: the system's authorities, and no certificate of ours.
        versions: of the files in ``tls``, so that a new file makes a new client.
    """

    is_confined: bool
    is_encrypted: bool
    tls: TlsConfig | None = None
    versions: tuple[FileVersion, ...] = ()


@dataclass(slots=True)
class _Shared:
    client: httpx.AsyncClient
    users: int = 0


class HttpClients:
    """Makes clients when they are first wanted and closes them when nobody uses them. One event loop owns it.

    An asynchronous context manager; close it after the senders.
    """

    def __init__(self, targets: RemoteWriteTargets | None = None, resolve: Resolve | None = None) -> None:
        """Remember where confined clients may connect to; by default to the public network.

        Args:
            targets: the rule for them.
            resolve: how their hosts are resolved; None: as the system does.
        """
        self._lookups = NameLookups()
        self._network = ConfinedNetwork(targets or RemoteWriteTargets(), resolve or self._lookups.addresses)
        self._shared: dict[ClientKind, _Shared] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def take(self, kind: ClientKind) -> httpx.AsyncClient:
        """Return a client; :meth:`give_back` must follow.

        Raises:
            SecretUnavailableError: a file of its TLS settings cannot be used.
        """
        if kind not in self._shared:
            context = await asyncio.to_thread(_context, kind)
            if kind not in self._shared:
                self._shared[kind] = _Shared(new_client(context, self._network if kind.is_confined else None))
        shared = self._shared[kind]
        shared.users += 1
        return shared.client

    async def give_back(self, kind: ClientKind) -> None:
        """Say that a sender does not use a client any more."""
        shared = self._shared.get(kind)
        if shared is None:
            return
        shared.users -= 1
        if shared.users == 0:
            del self._shared[kind]
            await shared.client.aclose()

    async def close(self) -> None:
        """Close every client. Can be repeated."""
        shared, self._shared = self._shared, {}
        await asyncio.gather(*(each.client.aclose() for each in shared.values()))
        self._lookups.close()


def _context(kind: ClientKind) -> ssl.SSLContext:
    return context_of(kind.tls or TlsConfig()) if kind.is_encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
