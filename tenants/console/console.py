"""Puts the console on an application: its pages below ``/console``, and the pages before it.

NiceGUI has one application per process, so a process has one console.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from nicegui import Client, ui
from nicegui import app as pages

from tenants.console.doors import PREFIX, SIGN_IN
from tenants.console.edit_page import Edit
from tenants.console.graph_pictures import GraphPictures
from tenants.console.operator_pages import AuditPage, ClusterPage, TenantsPage
from tenants.console.same_origin import SameOrigin
from tenants.console.tenant_pages import Cardinality, Graph, InForce, LedgerView, Overview, TenantPage
from tenants.console.visitor import Door, Visitor
from tenants.identity.tenant_id import TenantId

_TENANT_PAGES: Final[tuple[type[TenantPage], ...]] = (Overview, Cardinality, LedgerView, InForce, Edit)
_OperatorPage = type[TenantsPage] | type[ClusterPage] | type[AuditPage]
_OPERATOR_PAGES: Final[Mapping[str, _OperatorPage]] = {"/": TenantsPage, "/cluster": ClusterPage, "/audit": AuditPage}


def add_console(app: FastAPI, door: Door) -> None:
    """Add the pages; call once in a process, before it serves."""
    for path, page in _OPERATOR_PAGES.items():
        _add_operator_page(path, page, door)
    for tenant_page in _TENANT_PAGES:
        _add_tenant_page(tenant_page.view, tenant_page, door)
    _add_tenant_page(Graph.view, partial(Graph, pictures=GraphPictures()), door)
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
    @ui.page(path)
    async def operator_page(request: Request, client: Client) -> Response | None:
        visitor = await door.visitor(request)
        if visitor is None:
            return RedirectResponse(SIGN_IN, 303)
        if not visitor.is_operator:
            return RedirectResponse(visitor.home, 303) if path == "/" else _not_yours(visitor)
        if not _enter(door, visitor, client):
            return _too_many()
        page(visitor).build(request)
        return None


def _add_tenant_page(view: str, page: Callable[[Visitor, str], TenantPage], door: Door) -> None:
    path = "/tenant/{tenant}" + (f"/{view}" if view else "")

    @ui.page(path)
    async def tenant_page(request: Request, tenant: str, client: Client) -> Response | None:
        visitor = await door.visitor(request)
        if visitor is None:
            return RedirectResponse(SIGN_IN, 303)
        try:
            found = TenantId(tenant)
        except ValueError as error:
            return HTMLResponse(f"The address {error}.", 404)
        if not visitor.is_operator and visitor.principal.tenant != found:
            return _not_yours(visitor)
        if not _enter(door, visitor, client):
            return _too_many()
        page(visitor, str(found)).build(request)
        return None


def _enter(door: Door, visitor: Visitor, client: Client) -> bool:
    leave = door.pages.enter(visitor)
    if leave is None:
        return False
    client.on_delete(leave)
    return True


def _too_many() -> Response:
    return PlainTextResponse("Too many pages are open: close some.", 503, {"Retry-After": "60"})


def _not_yours(visitor: Visitor) -> Response:
    return HTMLResponse(f'This page is not yours. <a href="{visitor.home}">Your own is here.</a>', 403)
