"""``millrace tenants list|show|enable|activate|dry-run|pause|block``, against the API over a real store."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tenants.control.figures import TenantFigures
from tenants.identity.access import Scope
from tests.unit.served_service import ServedService

NO_DOCUMENTS = "multitenancy_enabled: true\n"


def figures() -> dict[str, dict[str, TenantFigures]]:
    acme = TenantFigures(spans=5000, bytes=123_456, samples_sent=900, active_series=70, series_demand=80)
    acme.discarded = Counter({("gateway", "rate_limited"): 12, ("span_metrics", "span_metrics_filtered"): 3})
    return {"gateway-0": {"acme": acme, "globex": TenantFigures(spans=1)}}


async def test_tenants_are_listed_with_what_they_send_and_cost(tmp_path: Path) -> None:
    async with ServedService(tmp_path) as service:
        service.bench.figures = figures()
        assert (await service.run("tenants", "block", "globex")).exit_code == 0
        shown = await service.run("tenants", "list")
        assert shown.exit_code == 0, shown.output
        lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
        assert "acme active 5,000 15 70 80 900" in lines
        assert "globex blocked 1 0 0 0 0" in lines
        found = json.loads((await service.run("tenants", "list", "--search", "glo", "--json")).stdout)
        assert [(row["tenant"], row["state"]) for row in found] == [("globex", "blocked")]


async def test_list_goes_on_over_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.commands.tenants.MAX_LISTED", 2)
    async with ServedService(tmp_path) as service:
        service.bench.figures = {"gateway-0": {f"t{number}": TenantFigures() for number in range(5)}}
        found = json.loads((await service.run("tenants", "list", "--json")).stdout)
        assert [row["tenant"] for row in found] == ["t0", "t1", "t2", "t3", "t4"]


async def test_one_tenant_is_shown_with_the_settings_that_are_its_own(tmp_path: Path) -> None:
    async with ServedService(tmp_path) as service:
        service.bench.figures = figures()
        assert (await service.run("tenants", "enable", "acme")).exit_code == 0
        shown = await service.run("tenants", "show", "acme")
        assert shown.exit_code == 0, shown.output
        lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
        assert "received 5,000 spans, 123,456 bytes" in lines
        assert "not generated 12 rate_limited (gateway), 3 span_metrics_filtered (span_metrics)" in lines
        assert 'metrics_generator.processors ["service-graphs", "span-metrics"] api' in lines
        assert not any(line.startswith("ingestion.rate_limit_bytes") for line in lines)
        found = json.loads((await service.run("tenants", "show", "acme", "--json")).stdout)
        assert found["settings"]["ingestion.rate_limit_bytes"]["source"] == "builtin"


@pytest.mark.parametrize(
    ("command", "state", "said"),
    [
        ("dry-run", "dry_run", "acme runs dry: its series are counted, and none is sent"),
        ("pause", "paused", "acme is paused: its spans are accepted, and nothing is generated"),
        ("block", "blocked", "acme is blocked: its spans are refused"),
        ("activate", "active", "acme is active: its spans are generated from, its series are sent"),
    ],
)
async def test_state_is_changed_and_in_force(tmp_path: Path, command: str, state: str, said: str) -> None:
    async with ServedService(tmp_path) as service:
        await service.run("tenants", "pause" if state != "paused" else "block", "acme")
        shown = await service.run("tenants", command, "acme", "--note", "by test")
        assert (shown.exit_code, shown.stdout) == (0, f"{said}\n")
        known = (await service.bench.ask("GET", "/api/admin/tenants/acme", token=service.token)).json()
        assert (known["state"], known["note"]) == (state, "by test")
        # Without a note the former stays.
        shown = await service.run("tenants", command, "acme", "--json")
        assert json.loads(shown.stdout).items() >= {"state": state, "note": "by test", "is_done": True}.items()


async def test_what_is_not_in_force_in_time_ends_with_1(tmp_path: Path) -> None:
    async with ServedService(tmp_path) as service:
        service.bench.holds_back = True
        for command in (("pause", "acme"), ("enable", "globex")):
            shown = await service.run("tenants", *command, "--timeout", "0.05")
            assert shown.exit_code == 1
            assert shown.stdout == "not everywhere after 0.05 s; it goes on, ask again later\n"
            assert (await service.run("tenants", *command, "--timeout", "0")).exit_code == 0


async def test_processors_are_listed_in_the_document_and_the_rest_stays(tmp_path: Path) -> None:
    async with ServedService(tmp_path) as service:
        own = {"metrics_generator": {"collection_interval": "30s"}}
        await service.bench.ask("PATCH", "/api/overrides", token=service.token, body=own)
        shown = await service.run("tenants", "enable", "acme", "--processor", "host-info")
        assert (shown.exit_code, shown.stdout) == (0, "acme generates host-info\n")
        document = (await service.bench.ask("GET", "/api/overrides", token=service.token)).json()
        assert document == {"metrics_generator": {"collection_interval": "30s", "processors": ["host-info"]}}


async def test_tenant_can_enable_itself_with_its_own_token(tmp_path: Path) -> None:
    config = f"auth: {{mode: token}}\n{NO_DOCUMENTS}overrides: {{user_configurable_overrides: {{enabled: true}}}}\n"
    async with ServedService(tmp_path, config) as service:
        token = await service.bench.token(Scope.TENANT_ADMIN, tenant="acme")
        shown = await service.run("tenants", "enable", "acme", "--json", token=token)
        assert shown.exit_code == 0, shown.output
        assert json.loads(shown.stdout)["processors"] == ["service-graphs", "span-metrics"]
        assert (await service.run("tenants", "enable", "globex", token=token)).exit_code == 2


async def test_state_that_keeps_it_from_generating_is_said(tmp_path: Path) -> None:
    async with ServedService(tmp_path) as service:
        await service.run("tenants", "pause", "acme")
        shown = await service.run("tenants", "enable", "acme")
        assert shown.exit_code == 0
        assert "once its state lets it" in shown.stdout
        assert "millrace tenants activate acme" in shown.stdout


async def test_what_the_service_refuses_is_passed_on(tmp_path: Path) -> None:
    async with ServedService(tmp_path, NO_DOCUMENTS) as service:
        shown = await service.run("tenants", "enable", "acme")
        assert shown.exit_code == 2
        assert "overrides.user_configurable_overrides.enabled switches them on" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pause", "a/b"), "TENANT "),
        (("show", ""), "TENANT "),
        (("enable", "acme", "--processor", "spam"), "--processor: 'spam'"),
    ],
)
async def test_what_makes_no_sense_is_not_asked_for(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    async with ServedService(tmp_path) as service:
        shown = await service.run("tenants", *arguments)
        assert shown.exit_code == 2
        assert shown.stderr.startswith(f"millrace: {said}")
