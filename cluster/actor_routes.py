"""``/api/admin/actors``: which processes there are, where, and how each of them does."""

from typing import Any, Final, Protocol

from fastapi.responses import JSONResponse

from cluster.measurements import Measurements
from tenants.api.access import Access, GuardedRouter
from tenants.api.problem_response import PROBLEM_RESPONSES

ACTORS_PATH: Final = "/api/admin/actors"

_SUMS: Final = {
    "millrace_shards": "shards",
    "millrace_spans_received_total": "spans_received",
    "millrace_dispatch_queued_bytes": "queued_bytes",
    "millrace_retained_bytes": "retained_bytes",
    "millrace_shard_outbox_records": "waiting_records",
    "millrace_journal_pending_bytes": "journal_pending_bytes",
    "millrace_registry_active_series": "active_series",
    "millrace_remote_write_pending_samples": "pending_samples",
}
_GREATEST: Final = {
    "millrace_retained_seconds": "oldest_unjournalled_s",
    "millrace_remote_write_lag_seconds": "endpoint_lag_s",
    "millrace_settings_version": "settings_version",
}


class Watched(Protocol):
    """Who knows the actors."""

    async def actors(self) -> dict[str, Any]:
        """Return nodes and actors."""


def actor_router(watched: Watched) -> GuardedRouter:
    """Build the route."""
    router = GuardedRouter(tags=["admin"], responses=PROBLEM_RESPONSES)

    @router.route_for("GET", ACTORS_PATH, Access.OPERATOR, summary="Nodes and processes")
    async def get() -> JSONResponse:
        """Return the nodes, and of each process where it is, whether it answers, and what it holds or waits for."""
        return JSONResponse(await watched.actors())

    return router


def actor_row(name: str, measured: Measurements, node: str | None) -> dict[str, Any]:
    """Tell how an actor does from what it measured; what it does not measure is left out."""
    row: dict[str, Any] = {"name": name, "node": node, "is_up": True}
    for metric, _, value in measured:
        if not isinstance(value, float | int):
            continue
        if metric == "millrace_actor_up":
            row["is_up"] = bool(value)
        elif key := _SUMS.get(metric):
            row[key] = row.get(key, 0) + value
        elif key := _GREATEST.get(metric):
            row[key] = max(row.get(key, 0), value)
    return row
