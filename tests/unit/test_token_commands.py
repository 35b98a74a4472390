"""``millrace tokens``: against a store on disk, as an operator types it."""

import asyncio
import getpass
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cluster.cli import app
from tenants.identity.access import Scope
from tenants.identity.token import parse_token
from tests.unit.control_plane_bench import ControlPlaneBench

CONFIG = "data_dir: {}\nmultitenancy_enabled: true\nauth: {{mode: token}}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "millrace.yaml"
    path.write_text(CONFIG.format(tmp_path))
    return path


def run(config: Path, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["tokens", *arguments, "--config", str(config)])


def test_a_token_is_made_printed_once_listed_and_revoked(config: Path) -> None:
    made = run(config, "create", "--scope", "operator", "--note", "first")
    text = made.stdout.strip()
    token = parse_token(text)
    assert made.exit_code == 0
    assert token is not None
    listed = run(config, "list")
    assert token.token_id in listed.stdout
    assert "first" in listed.stdout
    assert "valid" in listed.stdout
    assert token.secret not in listed.stdout
    assert run(config, "revoke", token.token_id).exit_code == 0
    assert "revoked" in run(config, "list").stdout


def test_a_user_without_a_name_makes_one_too(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", no_name)
    made = run(config, "create", "--scope", "operator")
    assert made.exit_code == 0, made.stderr
    assert run(config, "revoke", made.stdout.strip().split("_")[1]).exit_code == 0


async def test_a_running_service_takes_it_at_once(config: Path, tmp_path: Path) -> None:
    async with ControlPlaneBench(tmp_path, CONFIG.format(tmp_path)) as bench:
        arguments = ("create", "--scope", "tenant-admin", "--tenant", "acme", "--days", "1")
        made = await asyncio.to_thread(run, config, *arguments)
        assert made.exit_code == 0, made.stderr
        token = made.stdout.strip()
        assert (await bench.ask("GET", "/api/ledger", token=token, tenant=None)).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("create", "--scope", "operator", "--tenant", "acme"), "scope operator"),
        (("create", "--scope", "ingest", "--tenant", "a/b"), "is not a tenant id"),
        (("revoke", "0123456789abcdef"), "there is no such token"),
    ],
)
def test_what_cannot_be_is_said(config: Path, arguments: tuple[str, ...], problem: str) -> None:
    answer = run(config, *arguments)
    assert answer.exit_code == 2
    assert problem in answer.stderr


async def test_config_effective_shows_what_the_api_has_stored(tmp_path: Path) -> None:
    text = (
        f"data_dir: {tmp_path}\nmultitenancy_enabled: true\n"
        "overrides: {user_configurable_overrides: {enabled: true}}\n"
    )
    path = tmp_path / "millrace.yaml"

    def effective() -> dict[str, Any]:
        path.write_text(text)
        shown = CliRunner().invoke(app, ["config", "effective", "acme", "--json", "--config", str(path)])
        assert shown.exit_code == 0, shown.stderr
        found: dict[str, Any] = json.loads(shown.stdout)
        return found

    before = effective()
    assert before["metrics_generator.processors"] == {"value": [], "source": "builtin"}
    # Looking makes no store.
    assert not await asyncio.to_thread((tmp_path / "millrace.db").exists)
    async with ControlPlaneBench(tmp_path, text) as bench:
        await bench.ask("PATCH", "/api/overrides", body={"metrics_generator": {"processors": ["span-metrics"]}})
        operator = await bench.token(Scope.OPERATOR)
        change = {"state": "dry_run", "limits": {"metrics_generator": {"max_active_series": 5}}}
        await bench.ask("PATCH", "/api/admin/tenants/acme", tenant=None, token=operator, body=change)
    after = await asyncio.to_thread(effective)
    assert after["metrics_generator.processors"] == {"value": ["span-metrics"], "source": "api"}
    assert after["metrics_generator.max_active_series"] == {"value": 5, "source": "operator"}
    assert after["metrics_generator.disable_collection"] == {"value": True, "source": "state"}
