"""``/api/admin/cluster``: for operators, and checked before anything is begun."""

from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI

from cluster.scale_routes import CLUSTER_PATH, scale_router
from tenants.api.access import Guard, guarded
from tenants.api.problem_response import add_problem_handlers
from tenants.control.caller import Caller
from tenants.control.write_limiter import WriteLimiter
from tenants.identity.access import Principal, Scope


class Scaled:
    def __init__(self) -> None:
        self.wishes: list[tuple[int, str]] = []

    async def rescale(self, shard_hosts: int, caller: Caller) -> None:
        self.wishes.append((shard_hosts, caller.actor))

    async def cluster(self) -> dict[str, Any]:
        return {"wishes": len(self.wishes)}


class Knowing:
    """Finds out who asks: whoever says so."""

    def __init__(self, *scopes: Scope) -> None:
        self._scopes = frozenset(scopes)

    async def principal(self, *_: object) -> Principal:
        return Principal(None, self._scopes, "token:1")


async def ask(scaled: Scaled, *arguments: Any, scope: Scope = Scope.OPERATOR, **more: Any) -> httpx.Response:
    app = FastAPI(dependencies=[Depends(guarded)], docs_url=None, openapi_url=None)
    app.state.guard = Guard(Knowing(scope), WriteLimiter(lambda: 0, lambda: 0.5), inspect_is_open=True)  # type: ignore[arg-type]
    add_problem_handlers(app)
    app.include_router(scale_router(scaled))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        return await client.request(*arguments, **more)


async def test_operator_asks_and_is_told_how_far_it_is() -> None:
    scaled = Scaled()
    answer = await ask(scaled, "PATCH", CLUSTER_PATH, json={"shard_hosts": 3})
    assert (answer.status_code, answer.json()) == (202, {"wishes": 1})
    assert scaled.wishes == [(3, "token:1")]
    assert (await ask(scaled, "GET", CLUSTER_PATH)).json() == {"wishes": 1}


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_nobody_else_may(method: str) -> None:
    scaled = Scaled()
    answer = await ask(scaled, method, CLUSTER_PATH, json={"shard_hosts": 3}, scope=Scope.TENANT_ADMIN)
    assert answer.status_code == 403
    assert scaled.wishes == []


@pytest.mark.parametrize(
    "body", [{}, {"shard_hosts": -1}, {"shard_hosts": 1025}, {"shard_hosts": "3"}, {"hosts": 3}, []]
)
async def test_what_is_no_number_of_hosts_is_refused(body: Any) -> None:
    scaled = Scaled()
    answer = await ask(scaled, "PATCH", CLUSTER_PATH, json=body)
    assert answer.status_code == 400
    assert scaled.wishes == []
