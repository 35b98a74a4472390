"""Where tenants' remote writes may go, so that no endpoint makes the service call into its own network.

The rules hold for endpoints in overrides: whoever writes those need not be trusted with the network. They are checked
twice: here, on what a URL says, and at each connection, on the address that it came to
(:mod:`tenants.endpoint.confined_network`).
"""

import ipaddress
import re
import socket
from collections.abc import Iterator
from functools import cache
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, Strict

from tenants.settings.errors import Fault, PathPart, dotted
from tenants.settings.model import SettingsModel
from tenants.settings.overrides import Overrides
from tenants.settings.yaml_document import YamlDocument

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST = re.compile(r"(?:\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*")
_ENDPOINTS = ("metrics_generator", "remote_write")

# Azure's metadata service has a public address; those of other clouds are link-local, unique local or shared.
_METADATA = frozenset({ipaddress.ip_address("168.63.129.16")})
# All of IPv6 that is routed (RFC 4291 §2.4); what else there is, is reserved or has a special use.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What older versions of Python take for public: addresses of protocols, of tunnels, and of documentation.
_SPECIAL = tuple(
    ipaddress.ip_network(network) for network in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")
)

_ALLOW = "list its network in remote_write_targets.allowed_private if it should be allowed"


def _check_host(host: str) -> str:
    if not _HOST.fullmatch(host) and _literal(host) is None:
        raise ValueError("should be a host name, one for all below it (*.example.com), or an address")
    return _canonical(host)


def _canonical(host: str) -> str:
    literal = _literal(host)
    return host.lower().removesuffix(".") if literal is None else str(literal)


def _check_network(network: str) -> str:
    try:
        return str(ipaddress.ip_network(network))
    except ValueError:
        raise ValueError("should be a network, such as 10.1.0.0/16, with no bits set behind its prefix") from None


class RemoteWriteTargets(SettingsModel):
    """Where endpoints in overrides may send to. The list ``remote_write`` of the service configuration is trusted."""

    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_check_host)], ...], Field(max_length=1000), Strict(False)
    ] = Field(default=(), description="Host names, *.example.com for all below one, or addresses; empty: any.")
    allowed_private: Annotated[
        tuple[Annotated[str, AfterValidator(_check_network)], ...], Field(max_length=100), Strict(False)
    ] = Field(
        default=(),
        description="Networks (CIDR) that may be sent to although they are not public, such as 10.1.0.0/16.",
    )

    def host_problem(self, host: str) -> str | None:
        """Return why nothing may be sent to a host, whatever its address; None if it may."""
        name = _canonical(host)
        if not self.allowed_hosts or name in self.allowed_hosts:
            return None
        if any(entry.startswith("*.") and name.endswith(entry[1:]) for entry in self.allowed_hosts):
            return None
        return f"the host {name} is none of remote_write_targets.allowed_hosts"

    def address_problem(self, address: str) -> str | None:
        """Return why nothing may be sent to an IP address; None if it may."""
        parsed = _literal(address)
        if parsed is None:
            return f"{address} is no IP address"
        reached = _reached(parsed)
        if is_public(reached) or any(parsed in network or reached in network for network in _networks(self)):
            return None
        return f"the address {parsed} is not public; {_ALLOW}"

    def url_problem(self, url: str) -> str | None:
        """Return why nothing may be sent to a URL, as far as it can be told without resolving its host."""
        host = urlsplit(url).hostname or ""
        if problem := self.host_problem(host):
            return problem
        return None if _literal(host) is None else self.address_problem(host)


def target_faults(
    entry: Overrides, targets: RemoteWriteTargets, path: tuple[PathPart, ...], document: YamlDocument
) -> Iterator[Fault]:
    """Check the endpoints of one layer of overrides.

    Args:
        entry: the layer.
        targets: where it may send to.
        path: where the entry stands in its document.
        document: gives the faults their lines.
    """
    for index, endpoint in enumerate(entry.metrics_generator.remote_write or ()):
        if problem := targets.url_problem(endpoint.url):
            where = (*path, *_ENDPOINTS, index, "url")
            yield Fault(dotted(where), problem, document.line_of(where))


def is_public(address: _Address) -> bool:
    """Whether an address is one of the public network: no private, local, shared, reserved or metadata one."""
    if address in _METADATA or address.is_multicast or address.is_reserved or not address.is_global:
        return False
    is_routed = isinstance(address, ipaddress.IPv4Address) or address in _GLOBAL_UNICAST
    return is_routed and not any(address in network for network in _SPECIAL)


def _reached(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 one leads to, where it holds one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _literal(host: str) -> _Address | None:
    """Read an address in any notation that the system would read as one: ``127.1`` and ``0x7f000001`` are loopback."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


@cache
def _networks(targets: RemoteWriteTargets) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(network) for network in targets.allowed_private)
