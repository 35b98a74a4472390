"""The alert rules, judged by promtool: valid, firing when they should and only then; and what they say, by us.

Of each alert ``alert_cases.yaml`` has what it fires on, and something like it that must leave it quiet.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.main import get_command

from cluster.cli import app
from cluster.declarations import DECLARED
from cluster.gateway.dispatch import MAX_QUEUED_BYTES
from cluster.gateway.refusal import RefusalReason
from tenants.endpoint import EndpointState
from tenants.settings.remote_write import RemoteWriteEndpoint
from tenants.settings.service_config import ServiceConfig
from tests.unit.k8s_rendering import ROOT, rendered

ALERTS: Final = ROOT / "k8s" / "alerts"
RUNBOOKS: Final = ROOT / "k8s" / "runbooks" / "alerts.md"
FILES: Final = sorted(ALERTS.glob("*.rules.yaml"))
CASES: Final[dict[str, dict[str, Any]]] = yaml.safe_load(Path(__file__).with_name("alert_cases.yaml").read_text())

Rule = dict[str, Any]
BY_FILE: Final[dict[Path, dict[str, Rule]]] = {
    file: {rule["alert"]: rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]}
    for file in FILES
}
RULES: Final[dict[str, Rule]] = {alert: rule for rules in BY_FILE.values() for alert, rule in rules.items()}


def promtool(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("promtool")
    if binary is None:
        pytest.fail("promtool is not on PATH (Debian: apt-get install prometheus)", pytrace=False)
    command = [binary, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_rules_are_valid(tmp_path: Path) -> None:
    checked = promtool("check", "rules", *map(str, FILES), folder=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_a_case_that_it_fires_on_and_one_that_it_does_not() -> None:
    assert CASES.keys() == RULES.keys()
    assert all(case.keys() == {"fires", "quiet"} for case in CASES.values())
    assert len(RULES) == sum(map(len, BY_FILE.values()))


def unit_test(alert: str, case: Rule, *, fires: bool) -> Rule:
    """Return a test as promtool reads it: whether the alert fires with the labels of the case, or never did."""
    firing = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    labels = {"alertname": alert, "severity": RULES[alert]["labels"]["severity"], **case.get("as", {})}
    text = ",".join(f'{name}="{value}"' for name, value in labels.items())
    expected = {
        "expr": f"sum without (alertstate) ({firing})" if fires else f"count_over_time({firing}[1d])",
        "eval_time": case["at"],
        "exp_samples": [{"labels": f"{{{text}}}", "value": 1}] if fires else [],
    }
    series = [{"series": name, "values": values} for name, values in case["series"].items()]
    return {"interval": "1m", "input_series": series, "promql_expr_test": [expected]}


def outcome(tests: dict[str, list[Rule]], folder: Path) -> str:
    """Return what promtool complains of in the tests of these alerts; nothing if all is as the tests say."""
    written = []
    for file, rules in BY_FILE.items():
        own = [test for alert in rules for test in tests.get(alert, [])]
        written.append(f"{file.stem}.test.yaml")
        document = {"rule_files": [str(file)], "evaluation_interval": "1m", "tests": own}
        (folder / written[-1]).write_text(yaml.safe_dump(document))
    tested = promtool("test", "rules", *written, folder=folder)
    return "" if tested.returncode == 0 else tested.stdout + tested.stderr


def test_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    tests = {
        alert: [unit_test(alert, case[kind], fires=kind == "fires") for kind in case] for alert, case in CASES.items()
    }
    assert outcome(tests, tmp_path) == ""


@pytest.mark.parametrize("alert", ["MillraceActorDown", "MillraceLedgerOpen"])
def test_cases_would_notice_an_alert_that_always_fires_or_never(tmp_path: Path, alert: str) -> None:
    fires, quiet = CASES[alert]["fires"], CASES[alert]["quiet"]
    assert "FAILED" in outcome({alert: [unit_test(alert, fires, fires=False)]}, tmp_path)
    assert "FAILED" in outcome({alert: [unit_test(alert, quiet | {"as": fires["as"]}, fires=True)]}, tmp_path)


def test_rules_and_their_cases_speak_of_metrics_and_labels_that_there_are() -> None:
    expressions = [rule["expr"] for rule in RULES.values()]
    expressions += [series for case in CASES.values() for kind in case.values() for series in kind["series"]]
    assert not [expression for expression in expressions if "millrace_" not in expression]
    for expression in expressions:
        assert set(re.findall(r"millrace_[a-z_]+", expression)) <= DECLARED.keys()
        for name, labels in re.findall(r"(millrace_[a-z_]+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)[=!]", labels)) <= {"actor", *DECLARED[name].labels}, name


def test_values_of_labels_are_those_that_there_are() -> None:
    text = "".join(rule["expr"] for rule in RULES.values())
    states = set(re.findall(r'state=~?"([a-z_]+?)(?:\.\*)?"', text))
    assert states
    assert all(any(str(state).startswith(prefix) for state in EndpointState) for prefix in states)
    answers = {answer for found in re.findall(r'answer[=!]~?"([a-z_|]+)"', text) for answer in found.split("|")}
    assert answers <= {"ok", *RefusalReason}
    assert "overloaded" in answers


def test_bounds_are_those_of_the_service() -> None:
    queued, retained = RULES["MillraceGatewayQueueFull"]["expr"], RULES["MillraceRetainedNearLimit"]["expr"]
    assert queued.endswith(f"> {MAX_QUEUED_BYTES * 4 // 5}")
    assert retained.endswith(f"> {ServiceConfig().cluster.retained_bytes * 4 // 5}")
    waiting = RemoteWriteEndpoint.model_fields["queue_max_bytes"].default
    assert RULES["MillraceBacklogNearBound"]["expr"].endswith(f"> {waiting * 3 // 4}")


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for alert, rule in RULES.items():
        annotations = rule["annotations"]
        assert set(annotations) == {"summary", "description", "runbook_url"}
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        used = set(re.findall(r"\$labels\.(\w+)", annotations["summary"] + annotations["description"]))
        # What is said of an alert names whom it is about, and nothing that it has not.
        assert used == set(CASES[alert]["fires"]["as"]), alert


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    sections = re.split(r"^## ", RUNBOOKS.read_text(), flags=re.MULTILINE)[1:]
    runbooks = {section.partition("\n")[0]: section for section in sections}
    assert list(runbooks) == list(RULES)
    for alert, text in runbooks.items():
        # As GitHub and GitLab make anchors of headings.
        assert RULES[alert]["annotations"]["runbook_url"] == f"k8s/runbooks/alerts.md#{alert.lower()}"
        for part in ("Meaning", "Impact", "Look", "Mend"):
            assert len(re.findall(rf"^\*\*{part}\.\*\* \S", text, re.MULTILINE)) == 1, (alert, part)
        assert set(re.findall(r"\bmillrace_[a-z_]+", text)) <= DECLARED.keys(), alert


def test_runbooks_type_commands_that_there_are() -> None:
    typed = re.findall(r"`millrace ([a-z-]+)(?: ([a-z-]+)\b)?(.*?)`", RUNBOOKS.read_text().replace("\n", " "))
    assert {command for command, _, _ in typed} >= {"status", "top", "tenants", "doctor"}
    for name, sub_name, options in typed:
        command = get_command(app).commands[name]
        if sub_name and hasattr(command, "commands"):
            command = command.commands[sub_name]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", options)) <= known, (name, sub_name)


def test_prometheus_rules_are_the_rule_files() -> None:
    objects = rendered("alerts")
    assert {(item["apiVersion"], item["kind"]) for item in objects} == {("monitoring.coreos.com/v1", "PrometheusRule")}
    specs = {item["metadata"]["name"]: item["spec"] for item in objects}
    files = {f"millrace-{file.name.removesuffix('.rules.yaml')}": yaml.safe_load(file.read_text()) for file in FILES}
    assert specs == files, "make alerts"
