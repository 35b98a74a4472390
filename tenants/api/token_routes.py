"""``/api/tokens``: a tenant's own tokens; for operators, those of everybody."""

from typing import Annotated, Any, Final

from fastapi import Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from tenants.api.access import Access, GuardedRouter, WhoAsks, WhoChanges
from tenants.api.body import json_body, read_model
from tenants.api.problem_response import PROBLEM_RESPONSES
from tenants.api.times import optional_time_text, time_text
from tenants.control.tokens import TokenService
from tenants.identity.access import Scope
from tenants.store.tokens import TokenRecord

PATH: Final = "/api/tokens"


class NewTokenRequest(BaseModel):
    """What the token should be good for."""

    model_config = ConfigDict(extra="forbid")

    scopes: tuple[Scope, ...] = Field(
        min_length=1,
        max_length=3,
        fail_fast=True,
        description="ingest: send spans; tenant-admin: documents, tokens, usage; operator: all, without a tenant.",
    )
    expires_in_days: int | None = Field(default=90, ge=1, le=3650, description="Days until it expires; null: never.")
    note: str = Field(default="", max_length=200, description="What it is for.")


class TokenRoutes:
    """The endpoints."""

    def __init__(self, tokens: TokenService) -> None:
        self._tokens = tokens

    def router(self) -> GuardedRouter:
        """Return the routes."""
        router = GuardedRouter(tags=["tokens"], responses=PROBLEM_RESPONSES)
        body = json_body(NewTokenRequest, "What the token should be good for.")
        add, access = router.route_for, Access.TENANT_OR_OPERATOR
        add("GET", PATH, access, summary="Tokens, without their values")(self.list)
        add("POST", PATH, access, summary="Make a token", status_code=201, openapi_extra=body)(self.create)
        add("DELETE", f"{PATH}/{{token_id}}", access, summary="Revoke a token", status_code=204)(self.revoke)
        return router

    async def list(self, *, asks: WhoAsks) -> JSONResponse:
        """Return the tokens of the tenant, or of everybody for an operator who names no tenant."""
        records = await self._tokens.list(asks.tenant)
        return JSONResponse({"tokens": [token_json(record) for record in records]})

    async def create(self, *, request: Request, asks: WhoAsks, caller: WhoChanges) -> JSONResponse:
        """Make a token. The answer holds its value, which nobody can read again."""
        wanted = await read_model(NewTokenRequest, request)
        days = wanted.expires_in_days
        record, text = await self._tokens.create(
            asks.tenant, frozenset(wanted.scopes), None if days is None else days * 86_400_000, wanted.note, caller
        )
        return JSONResponse({**token_json(record), "token": text}, 201, headers={"Cache-Control": "no-store"})

    async def revoke(
        self, *, token_id: Annotated[str, Path(max_length=64)], asks: WhoAsks, caller: WhoChanges
    ) -> Response:
        """End a token at once."""
        await self._tokens.revoke(asks.tenant, token_id, caller)
        return Response(status_code=204)


def token_json(record: TokenRecord) -> dict[str, Any]:
    """Show a token without its value."""
    return {
        "id": record.token_id,
        "tenant": record.tenant,
        "scopes": sorted(record.scopes),
        "note": record.note,
        "created_at": time_text(record.created_ms),
        "created_by": record.created_by,
        "expires_at": optional_time_text(record.expires_ms),
        "revoked_at": optional_time_text(record.revoked_ms),
    }
