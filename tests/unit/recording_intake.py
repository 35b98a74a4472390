"""An intake that keeps what it is given and answers what it is told to."""

import asyncio
from collections.abc import Sequence

from cluster.gateway.intake import Accepted, Identify
from cluster.gateway.refusal import Refused, identity_refused
from tenants.identity import Authenticator, Identification
from tenants.identity.tenant_id import IdentityRefused, TenantId, parse_tenant


class RecordingIntake:
    """Answers ``outcome``; an exception is raised. While ``is_held``, requests wait until ``release``."""

    def __init__(self) -> None:
        self.outcome: Accepted | Refused | Exception = Accepted()
        self.requests: list[tuple[str, bytes]] = []
        self.skipped: list[bool] = []
        self.finished = 0
        self.arrived = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.requests]

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def submit(self, tenant: TenantId, body: bytes, *, skip_generation: bool) -> Accepted | Refused:
        self.requests.append((str(tenant), body))
        self.skipped.append(skip_generation)
        self.arrived.set()
        await self._open.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        self.finished += 1
        return self.outcome


async def identify(_authorization: Sequence[str], tenants: Sequence[str]) -> TenantId | Refused:
    tenant = parse_tenant(tenants)
    return identity_refused(tenant) if isinstance(tenant, IdentityRefused) else tenant


def by_token(authenticator: Authenticator) -> Identify:
    """Identify senders as a gateway does while requests need tokens."""
    identification = Identification("token", None, authenticator)

    async def identify(authorization: Sequence[str], tenants: Sequence[str]) -> TenantId | Refused:
        sender = await identification.sender(authorization, tenants)
        return sender if isinstance(sender, TenantId) else identity_refused(sender)

    return identify
