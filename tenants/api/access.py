"""Who may ask which route: one rule for each, without which a route cannot be added.

The rule is part of the route, so that the document of the API shows it, and a test can list all routes and try each
with every kind of credential.
"""

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute

from tenants.api.same_origin import SAFE_METHODS, is_same_origin
from tenants.control.caller import Caller
from tenants.control.problem import ProblemError, ProblemKind
from tenants.control.write_limiter import WriteLimiter
from tenants.identity.access import Principal, Scope
from tenants.identity.credentials import AUTHORIZATION_HEADER
from tenants.identity.denied import Denial
from tenants.identity.identification import Identification
from tenants.identity.tenant_id import HEADER, IdentityRefused, TenantId

ACCESS_KEY: Final = "x-access"
"""Where the document of the API names a route's rule."""


class Access(StrEnum):
    """The rules."""

    OPEN = "open"
    """Anybody: says nothing about any tenant."""

    INSPECT = "inspect"
    """Operators, while requests carry tokens; anybody who reaches the port, while they do not."""

    TENANT = "tenant"
    """The tenant's own administrator, or an operator who names the tenant."""

    TENANT_OR_OPERATOR = "tenant-or-operator"
    """The tenant's own administrator for the tenant, or an operator for one tenant or for all."""

    OPERATOR = "operator"
    """Operators, with a token, always."""


class Guard:
    """Lets requests through to a route, or not.

    Args:
        identification: finds out who asks.
        writes: limits how often a tenant's administrators ask for changes; operators are not limited.
        inspect_is_open: whether :attr:`Access.INSPECT` is for anybody.
    """

    def __init__(self, identification: Identification, writes: WriteLimiter, *, inspect_is_open: bool) -> None:
        self._identification = identification
        self._writes = writes
        self._inspect_is_open = inspect_is_open

    async def check(self, access: Access, request: Request) -> Principal | None:
        """Return who asks; None where anybody may.

        Raises:
            ProblemError: unauthenticated, or not for this caller, or not so often.
        """
        if access is Access.OPEN or (access is Access.INSPECT and self._inspect_is_open):
            return None
        principal = await self._principal(request)
        is_operator = Scope.OPERATOR in principal.scopes
        if access in {Access.OPERATOR, Access.INSPECT}:
            if not is_operator:
                raise ProblemError(ProblemKind.FORBIDDEN, "this is for operators: send a token with the scope operator")
            return principal
        if not is_operator and Scope.TENANT_ADMIN not in principal.scopes:
            raise ProblemError(
                ProblemKind.FORBIDDEN, "this token may not do that: send one with the scope tenant-admin"
            )
        if principal.tenant is None and not (is_operator and access is Access.TENANT_OR_OPERATOR):
            raise ProblemError(ProblemKind.INVALID_TENANT, f"name the tenant in the header {HEADER}")
        if principal.tenant is not None and not is_operator and request.method not in SAFE_METHODS:
            self._writes.take(principal.tenant)
        return principal

    async def _principal(self, request: Request) -> Principal:
        found = await self._identification.principal(
            request.headers.getlist(AUTHORIZATION_HEADER), request.headers.getlist(HEADER)
        )
        if isinstance(found, Principal):
            return found
        if isinstance(found, IdentityRefused):
            kind = ProblemKind.UNAUTHENTICATED if found.is_unauthenticated else ProblemKind.INVALID_TENANT
            raise ProblemError(kind, found.message)
        headers = {} if found.retry_after_s is None else {"Retry-After": str(math.ceil(found.retry_after_s))}
        raise ProblemError(_KINDS[found.denial], found.message, headers=headers)


_KINDS: Final = {
    Denial.UNAUTHENTICATED: ProblemKind.UNAUTHENTICATED,
    Denial.FORBIDDEN: ProblemKind.FORBIDDEN,
    Denial.UNAVAILABLE: ProblemKind.UNAVAILABLE,
}


class GuardedRouter(APIRouter):
    """A router that takes no route without a rule.

    Use :meth:`route_for` alone: it is what the guard looks at.
    """

    def route_for(self, method: str, path: str, access: Access, **options: Any) -> Callable[[Any], Any]:
        """Return a decorator that adds a route; ``options`` are those of :meth:`add_api_route`."""
        extra = {**options.pop("openapi_extra", {}), ACCESS_KEY: access.value}

        def add(endpoint: Any) -> Any:
            self.add_api_route(path, endpoint, methods=[method], openapi_extra=extra, **options)
            return endpoint

        return add


def access_of(route: APIRoute) -> Access:
    """Return a route's rule.

    Raises:
        KeyError: it has none; such a route answers nobody.
    """
    return Access((route.openapi_extra or {})[ACCESS_KEY])


async def guarded(request: Request) -> None:
    """Dependency of the whole application: no page of another site changes anything, and the route's rule holds.

    Raises:
        ProblemError: it may not be.
    """
    if request.method not in SAFE_METHODS and not is_same_origin(request.headers):
        raise ProblemError(
            ProblemKind.FORBIDDEN,
            "a page of another site may not change anything here; if this is your own, "
            "let the proxy in front pass the header Host on as it is",
        )
    guard: Guard = request.app.state.guard
    request.state.principal = await guard.check(access_of(request.scope["route"]), request)


def _principal(request: Request) -> Principal:
    principal: Principal | None = request.state.principal
    if principal is None:
        raise AssertionError("an open route asks who the caller is")
    return principal


def _tenant(principal: Annotated[Principal, Depends(_principal)]) -> TenantId:
    if principal.tenant is None:
        raise ProblemError(ProblemKind.INVALID_TENANT, f"name the tenant in the header {HEADER}")
    return principal.tenant


def _caller(request: Request, principal: Annotated[Principal, Depends(_principal)]) -> Caller:
    return Caller(principal.actor, request.client.host if request.client else "")


WhoAsks = Annotated[Principal, Depends(_principal)]
"""Parameter of an endpoint: who asks."""

OwnTenant = Annotated[TenantId, Depends(_tenant)]
"""Parameter of an endpoint: the tenant that the caller may speak for."""

WhoChanges = Annotated[Caller, Depends(_caller)]
"""Parameter of an endpoint: who asks, as it is written down."""
