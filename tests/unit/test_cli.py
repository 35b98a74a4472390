from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cluster import service
from cluster.cli import app
from cluster.errors import StartError
from tenants.settings import ServiceConfig


class Serving:
    """What ``millrace serve`` was asked to run, and what becomes of it."""

    def __init__(self) -> None:
        self.outcome: int | Exception = 0
        self.asked: list[tuple[ServiceConfig, str | None]] = []

    def serve(self, config: ServiceConfig, ray_address: str | None) -> int:
        self.asked.append((config, ray_address))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Serving:
    made = Serving()
    monkeypatch.setattr(service, "serve", made.serve)
    return made


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "40"})


def test_without_a_file_every_default_is_served(serving: Serving) -> None:
    assert run("serve").exit_code == 0
    assert serving.asked == [(ServiceConfig(), None)]


def test_file_and_address_are_passed_on(serving: Serving, tmp_path: Path) -> None:
    file = tmp_path / "millrace.yaml"
    file.write_text("multitenancy_enabled: true\n")
    assert run("serve", "--config", str(file), "--ray-address", "ray:6379").exit_code == 0
    ((config, address),) = serving.asked
    assert (config.multitenancy_enabled, address) == (True, "ray:6379")


def test_names_in_the_file_are_read_from_the_environment(serving: Serving, tmp_path: Path) -> None:
    file = tmp_path / "millrace.yaml"
    file.write_text("single_tenant_id: ${WHO}\n")
    answer = CliRunner().invoke(app, ["serve", "--config", str(file)], env={"WHO": "acme"})
    assert answer.exit_code == 0
    assert str(serving.asked[0][0].single_tenant_id) == "acme"


def test_exit_code_of_the_service_is_that_of_the_command(serving: Serving) -> None:
    serving.outcome = 1
    assert run("serve").exit_code == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lisen: {}", "lisen (line 1): unknown key; did you mean listen?"),
        ("remote_write:\n- {url: 'ftp://h/'}", "remote_write[0].url (line 2): should be http:// or https://"),
        ("a: [", "line 2: cannot be read"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_fault_in_the_file_ends_with_2_and_its_place(
    serving: Serving, tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "millrace[prod].yaml"
    if text is not None:
        file.write_text(text)
    answer = run("serve", "--config", str(file))
    assert answer.exit_code == 2
    assert answer.stderr.startswith("millrace: ")
    assert said in answer.stderr
    assert str(file) in answer.stderr
    assert "Traceback" not in answer.output
    assert isinstance(answer.exception, SystemExit)
    assert serving.asked == []


@pytest.mark.parametrize(
    "message",
    [
        "cannot listen on [::1]:4318: in use",
        "data_dir /srv/[/b] cannot be made: Not a directory " + "and so on " * 20,
        "[red] is not a colour here",
    ],
)
def test_service_that_cannot_start_ends_with_2_and_the_message_as_it_is(serving: Serving, message: str) -> None:
    serving.outcome = StartError(message)
    answer = run("serve")
    assert answer.exit_code == 2
    assert answer.stderr == f"millrace: {message}\n"
    assert answer.stdout == ""


def test_bug_is_not_taken_for_a_fault(serving: Serving) -> None:
    serving.outcome = RuntimeError("bug")
    answer = run("serve")
    assert answer.exit_code == 1
    assert isinstance(answer.exception, RuntimeError)


def test_help_names_the_commands() -> None:
    for arguments in ((), ("--help",)):
        text = run(*arguments).output
        assert "serve" in text
        assert "demo" in text


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("millrace te", {"tenants"}),
        ("millrace tenants p", {"pause"}),
        ("millrace tenants enable acme --processor service-graphs-l", {"service-graphs-latency"}),
        ("millrace top --sort l", {"lag"}),
    ],
)
def test_shell_completes_commands_and_values(typed: str, offered: set[str]) -> None:
    environ = {"_MILLRACE_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": typed}
    environ["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    answer = CliRunner().invoke(app, [], env=environ, prog_name="millrace")
    assert {line.split("\t")[0] for line in answer.stdout.splitlines()} == offered


def test_every_command_that_answers_can_answer_in_json() -> None:
    # What runs until it is ended, or writes a file.
    others = {"serve", "demo", "config convert"}
    for name, command in _commands(get_command(app)):
        has_json = any("--json" in parameter.opts for parameter in command.params)
        assert has_json is (name not in others), name


def _commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command
