"""The admin API: states, limits, audit; and what operators see of a tenant."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tenants.control.figures import TenantFigures
from tenants.identity.access import Scope
from tenants.identity.tenant_id import TenantId
from tenants.settings.tenant_settings import resolve
from tenants.settings.tenant_state import TenantState
from tests.unit.control_plane_bench import ControlPlaneBench

TENANT = "/api/admin/tenants/acme"
ACME = TenantId("acme")


class Admin:
    """The bench, with an operator's token in every request."""

    def __init__(self, bench: ControlPlaneBench, token: str) -> None:
        self.bench = bench
        self._token = token

    async def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return await self.bench.ask(method, path, tenant=None, token=self._token, **arguments)

    def settings(self) -> Any:
        return resolve(self.bench.config, self.bench.settings.overrides, ACME)


@pytest_asyncio.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    runtime = {"acme": {"metrics_generator": {"processors": ["span-metrics"]}}, "*": {}}
    async with ControlPlaneBench(tmp_path, runtime=runtime) as bench:
        yield Admin(bench, await bench.token(Scope.OPERATOR))


async def test_states_are_in_force_at_once(admin: Admin) -> None:
    for state in ("dry_run", "paused", "blocked", "active"):
        answer = await admin.ask("PATCH", TENANT, body={"state": state})
        assert (answer.status_code, answer.json()["state"]) == (200, state)
        settings = admin.settings()
        assert settings.state is TenantState(state)
        assert settings.is_generating == (state in {"active", "dry_run"})
        assert settings.disable_collection == (state == "dry_run")


async def test_limits_win_over_the_runtime_file(admin: Admin) -> None:
    limits = {"ingestion": {"rate_limit_bytes": 0}, "metrics_generator": {"max_active_series": 7}}
    answer = await admin.ask("PATCH", TENANT, body={"limits": limits})
    assert answer.json()["limits"] == limits
    assert (admin.settings().ingestion.rate_limit_bytes, admin.settings().max_active_series) == (0, 7)
    shown = (await admin.ask("GET", TENANT)).json()["settings"]
    assert shown["metrics_generator.max_active_series"] == {"value": 7, "source": "operator"}
    # What is left out stays; an empty mapping takes all away.
    await admin.ask("PATCH", TENANT, body={"note": "pays late"})
    assert admin.settings().max_active_series == 7
    await admin.ask("PATCH", TENANT, body={"limits": {}})
    assert admin.settings().max_active_series == 0


@pytest.mark.parametrize(
    "body",
    [
        {"limits": {"ingestion": {"rate_limit_bytes": -1}}},
        {"limits": {"metrics_generator": {"processors": ["span-metrics"]}}},
        {"limits": {"metrics_generator": {"remote_write_headers": {"A": "b"}}}},
        {"limits": {"metrics_generator": 5}},
        {"limits": {"nope": 1}},
        {"state": "asleep"},
        {"surprise": 1},
        [],
    ],
)
async def test_bad_changes_change_nothing(admin: Admin, body: Any) -> None:
    answer = await admin.ask("PATCH", TENANT, body=body)
    assert answer.status_code == 400
    assert answer.json()["violations"]
    assert (await admin.ask("GET", TENANT)).json()["revision"] == 0


async def test_revisions(admin: Admin) -> None:
    assert (await admin.ask("PATCH", TENANT, body={"state": "paused"}, If_Match="1")).status_code == 412
    assert (await admin.ask("PATCH", TENANT, body={"state": "paused"}, If_Match="0")).headers["etag"] == '"1"'
    assert (await admin.ask("PATCH", TENANT, body={"state": "active"}, If_Match='"1"')).headers["etag"] == '"2"'
    assert (await admin.ask("PATCH", TENANT, body={"state": "paused"}, If_Match="1")).status_code == 412


async def test_every_change_is_in_the_audit(admin: Admin) -> None:
    await admin.ask("PATCH", TENANT, body={"state": "paused"})
    await admin.bench.ask("PATCH", "/api/overrides", body={"metrics_generator": {"disable_collection": True}})
    made = (await admin.bench.ask("POST", "/api/tokens", body={"scopes": ["ingest"], "note": "sdk"})).json()
    await admin.bench.ask("DELETE", f"/api/tokens/{made['id']}")
    await admin.bench.ask("DELETE", "/api/overrides", If_Match="1")
    entries = (await admin.ask("GET", "/api/admin/audit?tenant=acme")).json()["entries"]
    assert [(entry["action"], entry["actor"].partition(":")[0]) for entry in entries] == [
        ("overrides.delete", "header"),
        ("token.revoke", "header"),
        ("token.create", "header"),
        ("overrides.patch", "header"),
        ("tenant.change", "token"),
    ]
    assert entries[3]["detail"]["changed"] == ["metrics_generator.disable_collection"]
    assert entries[3]["source_ip"] == "127.0.0.1"
    assert all(entry["at"].endswith("Z") for entry in entries)
    rest = (await admin.ask("GET", f"/api/admin/audit?tenant=acme&before={entries[1]['id']}&limit=2")).json()["entries"]
    assert [entry["id"] for entry in rest] == [entry["id"] for entry in entries[2:4]]
    everything = (await admin.ask("GET", "/api/admin/audit")).text
    assert made["token"] not in everything


async def test_all_tenants(admin: Admin) -> None:
    figures = TenantFigures(spans=5, bytes=50, active_series=3)
    figures.discarded[("gateway", "rate_limited")] = 2
    figures.ledger |= {("gateway", "received"): 4, ("gateway", "duplicate"): 4}
    figures.discarded[("all", "outside_metrics_ingestion_slack")] = 1
    admin.bench.figures = {"g": {"acme": figures, "newcomer": TenantFigures(spans=1), "__other__": TenantFigures(1)}}
    await admin.bench.ask("PATCH", "/api/overrides", tenant="globex", body={})
    rows = (await admin.ask("GET", "/api/admin/tenants")).json()["tenants"]
    assert [(row["tenant"], row["layers"]) for row in rows] == [
        ("acme", ["tenant", "wildcard"]),
        ("globex", ["api", "wildcard"]),
        ("newcomer", ["wildcard"]),
    ]
    assert rows[0]["accepted"] == {
        "spans_received": 5,
        "bytes_received": 50,
        "refused": [{"stage": "gateway", "reason": "rate_limited", "spans": 2}],
        "discarded": [{"stage": "all", "reason": "outside_metrics_ingestion_slack", "spans": 1}],
    }
    assert (rows[0]["ledger"]["received"], rows[0]["ledger"]["discarded"]) == (4, {"duplicate": 4})
    page = (await admin.ask("GET", "/api/admin/tenants?limit=1&after=acme")).json()
    assert ([row["tenant"] for row in page["tenants"]], page["next_after"]) == (["globex"], "globex")
    found = (await admin.ask("GET", "/api/admin/tenants?search=com")).json()["tenants"]
    assert [row["tenant"] for row in found] == ["newcomer"]
    assert (await admin.ask("GET", "/api/admin/tenants/bad%20name")).status_code == 400


async def test_a_closed_registry_lets_in_those_that_are_known(tmp_path: Path) -> None:
    config = "multitenancy_enabled: true\ntenant_registry: closed"
    async with ControlPlaneBench(tmp_path, config, {"filed": {}}) as bench:
        admin = Admin(bench, await bench.token(Scope.OPERATOR))
        assert admin.settings().state is TenantState.BLOCKED
        assert resolve(bench.config, bench.settings.overrides, TenantId("filed")).state is TenantState.ACTIVE
        await admin.ask("PATCH", TENANT, body={"state": "active"})
        assert admin.settings().state is TenantState.ACTIVE


async def test_a_damaged_record_is_said_and_can_be_written_anew(admin: Admin, tmp_path: Path) -> None:
    await admin.ask("PATCH", TENANT, body={"state": "paused"})
    with contextlib.closing(sqlite3.connect(tmp_path / "millrace.db")) as database, database:
        database.execute("UPDATE tenants SET limits = '{' WHERE tenant = 'acme'")
    answer = await admin.ask("GET", TENANT)
    assert (answer.status_code, "damaged" in answer.json()["detail"]) == (500, True)
    assert (await admin.ask("GET", "/api/admin/tenants")).status_code == 200
    answer = await admin.ask("PATCH", TENANT, body={"state": "active", "limits": {}, "note": ""})
    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
    assert (await admin.ask("GET", TENANT)).json()["state"] == "active"
