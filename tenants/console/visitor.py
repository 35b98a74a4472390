"""Who looks at a page, and how the API is asked for them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx
from fastapi import Request
from starlette.types import ASGIApp

from tenants.console.sessions import Sessions
from tenants.identity.access import Principal, Scope
from tenants.identity.identification import Identification
from tenants.identity.tenant_id import HEADER

COOKIE: Final = "millrace_session"

MAX_PAGES_OF_ONE: Final = 100
MAX_PAGES: Final = 2000

# No tenant's id.
_OPERATORS: Final = "/operators"
_TIMEOUT_S: Final = 30.0


class ApiProblemError(Exception):
    """The API refused.

    Attributes:
        status: of HTTP.
        detail: what is wrong and how to mend it.
        violations: of a document: path and message.
        is_told: whether the detail is the API's; where it says nothing, what was asked for is not there.
    """

    def __init__(
        self, status: int, detail: str, violations: Sequence[tuple[str, str]] = (), *, is_told: bool = True
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.is_told = is_told
        self.violations = tuple(violations)


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What a visitor says of themselves. Has no printed form: it may hold a secret.

    Attributes:
        token: of the session; None: there is none.
        tenants: values of the header that names a tenant, set by a proxy that is trusted.
    """

    token: str | None
    tenants: tuple[str, ...]

    @property
    def authorization(self) -> list[str]:
        """Values of the header ``Authorization``."""
        return [] if self.token is None else [f"Bearer {self.token}"]


class Visitor:
    """One person at one page.

    Args:
        api: the application of the port.
        credentials: that every question is asked with.
        principal: who that is.
        source_ip: where they are, for the audit.
    """

    def __init__(self, api: ASGIApp, credentials: Credentials, principal: Principal, source_ip: str) -> None:
        self._credentials = credentials
        self.principal = principal
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(api, raise_app_exceptions=False, client=(source_ip, 0)),
            base_url="http://console",
            timeout=_TIMEOUT_S,
        )

    @property
    def is_operator(self) -> bool:
        """Whether they see all tenants."""
        return Scope.OPERATOR in self.principal.scopes

    @property
    def is_trusted(self) -> bool:
        """Whether a proxy said who they are, so that they cannot sign out here."""
        return self._credentials.token is None

    @property
    def home(self) -> str:
        """Where they begin."""
        return "/console/" if self.is_operator else f"/console/tenant/{quote(str(self.principal.tenant), safe='')}"

    async def ask(
        self, method: str, path: str, tenant: str | None = None, *, content: str | None = None, **headers: str
    ) -> httpx.Response:
        """Ask the API; an operator for a tenant. Header names with underscores for dashes.

        Raises:
            ApiProblemError: it refused.
        """
        sent: list[tuple[str, str]] = [(name.replace("_", "-"), value) for name, value in headers.items()]
        sent += [("Authorization", value) for value in self._credentials.authorization]
        named = (tenant,) if self.is_operator and tenant else self._credentials.tenants
        sent += [(HEADER, value) for value in named]
        if content is not None:
            sent.append(("Content-Type", "application/json"))
        answer = await self._client.request(method, path, headers=sent, content=content)
        if answer.is_success:
            return answer
        raise _problem(answer)

    async def get(self, path: str, tenant: str | None = None) -> Any:
        """Return what the API answers.

        Raises:
            ApiProblemError: it refused.
        """
        return (await self.ask("GET", path, tenant)).json()


class OpenPages:
    """How many pages are open: each holds memory of this process for as long as somebody has it before them.

    So each tenant, and all operators together, may have so many; who has more is refused, and nobody else is.
    """

    def __init__(self) -> None:
        self._by_owner: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many there are."""
        return self._by_owner.total()

    def enter(self, visitor: Visitor) -> Callable[[], None] | None:
        """Count one more; returns what counts it no more, None if there are too many."""
        owner = _OPERATORS if visitor.is_operator else str(visitor.principal.tenant)
        if self._by_owner[owner] >= MAX_PAGES_OF_ONE or len(self) >= MAX_PAGES:
            return None
        self._by_owner[owner] += 1

        def leave() -> None:
            self._by_owner[owner] -= 1
            if not self._by_owner[owner]:
                del self._by_owner[owner]

        return leave


class Door:
    """Finds out who asks for a page, by the rules of the API."""

    def __init__(self, api: ASGIApp, identification: Identification, sessions: Sessions) -> None:
        self._api = api
        self._identification = identification
        self.sessions = sessions
        self.pages = OpenPages()

    async def visitor(self, request: Request) -> Visitor | None:
        """Return who asks; None: they have to sign in."""
        session = self.sessions.find(request.cookies.get(COOKIE))
        credentials = Credentials(session.token if session else None, tuple(request.headers.getlist(HEADER)))
        return await self._known(credentials, request)

    async def with_token(self, token: str, request: Request) -> Visitor | None:
        """Return who shows this token; None: it opens nothing here."""
        return await self._known(Credentials(token, tuple(request.headers.getlist(HEADER))), request)

    async def _known(self, credentials: Credentials, request: Request) -> Visitor | None:
        found = await self._identification.principal(credentials.authorization, credentials.tenants)
        if not isinstance(found, Principal):
            return None
        is_operator = Scope.OPERATOR in found.scopes
        # A token of all tenants that is no operator's would have to name one, and a person cannot.
        if not is_operator and (Scope.TENANT_ADMIN not in found.scopes or found.tenant is None):
            return None
        return Visitor(self._api, credentials, found, request.client.host if request.client else "")


def _problem(answer: httpx.Response) -> ApiProblemError:
    try:
        body = answer.json()
    except ValueError:
        body = {}
    violations = [(each["path"], each["message"]) for each in body.get("violations", [])]
    detail = body.get("detail", f"the API answered {answer.status_code}")
    return ApiProblemError(answer.status_code, detail, violations, is_told="detail" in body)
