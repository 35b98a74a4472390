"""How commands reach the service: which address, which token, and what they say when it does not work."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.commands.service_access import Reach
from cluster.demo.ports import free_port
from cluster.errors import CommandError
from tests.unit.served_service import ServedService


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:81", "http://127.0.0.1:81"),
        ("0.0.0.0:81", "http://127.0.0.1:81"),
        ("'[::]:81'", "http://[::1]:81"),
        ("'[::1]:81'", "http://[::1]:81"),
        ("millrace.example:81", "http://millrace.example:81"),
        ("127.0.0.1:0", None),
    ],
)
def test_address_is_that_of_the_configuration(tmp_path: Path, listen: str, url: str | None) -> None:
    file = tmp_path / "millrace.yaml"
    file.write_text(f"listen: {{http: {listen}, otlp_http: '127.0.0.1:82'}}\n")
    reach = Reach(config=file)
    assert reach.gateway_address({}) == "http://127.0.0.1:82"
    if url is None:
        with pytest.raises(CommandError, match=r"listen.http takes any free port; give .* with --url"):
            reach.address({})
    else:
        assert reach.address({}) == url
        assert Reach("http://other:1", file).address({}) == "http://other:1"


def test_address_of_an_encrypted_port_is_https(tmp_path: Path) -> None:
    file = tmp_path / "millrace.yaml"
    file.write_text("listen: {http_tls: {cert_file: a.pem, key_file: b.pem}}\n")
    assert Reach(config=file).address({}) == "https://127.0.0.1:8080"


@pytest.mark.parametrize("url", ["localhost:8080", "http://", "ftp://h/", "http://[::1", "/status"])
def test_what_is_no_address_is_said(url: str) -> None:
    shown = CliRunner().invoke(app, ["status", "--url", url])
    assert shown.exit_code == 2
    assert "is no address" in shown.stderr
    assert "Traceback" not in shown.output


def test_authorities_that_are_none_are_said(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    for text in (None, "nothing"):
        if text:
            file.write_text(text)
        shown = CliRunner().invoke(app, ["status", "--ca-file", str(file)])
        assert shown.exit_code == 2
        assert f"--ca-file {file} cannot be used" in shown.stderr


@pytest.mark.parametrize("command", [("status",), ("top", "--once"), ("tenants", "list"), ("tenants", "pause", "acme")])
def test_service_that_is_not_there_is_named_without_the_token(command: tuple[str, ...]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    shown = CliRunner(env={"MILLRACE_TOKEN": "s3cret"}).invoke(app, [*command, "--url", url])
    assert shown.exit_code == 2
    assert f"no service answers at {url}" in shown.stderr
    assert "s3cret" not in shown.output


@pytest.mark.parametrize("command", [("list",), ("show", "acme"), ("pause", "acme")])
def test_what_is_for_operators_says_where_to_get_a_token(command: tuple[str, ...]) -> None:
    shown = CliRunner(env={"MILLRACE_TOKEN": " "}).invoke(app, ["tenants", *command])
    assert shown.exit_code == 2
    assert "millrace tokens create --scope operator" in shown.stderr


async def test_refused_token_is_said(tmp_path: Path) -> None:
    async with ServedService(tmp_path, "auth: {mode: token}\nmultitenancy_enabled: true\n") as service:
        for token, said in (("", "put an operator's token into MILLRACE_TOKEN"), ("mr_wrong", "may have expired")):
            shown = await service.run("status", token=token)
            assert shown.exit_code == 2
            assert said in shown.stderr
        assert (await service.run("status")).exit_code == 0
