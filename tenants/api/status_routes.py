"""``/status/overrides`` and ``/status/runtime_config``: the layers, and what follows from them (tenancy §6.1).

The JSON has the reference's members, and the effective settings beside them, which it lacks. Secrets are masked.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

import yaml
from fastapi import Path, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from tenants.api.access import Access, GuardedRouter
from tenants.api.problem_response import PROBLEM_RESPONSES
from tenants.api.times import time_text
from tenants.control.effective import EffectiveSettings
from tenants.control.in_force import SettingsInForce
from tenants.control.problem import ProblemError, ProblemKind
from tenants.identity.tenant_id import TenantId
from tenants.settings.overrides import WILDCARD, Overrides
from tenants.settings.plain import plain
from tenants.settings.service_config import ServiceConfig

PREFIX: Final = "/status/overrides"

_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "As text, or as JSON if that is accepted.", "content": {"text/plain": {}}}
}

_DEFAULTS: Final = "default overrides"
# A tenant without any layer of its own, to compare with; reserved, so nobody's.
_NOBODY: Final = "millrace-nobody"


class StatusRoutes:
    """The endpoints."""

    def __init__(
        self,
        config: ServiceConfig,
        in_force: SettingsInForce,
        effective: EffectiveSettings,
        clock_ms: Callable[[], int],
    ) -> None:
        self._config = config
        self._in_force = in_force
        self._effective = effective
        self._clock_ms = clock_ms

    def router(self) -> GuardedRouter:
        """Return the routes."""
        router = GuardedRouter(tags=["status"], responses=PROBLEM_RESPONSES)
        add, access = router.route_for, Access.INSPECT
        add("GET", PREFIX, access, summary="Tenants with layers of their own", responses=_ANSWERS)(self.list)
        add("GET", f"{PREFIX}/{{tenant}}", access, summary="Layers and settings of a tenant", responses=_ANSWERS)(
            self.one
        )
        add(
            "GET",
            "/status/runtime_config",
            access,
            summary="All layers as YAML",
            response_class=PlainTextResponse,
        )(self.runtime_config)
        return router

    async def list(self, *, request: Request) -> Response:
        """Return every tenant with an entry or a document, by name; JSON if that is accepted, else a table."""
        overrides = self._in_force.overrides
        rows = [
            {
                "name": name,
                "has_runtime_overrides": name in overrides.runtime,
                "has_user_configurable_overrides": name in overrides.documents,
            }
            for name in sorted(overrides.runtime.keys() | overrides.documents.keys())
        ]
        if _wants_json(request):
            return JSONResponse({"now": time_text(self._clock_ms()), "tenants": rows})
        lines = ["TENANT  RUNTIME FILE  DOCUMENT"]
        lines += [
            f"{row['name']}  {_mark(row['has_runtime_overrides'])}  {_mark(row['has_user_configurable_overrides'])}"
            for row in rows
        ]
        return PlainTextResponse("\n".join(lines) + "\n")

    async def one(self, *, request: Request, tenant: Annotated[str, Path(max_length=150)]) -> Response:
        """Return the layers of a tenant as YAML, and every setting in force with the layer that it came from."""
        try:
            found = TenantId(tenant)
        except ValueError as error:
            raise ProblemError(ProblemKind.INVALID_TENANT, f"the path {error}") from None
        overrides = self._in_force.overrides
        source, entry = self._entry(tenant)
        settings = self._effective.for_operator(found)
        content = {
            "now": time_text(self._clock_ms()),
            "tenant": tenant,
            "user_configurable_overrides": _yaml(overrides.documents.get(tenant)),
            "runtime_overrides": _yaml(entry),
            "runtime_overrides_source": source,
            "using_default_or_wildcard_runtime_overrides": source != tenant,
            "settings": settings,
        }
        if _wants_json(request):
            return JSONResponse(content)
        lines = [f"tenant: {tenant}", f"runtime overrides: {source}", ""]
        lines += [f"{key}: {_inline(found['value'])}  # {found['source']}" for key, found in settings.items()]
        return PlainTextResponse("\n".join(lines) + "\n")

    async def runtime_config(self, *, mode: str = "") -> PlainTextResponse:
        """Return defaults, entries and documents; with `mode=diff` what differs for each tenant from what others get.

        A difference counts by value: also one that came about because an entry used whole left the key out.
        """
        overrides = self._in_force.overrides
        entries = {"defaults": plain(self._config.overrides.defaults), "overrides": plain(overrides.runtime)}
        documents = {"user_configurable_overrides": plain(overrides.documents)}
        if mode == "diff":
            names = sorted((overrides.runtime.keys() | overrides.documents.keys()) - {WILDCARD})
            entries = {"differences": {name: self._differences(TenantId(name)) for name in names}}
        text = f"# Overrides in force, version {overrides.version}\n{_dump(entries)}"
        return PlainTextResponse(text if mode == "diff" else f"{text}---\n{_dump(documents)}")

    def _differences(self, tenant: TenantId) -> dict[str, Any]:
        others = self._effective.for_operator(TenantId(_NOBODY))
        own = self._effective.for_operator(tenant)
        return {key: found for key, found in own.items() if found["value"] != others.get(key, {}).get("value")}

    def _entry(self, tenant: str) -> tuple[str, Overrides]:
        runtime = self._in_force.overrides.runtime
        for name in (tenant, WILDCARD):
            if name in runtime:
                return name, runtime[name]
        return _DEFAULTS, self._config.overrides.defaults


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def _mark(has: object) -> str:
    return "yes" if has else "no"


def _yaml(overrides: Overrides | None) -> str:
    return "" if overrides is None else _dump(_pruned(plain(overrides)))


def _pruned(value: Any) -> Any:
    """Leave out the empty mappings that stand for nothing."""
    if not isinstance(value, dict):
        return value
    kept = {key: _pruned(inner) for key, inner in value.items()}
    return {key: inner for key, inner in kept.items() if inner != {}}


def _dump(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=True, allow_unicode=True)
    return text


def _inline(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("...").strip()
