"""Puts the console on an application: its pages below ``/console``, and the pages before it.

NiceGUI has one application per process, so a process has one console.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from nicegui import Client, ui
from nicegui import app as pages

from tenants.console.doors import PREFIX, SIGN_IN
from tenants.console.edit_page import Edit
from tenants.console.graph_pictures import GraphPictures
from tenants.console.operator_pages import AuditPage, ClusterPage, TenantsPage
from tenants.console.own_sockets import OwnSockets
from tenants.console.same_origin import SameOrigin
from tenants.console.tenant_pages import Cardinality, Graph, InForce, LedgerView, Overview, TenantPage
from tenants.console.visitor import Door, Visitor
from tenants.identity.tenant_id import TenantId

_TENANT_PAGES: Final[tuple[type[TenantPage], ...]] = (Overview, Cardinality, LedgerView, InForce, Edit)
_OperatorPage = type[TenantsPage] | type[ClusterPage] | type[AuditPage]
_OPERATOR_PAGES: Final[Mapping[str, _OperatorPage]] = {"/": TenantsPage, "/cluster": ClusterPage, "/audit": AuditPage}


class TurnedAwayError(Exception):
    """Somebody may not see a page. Raised before NiceGUI makes it, and keeps it for a minute or longer.

    Attributes:
        answer: that they get.
    """

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.status_code)
        self.answer = answer


def add_console(app: FastAPI, door: Door) -> None:
    """Add the pages; call once in a process, before it serves."""
    for path, page in _OPERATOR_PAGES.items():
        _add_operator_page(path, page, door)
    for tenant_page in _TENANT_PAGES:
        _add_tenant_page(tenant_page.view, tenant_page, door)
    _add_tenant_page(Graph.view, partial(Graph, pictures=GraphPictures()), door)
    pages.add_exception_handler(TurnedAwayError, _turn_away)
    # NiceGUI's own answer is a page, with all that it keeps of one.
    pages.add_exception_handler(404, _find_nothing)
    pages.add_middleware(OwnSockets, door=door)
    pages.add_middleware(SameOrigin)
    ui.run_with(
        app,
        mount_path=PREFIX,
        title="Millrace",
        favicon="🌊",
        dark=None,
        tailwind=True,
        show_welcome_message=False,
        reconnect_timeout=10.0,
        # Nothing here is bound to anything that would have to be looked at ten times a second.
        binding_refresh_interval=None,
    )


def _add_operator_page(path: str, page: _OperatorPage, door: Door) -> None:
    async def operator(request: Request) -> Visitor:
        visitor = await _signed_in(door, request)
        if not visitor.is_operator:
            raise TurnedAwayError(RedirectResponse(visitor.home, 303) if path == "/" else _not_yours(visitor))
        return visitor

    @ui.page(path)
    def operator_page(
        request: Request, client: Client, visitor: Annotated[Visitor, Depends(operator)]
    ) -> Response | None:
        if not _enter(door, visitor, client):
            return _too_many()
        page(visitor).build(request)
        return None


def _add_tenant_page(view: str, page: Callable[[Visitor, str], TenantPage], door: Door) -> None:
    path = "/tenant/{tenant}" + (f"/{view}" if view else "")

    async def of_tenant(request: Request, tenant: str) -> Visitor:
        visitor = await _signed_in(door, request)
        try:
            found = TenantId(tenant)
        except ValueError as error:
            raise TurnedAwayError(PlainTextResponse(f"The address {error}.", 404)) from None
        if not visitor.is_operator and visitor.principal.tenant != found:
            raise TurnedAwayError(_not_yours(visitor))
        return visitor

    @ui.page(path)
    def tenant_page(
        request: Request, tenant: str, client: Client, visitor: Annotated[Visitor, Depends(of_tenant)]
    ) -> Response | None:
        if not _enter(door, visitor, client):
            return _too_many()
        page(visitor, tenant).build(request)
        return None


async def _signed_in(door: Door, request: Request) -> Visitor:
    visitor = await door.visitor(request)
    if visitor is None:
        raise TurnedAwayError(RedirectResponse(SIGN_IN, 303))
    return visitor


async def _turn_away(_: Request, error: Exception) -> Response:
    if not isinstance(error, TurnedAwayError):
        raise error
    return error.answer


async def _find_nothing(_: Request, __: Exception) -> Response:
    return PlainTextResponse("There is nothing here.", 404)


def _enter(door: Door, visitor: Visitor, client: Client) -> bool:
    leave = door.pages.enter(client.id, visitor)
    if leave is None:
        client.delete()
        return False
    client.on_delete(leave)
    return True


def _too_many() -> Response:
    return PlainTextResponse("Too many pages are open: close some.", 503, {"Retry-After": "60"})


def _not_yours(visitor: Visitor) -> Response:
    return HTMLResponse(f'This page is not yours. <a href="{visitor.home}">Your own is here.</a>', 403)
