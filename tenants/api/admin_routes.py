"""``/api/admin``: what operators see and decide about tenants (tenancy §5.1, §6.4)."""

from typing import Annotated, Any, Final

from fastapi import Header, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from tenants.api.access import Access, GuardedRouter, WhoChanges
from tenants.api.body import json_body, read_model
from tenants.api.problem_response import PROBLEM_RESPONSES
from tenants.api.times import optional_time_text, time_text
from tenants.control.expected_revision import parse_if_match
from tenants.control.limits_document import LIMIT_KEYS
from tenants.control.overview import Order, TenantOverview
from tenants.control.problem import ProblemError, ProblemKind
from tenants.control.tenants import TenantChange, TenantService
from tenants.identity.tenant_id import TenantId
from tenants.settings.tenant_state import TenantState
from tenants.store.audit import AuditEntry, AuditStore
from tenants.store.errors import UnreadableTenantError
from tenants.store.tenants import TenantRecord

TENANTS_PATH: Final = "/api/admin/tenants"
AUDIT_PATH: Final = "/api/admin/audit"
MAX_LISTED: Final = 1000

_TenantPath = Annotated[str, Path(max_length=150, description="The tenant's id.")]


class TenantRequest(BaseModel):
    """What an operator wants of a tenant; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    state: TenantState | None = Field(
        default=None,
        description="active; dry_run: count, send nothing; paused: accept, generate nothing; blocked: refuse.",
    )
    note: str | None = Field(default=None, max_length=1000, description="For other operators.")
    limits: dict[str, Any] | None = Field(
        default=None, description=f"Replaces the limits; nested as in the overrides: {', '.join(sorted(LIMIT_KEYS))}."
    )


class AdminRoutes:
    """The endpoints."""

    def __init__(self, tenants: TenantService, overview: TenantOverview, audit: AuditStore) -> None:
        self._tenants = tenants
        self._overview = overview
        self._audit = audit

    def router(self) -> GuardedRouter:
        """Return the routes."""
        router = GuardedRouter(tags=["admin"], responses=PROBLEM_RESPONSES)
        body = json_body(TenantRequest, "What changes.")
        add = router.route_for
        add("GET", TENANTS_PATH, Access.OPERATOR, summary="All tenants")(self.list)
        add("GET", f"{TENANTS_PATH}/{{tenant}}", Access.OPERATOR, summary="One tenant")(self.get)
        add(
            "PATCH",
            f"{TENANTS_PATH}/{{tenant}}",
            Access.OPERATOR,
            summary="State, limits and note of a tenant",
            openapi_extra=body,
        )(self.change)
        add("GET", AUDIT_PATH, Access.OPERATOR, summary="Who changed what")(self.audit)
        return router

    async def list(
        self,
        *,
        search: Annotated[str, Query(max_length=150, description="Part of the id.")] = "",
        after: Annotated[str, Query(max_length=150, description="The last id of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
        order: Annotated[Order, Query(description="By id, or those first that have most of it.")] = "tenant",
        skip: Annotated[int, Query(ge=0, le=2**31, description="How many to pass over.")] = 0,
    ) -> JSONResponse:
        """Return tenants: those with an entry, a document, a state, or spans since the service started."""
        listed = await self._overview.list(search, after, limit, order=order, skip=skip)
        rows = listed.rows
        next_after = rows[-1]["tenant"] if order == "tenant" and len(rows) == limit else None
        return JSONResponse({"tenants": rows, "total": listed.total, "next_after": next_after})

    async def get(self, *, tenant: _TenantPath) -> JSONResponse:
        """Return a tenant's state, layers, and every setting in force with the layer that it came from."""
        found = _tenant_id(tenant)
        try:
            record = await self._tenants.get(found)
        except UnreadableTenantError as error:
            raise ProblemError(
                ProblemKind.INTERNAL,
                f"the stored record, revision {error.revision}, is damaged; PATCH state, limits and note to mend it",
            ) from None
        content = await self._overview.one(found) | _shown(found, record)
        return JSONResponse(content, headers={"ETag": f'"{record.revision if record else 0}"'})

    async def change(
        self,
        *,
        request: Request,
        tenant: _TenantPath,
        caller: WhoChanges,
        if_match: Annotated[
            str | None, Header(description="Revision of the tenant; without it, whatever it is.")
        ] = None,
    ) -> JSONResponse:
        """Change a tenant's state, limits or note. In force everywhere within seconds."""
        found = _tenant_id(tenant)
        expected = parse_if_match(if_match)
        wanted = await read_model(TenantRequest, request)
        change = TenantChange(wanted.state, wanted.note, wanted.limits)
        record = await self._tenants.change(found, change, expected, caller)
        return JSONResponse(_shown(found, record), headers={"ETag": f'"{record.revision}"'})

    async def audit(
        self,
        *,
        tenant: Annotated[str | None, Query(max_length=150)] = None,
        before: Annotated[
            int | None, Query(ge=0, le=2**53, description="`id` of the last entry of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
    ) -> JSONResponse:
        """Return changes, newest first."""
        entries = await self._overview.in_thread(self._audit.listed, tenant, before, limit)
        return JSONResponse({"entries": [_entry(entry) for entry in entries]})


def _tenant_id(text: str) -> TenantId:
    try:
        return TenantId(text)
    except ValueError as error:
        raise ProblemError(ProblemKind.INVALID_TENANT, f"the path {error}") from None


def _shown(tenant: TenantId, record: TenantRecord | None) -> dict[str, Any]:
    return {
        "tenant": str(tenant),
        "state": record.state.value if record else TenantState.ACTIVE.value,
        "note": record.note if record else "",
        "limits": record.limits if record else {},
        "revision": record.revision if record else 0,
        "updated_at": optional_time_text(record.updated_ms if record else None),
    }


def _entry(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": entry.entry_id,
        "at": time_text(entry.at_ms),
        "actor": entry.actor,
        "action": entry.action,
        "tenant": entry.tenant,
        "detail": entry.detail,
        "source_ip": entry.source_ip,
        "revision": entry.revision,
    }
