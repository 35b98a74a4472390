"""Which process does what for which tenant: rendezvous hashing over the processes there are.

Pure and the same in every process: a gateway, a collector and the controller that hold the same routes agree.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from tenants.identity.tenant_id import TenantId

SHARD_HOST: Final = "shard-host-"
"""What the names of shard hosts begin with; a number follows."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How many shard hosts there shall be.

    Attributes:
        version: grows with every wish; the greater one is right. The routes that fulfil it have this or a greater one.
        shard_hosts: their number; 0: as many as the cluster has places for, or half as many as cores.
    """

    version: int
    shard_hosts: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How far a wish has come.

    Attributes:
        version: of the wish that is fulfilled; 0 before the first.
        shard_hosts: names of those that tenants are spread over.
        leaving: names of those that still hand over what they have.
        is_everywhere: whether everybody who has to knows the routes.
        missing: names of those that there shall be too, and that have no node, or do not answer.
    """

    version: int
    shard_hosts: tuple[str, ...]
    leaving: tuple[str, ...]
    is_everywhere: bool
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Routes:
    """The processes that tenants are spread over, by name.

    Attributes:
        version: grows with every change; the greater one is right.
        shard_hosts: names of the shard hosts.
        collectors: names of the collectors.
    """

    version: int
    shard_hosts: tuple[str, ...]
    collectors: tuple[str, ...]

    def host_of(self, tenant: TenantId, shard_index: int) -> str:
        """Return the host of one of the tenant's shards.

        The tenant ranks all hosts; its shards take the first places, round and round. So they are spread evenly, and a
        small tenant touches few hosts. A host that goes away moves what was on it and what ranked behind it; where a
        tenant has more shards than hosts, most of its shards.
        """
        ranked = _ranked(str(tenant), self.shard_hosts)
        return ranked[shard_index % len(ranked)]

    def collector_of(self, tenant: TenantId) -> str:
        """Return the one collector that owns the tenant."""
        return _ranked(str(tenant), self.collectors)[0]


@lru_cache(maxsize=65_536)
def _ranked(tenant: str, names: tuple[str, ...]) -> tuple[str, ...]:
    # Not hash(): it differs between processes.
    def weight(name: str) -> bytes:
        return hashlib.blake2b(f"{tenant}\0{name}".encode(), digest_size=8).digest()

    return tuple(sorted(names, key=weight, reverse=True))
