"""``millrace config``: what is said of files and settings, and with which exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from tenants.settings.yaml_document import read_yaml

TEMPO = Path(__file__).with_name("tempo_overrides.yaml")
SECRET = "s3cr3t-value"


def run(*arguments: str | Path, **environment: str) -> Any:
    texts = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, ["config", *texts], env={"COLUMNS": "200", "FORCE_COLOR": "", **environment})


def file(folder: Path, text: str, name: str = "file.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# check


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "service configuration"),
        ("{}", "service configuration"),
        ("multitenancy_enabled: true", "service configuration"),
        ("overrides: {inheritance: replace}", "service configuration"),
        ("overrides: {defaults: {ingestion: {rate_limit_bytes: 1}}}", "service configuration"),
        ("log: {level: info}\noverrides: {}", "service configuration"),
        ("overrides: {acme: {}}", "runtime file"),
        ("overrides: {}", "runtime file"),
        ("overrides: {defaults: {}, acme: {}}", "runtime file"),
        ("overrides: {'*': {ingestion: {rate_limit_bytes: 1}}}", "runtime file"),
    ],
)
def test_either_kind_of_file_is_recognised_and_good(tmp_path: Path, text: str, kind: str) -> None:
    path = file(tmp_path, text, "file[1].yaml")
    answer = run("check", path)
    assert answer.exit_code == 0, answer.output
    assert f"{path}: a {kind}, without faults" in answer.stdout


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (
            "lisen: {}\nlog: {level: loud}\n",
            ["lisen (line 1): unknown key; did you mean listen?", "log.level (line 2): "],
        ),
        (
            "overrides:\n  acme: {nope: 1}\n  b/d: {}\n",
            ["overrides.acme.nope (line 2): ", 'overrides["b/d"] (line 3): '],
        ),
        ("overrides: {a: {}}\ndefaults: {}\n", ["defaults (line 2): unknown key"]),
        ("overrides:\n", ["is empty"]),
        ("a: [", ["line 2: cannot be read"]),
        ("a: 1\na: 2\n", ["a (line 2): occurs twice"]),
        ("single_tenant_id: ${UNHEARD_OF}\n", ["single_tenant_id (line 1): environment variable 'UNHEARD_OF'"]),
        (
            "overrides:\n  acme:\n    metrics_generator_processors: []\n",
            ["overrides.acme.metrics_generator_processors (line 3): ", "millrace config convert"],
        ),
    ],
)
def test_every_fault_has_its_path_and_line_and_the_exit_code_is_2(tmp_path: Path, text: str, faults: list[str]) -> None:
    path = file(tmp_path, text)
    answer = run("check", path)
    assert answer.exit_code == 2
    assert str(path) in answer.stderr
    for fault in faults:
        assert fault in answer.stderr
    assert not answer.stdout


def test_many_faults_are_all_listed(tmp_path: Path) -> None:
    lines = "".join(f"  t{index}: {{nope: 1}}\n" for index in range(120))
    answer = run("check", file(tmp_path, f"overrides:\n{lines}"))
    assert "120 faults" in answer.stderr
    assert answer.stderr.count("unknown key") == 120


def test_a_missing_file_ends_with_2(tmp_path: Path) -> None:
    answer = run("check", tmp_path / "none.yaml")
    assert answer.exit_code == 2
    assert "cannot be read: No such file" in answer.stderr


def test_keys_without_effect_are_listed() -> None:
    answer = run("check", TEMPO)
    assert answer.exit_code == 0
    assert "3 entries" in answer.stdout
    assert "  overrides.acme.compaction.block_retention\n" in answer.stdout
    assert "rate_limit_bytes" not in answer.stdout


def test_a_runtime_file_is_checked_with_what_it_inherits(tmp_path: Path) -> None:
    text = """
overrides:
  acme:
    metrics_generator:
      processor: {span_metrics: {dimension_mappings: [{name: http_route, source_labels: [a]}]}}
"""
    runtime = file(tmp_path, text)
    assert run("check", runtime).exit_code == 0
    below = "metrics_generator: {processor: {span_metrics: {dimensions: [http.route]}}}"
    answer = run("check", runtime, "--config", file(tmp_path, below, "millrace.yaml"))
    assert answer.exit_code == 2
    assert "dimension_mappings (line 5): " in answer.stderr


def test_with_a_service_configuration_the_file_is_a_runtime_file(tmp_path: Path) -> None:
    config = file(tmp_path, "", "millrace.yaml")
    answer = run("check", file(tmp_path, "overrides: {inheritance: {}}"), "--config", config)
    assert "a runtime file, without faults; 1 entry" in answer.stdout
    answer = run("check", config, "--config", file(tmp_path, "nope: 1"))
    assert answer.exit_code == 2
    assert "file.yaml" in answer.stderr


def test_faults_hold_no_secret(tmp_path: Path) -> None:
    text = f"""
overrides:
  acme: {{metrics_generator: {{remote_write_headers: {{Authorization: "{SECRET} "}}}}}}
  globex: {{metrics_generator: {{remote_write: [{{url: "http://user:{SECRET}@h/"}}]}}}}
"""
    answer = run("check", file(tmp_path, text))
    assert answer.exit_code == 2
    assert SECRET not in answer.output


# explain


def test_a_key_is_explained_in_full() -> None:
    answer = run("explain", "metrics_generator.collection_interval")
    assert answer.exit_code == 0
    for said in (
        "Time between two samples of a series.",
        "duration, 1s to 5m, in documents 15s to 5m",
        "default     15s",
        "documents of the API",
        "set by      tenants",
        "in force    within one collection interval",
    ):
        assert said in answer.stdout


def test_a_mapping_is_explained_with_its_keys_in_both_layers() -> None:
    answer = run("explain", "metrics_generator.processor.host_info")
    assert answer.stdout.count("metrics_generator.processor.host_info.metric_name") == 2
    assert answer.stdout.count("set by") == 2


def test_without_a_key_all_are_listed() -> None:
    answer = run("explain")
    assert answer.exit_code == 0
    assert "remote_write[].url" in answer.stdout
    assert "ingestion.rate_limit_bytes" in answer.stdout


def test_an_unknown_key_ends_with_2_and_those_that_may_be_meant() -> None:
    answer = run("explain", "metrics_generator.procesors")
    assert answer.exit_code == 2
    assert "did you mean metrics_generator.processors" in answer.stderr


# effective


@pytest.fixture
def config(tmp_path: Path) -> Path:
    runtime = f"""
overrides:
  "*": {{metrics_generator: {{max_active_series: 9}}, ingestion: {{rate_limit_bytes: 1000}}}}
  acme:
    metrics_generator:
      collection_interval: 15s
      processors: [span-metrics]
      remote_write_headers: {{Authorization: {SECRET}}}
      remote_write: [{{url: "https://metrics.example/", headers: {{X-Key: {SECRET}}}}}]
"""
    path = file(tmp_path, runtime, "overrides.yaml")
    return file(
        tmp_path,
        f"""
overrides:
  per_tenant_override_config: {path}
  defaults: {{metrics_generator: {{trace_id_label_name: trace}}}}
metrics_generator: {{processor: {{service_graphs: {{wait: 3s}}}}}}
""",
        "millrace.yaml",
    )


def test_effective_values_come_with_their_layer(config: Path) -> None:
    answer = run("effective", "acme", "--config", config, "--json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    expected = {
        "metrics_generator.collection_interval": ("15s", "tenant"),
        "metrics_generator.processors": (["span-metrics"], "tenant"),
        "metrics_generator.max_active_series": (9, "wildcard"),
        "ingestion.rate_limit_bytes": (1000, "wildcard"),
        "metrics_generator.trace_id_label_name": ("trace", "defaults"),
        "metrics_generator.processor.service_graphs.wait": ("3s", "static"),
        "metrics_generator.disable_collection": (False, "builtin"),
    }
    assert {key: (found[key]["value"], found[key]["source"]) for key in expected} == expected
    assert found["metrics_generator.remote_write_headers"]["value"] == {"Authorization": "<secret>"}


def test_effective_values_hold_no_secret(config: Path) -> None:
    for form in ([], ["--json"]):
        assert SECRET not in run("effective", "acme", "--config", config, *form).output


def test_the_table_highlights_what_is_not_built_in(config: Path) -> None:
    answer = run("effective", "acme", "--config", config, FORCE_COLOR="1")
    rows = {line.split("metrics_generator.")[-1].split(" ")[0]: line for line in answer.stdout.splitlines()}
    bold = "\x1b[1m"
    assert bold in rows["max_active_series"]
    assert bold in rows["processor.service_graphs.wait"]
    assert bold not in rows["disable_collection"]
    # Set, but to what is built in.
    assert bold not in rows["collection_interval"]


def test_without_files_everything_is_built_in() -> None:
    found = json.loads(run("effective", "acme", "--json").stdout)
    assert {each["source"] for each in found.values()} == {"builtin"}


def test_in_replace_mode_what_an_entry_leaves_out_is_shown_as_such(config: Path) -> None:
    config.write_text(config.read_text().replace("overrides:\n", "overrides:\n  inheritance: replace\n"))
    found = json.loads(run("effective", "acme", "--config", config, "--json").stdout)
    assert found["ingestion.rate_limit_bytes"] == {"value": 0, "source": "tenant (unset)"}


def test_what_cannot_be_a_tenant_ends_with_2(config: Path) -> None:
    answer = run("effective", "a/b", "--config", config)
    assert answer.exit_code == 2
    assert "is not allowed" in answer.stderr


def test_a_fault_in_the_runtime_file_ends_with_2(config: Path, tmp_path: Path) -> None:
    (tmp_path / "overrides.yaml").write_text("overrides: {acme: {nope: 1}}")
    answer = run("effective", "acme", "--config", config)
    assert answer.exit_code == 2
    assert "overrides.yaml" in answer.stderr
    assert "overrides.acme.nope (line 1)" in answer.stderr


# convert


def test_a_converted_file_is_on_standard_output_with_its_secrets_and_nothing_else(tmp_path: Path) -> None:
    flat = f"""
overrides:
  acme: # a comment
    metrics_generator_processors: [span-metrics]
    metrics_generator_remote_write_headers: {{Authorization: "{SECRET}", X-Long: "{"x y " * 100}z"}}
"""
    answer = run("convert", file(tmp_path, flat), COLUMNS="40")
    assert answer.exit_code == 0
    headers = {"Authorization": SECRET, "X-Long": f"{'x y ' * 100}z"}
    generator = {"processors": ["span-metrics"], "remote_write_headers": headers}
    assert read_yaml(answer.stdout_bytes).value == {"overrides": {"acme": {"metrics_generator": generator}}}
    assert not answer.stderr
    assert run("check", file(tmp_path, answer.stdout, "new.yaml")).exit_code == 0


def test_what_cannot_be_converted_ends_with_2_and_every_fault(tmp_path: Path) -> None:
    answer = run("convert", file(tmp_path, "overrides:\n  acme: {nope: 1}\n  b: {ingestion: {}}\n"))
    assert answer.exit_code == 2
    assert "overrides.acme.nope (line 2)" in answer.stderr
    assert "overrides.b.ingestion (line 3)" in answer.stderr
    assert not answer.stdout
