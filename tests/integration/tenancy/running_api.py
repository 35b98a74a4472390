"""The API of a running service, as one test asks it: with tenants of the test's own."""

from collections.abc import Mapping
from typing import Any, Final

import httpx

from tests.integration.service import MillraceProcess

OVERRIDES: Final = "/api/overrides"
DOCUMENTS: Final[Mapping[str, Any]] = {"enabled": True, "poll_interval": "100ms"}
"""``user_configurable_overrides`` that let tenants have documents."""


class RunningApi:
    """Asks as :class:`tests.unit.control_plane_bench.ControlPlaneBench` does, over real HTTP.

    Args:
        service: what is asked.
        ending: of the names of all tenants, so that tests can use the same names on one service.
    """

    def __init__(self, service: MillraceProcess, ending: str) -> None:
        self._service = service
        self._ending = ending

    def name(self, tenant: str) -> str:
        """The tenant's name at the service."""
        return f"{tenant}-{self._ending}"

    async def ask(self, method: str, path: str, *, tenant: str | None = "acme", **rest: Any) -> httpx.Response:
        """Send one request."""
        named = None if tenant is None else self.name(tenant)
        return await self._service.ask(method, path, tenant=named, **rest)

    async def written(self, method: str, body: object = None, *, tenant: str = "acme", **headers: str) -> int:
        """Change the document and wait until that is in force everywhere; return the revision."""
        answer = await self.ask(method, OVERRIDES, tenant=tenant, body=body, **headers)
        assert answer.is_success, answer.text
        revision = int(answer.headers["x-overrides-revision"])
        path = f"{OVERRIDES}?scope=merged&min_revision={revision}&wait=10s"
        waited = await self.ask("GET", path, tenant=tenant)
        assert waited.status_code == 200, waited.text
        return revision

    async def merged(self, key: str, *, tenant: str = "acme") -> Any:
        """Return what is in force for the generator of a tenant."""
        answer = await self.ask("GET", f"{OVERRIDES}?scope=merged", tenant=tenant)
        assert answer.status_code == 200, answer.text
        return answer.json()["metrics_generator"][key]
