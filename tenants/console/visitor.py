"""Who looks at a page, and how the API is asked for them."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from tenants.console.sessions import Sessions
from tenants.identity.access import Principal, Scope
from tenants.identity.identification import Identification
from tenants.identity.tenant_id import HEADER

COOKIE: Final = "millrace_session"

# A page takes 0.25 MB, and some times that with long tables: all of them have to fit beside the 150 MiB that the
# process begins with, in the 512 MiB of k8s/base/serve.yaml.
MAX_PAGES_OF_ONE: Final = 50
MAX_PAGES: Final = 400

# No tenant's id.
_OPERATORS: Final = "/operators"
_TIMEOUT_S: Final = 30.0
_is_unattended: Final = ContextVar("is_unattended", default=False)


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


@contextmanager
def unattended() -> Iterator[None]:
    """Ask the API without using the visitor's session: inside it is the page that asks, whether or not they look."""
    before = _is_unattended.set(True)
    try:
        yield
    finally:
        _is_unattended.reset(before)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a visitor says of themselves.

    Attributes:
        session: the key of it; None: there is none.
        tenants: values of the header that names a tenant, set by a proxy that is trusted.
    """

    session: bytes | None
    tenants: tuple[str, ...]


class Visitor:
    """One person at one page, for as long as their session goes on.

    Args:
        api: the application of the port.
        sessions: all that are open.
        credentials: that every question is asked with.
        principal: who that is.
        source_ip: where they are, for the audit.
    """

    def __init__(
        self, api: ASGIApp, sessions: Sessions, credentials: Credentials, principal: Principal, source_ip: str
    ) -> None:
        self._sessions = sessions
        self.credentials = credentials
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
        return self.credentials.session is None

    @property
    def home(self) -> str:
        """Where they begin."""
        return _home(self.principal)

    async def ask(
        self, method: str, path: str, tenant: str | None = None, *, content: str | None = None, **headers: str
    ) -> httpx.Response:
        """Ask the API; an operator for a tenant. Header names with underscores for dashes.

        Raises:
            ApiProblemError: it refused, or the session has ended.
        """
        sent: list[tuple[str, str]] = [(name.replace("_", "-"), value) for name, value in headers.items()]
        sent += [("Authorization", value) for value in _authorization(self._token())]
        named = (tenant,) if self.is_operator and tenant else self.credentials.tenants
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

    def _token(self) -> str | None:
        if self.credentials.session is None:
            return None
        token = self._sessions.token(self.credentials.session, is_use=not _is_unattended.get())
        if token is None:
            raise ApiProblemError(401, "the session has ended: sign in again")
        return token


class OpenPages:
    """How many pages are open: each holds memory of this process for as long as somebody has it before them.

    So each tenant, and all operators together, may have so many; who has more is refused, and nobody else is.
    """

    def __init__(self) -> None:
        self._by_owner: Counter[str] = Counter()
        self._credentials: dict[str, Credentials] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._credentials)

    def enter(self, page: str, visitor: Visitor) -> Callable[[], None] | None:
        """Count one more, by its id; returns what counts it no more, None if there are too many."""
        owner = _owner(visitor.principal)
        if self._by_owner[owner] >= MAX_PAGES_OF_ONE or len(self) >= MAX_PAGES:
            return None
        self._by_owner[owner] += 1
        self._credentials[page] = visitor.credentials

        def leave() -> None:
            del self._credentials[page]
            self._by_owner[owner] -= 1
            if not self._by_owner[owner]:
                del self._by_owner[owner]

        return leave

    def credentials(self, page: str) -> Credentials | None:
        """Return what a page was opened with; None if it is not open."""
        return self._credentials.get(page)


class Door:
    """Finds out who asks for a page, by the rules of the API."""

    def __init__(self, api: ASGIApp, identification: Identification, sessions: Sessions) -> None:
        self._api = api
        self._identification = identification
        self.sessions = sessions
        self.pages = OpenPages()

    async def visitor(self, connection: HTTPConnection) -> Visitor | None:
        """Return who asks, and note that their session is used; None: they have to sign in."""
        credentials = self._credentials(connection)
        session = credentials.session
        token = None if session is None else self.sessions.token(session, is_use=True)
        principal = await self._principal(token, credentials.tenants)
        if principal is None:
            return None
        source_ip = connection.client.host if connection.client else ""
        return Visitor(self._api, self.sessions, credentials, principal, source_ip)

    def has_opened(self, connection: HTTPConnection, page: str) -> bool:
        """Whether it is who asks here that opened the page, and their session goes on. This is no use of it."""
        return self.pages.credentials(page) == self._credentials(connection)

    async def sign_in(self, token: str, connection: HTTPConnection) -> tuple[str, str] | None:
        """Open a session; returns the cookie's value, and where they begin. None: the token opens nothing here."""
        principal = await self._principal(token, _tenants(connection))
        if principal is None:
            return None
        return self.sessions.open(token, _owner(principal)), _home(principal)

    def _credentials(self, connection: HTTPConnection) -> Credentials:
        return Credentials(self.sessions.key(connection.cookies.get(COOKIE)), _tenants(connection))

    async def _principal(self, token: str | None, tenants: Sequence[str]) -> Principal | None:
        found = await self._identification.principal(_authorization(token), tenants)
        if not isinstance(found, Principal):
            return None
        # A token of all tenants that is no operator's would have to name one, and a person cannot.
        is_admin = Scope.TENANT_ADMIN in found.scopes and found.tenant is not None
        return found if is_admin or Scope.OPERATOR in found.scopes else None


def _authorization(token: str | None) -> list[str]:
    return [] if token is None else [f"Bearer {token}"]


def _tenants(connection: HTTPConnection) -> tuple[str, ...]:
    return tuple(connection.headers.getlist(HEADER))


def _owner(principal: Principal) -> str:
    return _OPERATORS if Scope.OPERATOR in principal.scopes else str(principal.tenant)


def _home(principal: Principal) -> str:
    is_operator = Scope.OPERATOR in principal.scopes
    return "/console/" if is_operator else f"/console/tenant/{quote(str(principal.tenant), safe='')}"


def _problem(answer: httpx.Response) -> ApiProblemError:
    try:
        body = answer.json()
    except ValueError:
        body = {}
    violations = [(each["path"], each["message"]) for each in body.get("violations", [])]
    detail = body.get("detail", f"the API answered {answer.status_code}")
    return ApiProblemError(answer.status_code, detail, violations, is_told="detail" in body)
