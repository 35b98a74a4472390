"""``/api/admin/cluster``: how many shard hosts there are, and how many there shall be."""

from typing import Any, Final, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from tenants.api.access import Access, GuardedRouter, WhoChanges
from tenants.api.body import read_model
from tenants.api.problem_response import PROBLEM_RESPONSES
from tenants.control.caller import Caller

CLUSTER_PATH: Final = "/api/admin/cluster"
MAX_SHARD_HOSTS: Final = 1024


class ScaleRequest(BaseModel):
    """What an operator wants of the cluster."""

    model_config = ConfigDict(extra="forbid")

    shard_hosts: int = Field(
        ge=0,
        le=MAX_SHARD_HOSTS,
        strict=True,
        description="Processes that generate metrics; 0: a shard_slot each, or one for every two cores.",
    )


class Scaled(Protocol):
    """What is scaled."""

    async def rescale(self, shard_hosts: int, caller: Caller) -> None:
        """Begin to spread tenants over so many shard hosts."""

    async def cluster(self) -> dict[str, Any]:
        """Return how far it has come."""


def scale_router(scaled: Scaled) -> GuardedRouter:
    """Build the routes."""
    router = GuardedRouter(tags=["admin"], responses=PROBLEM_RESPONSES)
    body = {
        "requestBody": {
            "required": True,
            "description": "What changes.",
            "content": {"application/json": {"schema": ScaleRequest.model_json_schema()}},
        }
    }

    @router.route_for("GET", CLUSTER_PATH, Access.OPERATOR, summary="Shard hosts, and how far settings have got")
    async def get() -> JSONResponse:
        """Return the shard hosts that there are, that leave, and that are wanted; the version of the overrides."""
        return JSONResponse(await scaled.cluster())

    @router.route_for(
        "PATCH",
        CLUSTER_PATH,
        Access.OPERATOR,
        summary="Another number of shard hosts",
        status_code=202,
        openapi_extra=body,
    )
    async def change(*, request: Request, caller: WhoChanges) -> JSONResponse:
        """Begin to spread tenants over another number of shard hosts. Holds until the service ends."""
        wanted = await read_model(ScaleRequest, request)
        await scaled.rescale(wanted.shard_hosts, caller)
        return JSONResponse(await scaled.cluster(), 202)

    return router
