"""Who sent a request, and for which tenant it acts: from its credentials and from the tenant that it names.

One answer for ingest and for the API. It does not know what is being asked for, except whether spans are sent.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeVar

from tenants.identity.access import TRUSTED_SCOPES, Principal, Scope
from tenants.identity.authenticator import Authenticator
from tenants.identity.credentials import Credentials, NoCredentials, parse_credentials
from tenants.identity.denied import DenialReason, Denied
from tenants.identity.tenant_id import HEADER, IdentityReason, IdentityRefused, TenantId, identify, parse_tenant
from tenants.identity.token_table import KnownToken

AuthMode = Literal["trusted_header", "token"]
"""``trusted_header``: whoever names a tenant is believed. ``token``: every request needs a token."""

Outcome = TypeVar("Outcome")


class Identification:
    """Identifies the senders of requests. One event loop owns it.

    Args:
        mode: whether tokens are asked for. Operators need one in either mode.
        single_tenant: the tenant of every request while multi-tenancy is off; None while it is on.
        authenticator: checks tokens.

    Attributes:
        denials: requests that were not let through here, by reason. All reasons are there from the start.
    """

    def __init__(self, mode: AuthMode, single_tenant: TenantId | None, authenticator: Authenticator) -> None:
        self.denials: Counter[DenialReason] = Counter(dict.fromkeys(DenialReason, 0))
        self._mode = mode
        self._single_tenant = single_tenant
        self._authenticator = authenticator

    async def principal(
        self, authorization: Sequence[str], tenants: Sequence[str]
    ) -> Principal | Denied | IdentityRefused:
        """Return who asks something of the API. While headers are trusted, a token still makes an operator.

        Args:
            authorization: all values of the header ``Authorization``.
            tenants: all values of the header ``X-Scope-OrgID``.
        """
        credentials = parse_credentials(authorization)
        if isinstance(credentials, NoCredentials) and self._mode == "trusted_header":
            # Other schemes may be those of a proxy before us.
            tenant = identify(tenants, self._single_tenant)
            return tenant if isinstance(tenant, IdentityRefused) else _trusted(tenant)
        return self._counted(await self._of_token(credentials, tenants))

    async def sender(self, authorization: Sequence[str], tenants: Sequence[str]) -> TenantId | Denied | IdentityRefused:
        """Return the tenant that spans are sent for. Arguments as of :meth:`principal`.

        While headers are trusted ``Authorization`` is not even read.
        """
        if self._mode == "trusted_header":
            return identify(tenants, self._single_tenant)
        principal = await self._of_token(parse_credentials(authorization), tenants)
        if isinstance(principal, Principal):
            return self._counted(_sender(principal))
        return self._counted(principal)

    async def _of_token(
        self, credentials: Credentials | NoCredentials, tenants: Sequence[str]
    ) -> Principal | Denied | IdentityRefused:
        if isinstance(credentials, NoCredentials):
            return _no_credentials(credentials)
        known = await self._authenticator.authenticate(credentials.token)
        if isinstance(known, Denied):
            return known
        tenant = self._tenant(known, credentials.user, tenants)
        if isinstance(tenant, Denied | IdentityRefused):
            return tenant
        return Principal(tenant, known.scopes, f"token:{known.token_id}")

    def _tenant(
        self, known: KnownToken, user: str, tenants: Sequence[str]
    ) -> TenantId | Denied | IdentityRefused | None:
        """Return the tenant that a good token acts for; None: it is for all, and none was named."""
        if self._single_tenant is not None:
            named = [self._single_tenant]
        else:
            named = []
            # An empty header names nobody (tenancy §1.4).
            for values in ([user], tenants):
                if not any(values):
                    continue
                tenant = parse_tenant(values)
                if isinstance(tenant, IdentityRefused):
                    return tenant
                named.append(tenant)
        agreed = {*named, *([known.tenant] if known.tenant else [])}
        if len(agreed) > 1:
            return Denied(
                DenialReason.WRONG_TENANT,
                f"the token is not for the tenant that the request names; leave {HEADER} out, or name its own",
            )
        return agreed.pop() if agreed else None

    def _counted(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Denied):
            self.denials[outcome.reason] += 1
        return outcome


def _trusted(tenant: TenantId) -> Principal:
    return Principal(tenant, TRUSTED_SCOPES, f"header:{tenant}")


def _sender(principal: Principal) -> TenantId | Denied | IdentityRefused:
    if Scope.INGEST not in principal.scopes:
        return Denied(DenialReason.LACKS_SCOPE, f"the token may not send spans: use one with the scope {Scope.INGEST}")
    if principal.tenant is None:
        return IdentityRefused(
            IdentityReason.NO_ORG_ID, f"no org id: the token is for all tenants, name one in the header {HEADER}"
        )
    return principal.tenant


def _no_credentials(problem: NoCredentials) -> Denied:
    how = "send the header Authorization: Bearer <token>, or Basic with the tenant and the token"
    if problem is NoCredentials.MISSING:
        return Denied(DenialReason.MISSING, f"no credentials: {how}")
    return Denied(DenialReason.MALFORMED, f"Authorization holds no token: {how}")
