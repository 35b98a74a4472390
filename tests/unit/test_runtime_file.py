import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.settings import Failed, Loaded, RuntimeFile, Unchanged, parse_service_config
from tenants.settings.errors import MORE_FAULTS

PATH = Path("overrides.yaml")


class Disk:
    """A file that can be replaced, removed and made unreadable."""

    def __init__(self, text: str | bytes | None = None) -> None:
        self.content: bytes | OSError = FileNotFoundError(2, "No such file or directory")
        if text is not None:
            self.write(text)

    def write(self, text: str | bytes) -> None:
        self.content = text.encode() if isinstance(text, str) else text

    def fail(self, error: OSError) -> None:
        self.content = error

    def read(self, path: Path) -> bytes:
        assert path == PATH
        if isinstance(self.content, OSError):
            raise self.content
        return self.content


def entries(*tenants: str, shards: int = 1) -> str:
    if not tenants:
        return "overrides: {}\n"
    return "overrides:\n" + "".join(f"  '{t}': {{metrics_generator: {{shards: {shards}}}}}\n" for t in tenants)


def first(text: str | bytes, *, allow_mass_removal: bool = False) -> Unchanged | Loaded | Failed:
    return RuntimeFile(PATH, Disk(text).read, allow_mass_removal=allow_mass_removal).poll()


def loaded(text: str) -> Loaded:
    result = first(text)
    assert isinstance(result, Loaded), str(result)
    return result


def failed(text: str | bytes, reason: str) -> dict[str, str]:
    result = first(text)
    assert isinstance(result, Failed)
    assert result.reason == reason
    return {fault.path: fault.message for fault in result.faults}


# Loading


def test_of_many_faults_in_an_entry_the_first_are_told_with_lines_and_what_was_meant() -> None:
    keys = "".join(f"      histogram_bucket_{number}: 1\n" for number in range(150))
    text = f"overrides:\n  acme:\n    metrics_generator:\n{keys}  globex: {{metrics: 1}}\n"
    result = first(text)
    assert isinstance(result, Failed)
    *of_acme, more, of_globex = result.faults
    assert [fault.line for fault in of_acme] == list(range(4, 103))
    assert of_acme[0].message == "unknown key; did you mean native_histogram_bucket_factor?"
    assert sum("did you mean" in fault.message for fault in of_acme) == 20
    assert more == MORE_FAULTS
    assert of_globex.path == "overrides.globex.metrics"


def test_entries_are_loaded_with_the_hash_of_the_content() -> None:
    text = "overrides:\n  acme: {metrics_generator: {processors: [span-metrics]}}\n  '*': {}\n"
    result = loaded(text)
    assert set(result.overrides) == {"acme", "*"}
    assert result.overrides["acme"].metrics_generator.processors == ("span-metrics",)
    assert result.sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "text", ["overrides:\n  acme:\n", "overrides: {acme: {}}", "overrides: {acme: {metrics_generator: }}"]
)
def test_entry_without_a_body_is_an_empty_entry(text: str) -> None:
    overrides = loaded(text).overrides
    assert overrides["acme"] == type(overrides["acme"])()


@pytest.mark.parametrize("tenant", ["123", "true", "null", "1.5", "2024-01-01", "0x10", "on"])
def test_unquoted_tenant_ids_stay_as_written(tenant: str) -> None:
    assert set(loaded(f"overrides:\n  {tenant}: {{}}\n").overrides) == {tenant}


def test_settings_can_be_shared_between_entries() -> None:
    text = """
overrides:
  a: &base
    metrics_generator: {shards: 3}
  b: *base
  c:
    <<: *base
"""
    assert {t: o.metrics_generator.shards for t, o in loaded(text).overrides.items()} == {
        "a": 3,
        "b": 3,
        "c": 3,
    }


def test_thousands_of_entries_load() -> None:
    assert len(loaded(entries(*(f"t{n}" for n in range(3000)))).overrides) == 3000


def tenants_of(text: str, service: str) -> dict[str, str | None]:
    """Which entries a file has under a service configuration, and how each shares rates."""
    result = RuntimeFile(PATH, Disk(text).read, config=parse_service_config(service.encode(), {})).poll()
    assert isinstance(result, Loaded), str(result)
    return {tenant: entry.ingestion.rate_strategy for tenant, entry in result.overrides.items()}


REPLACE = "overrides: {inheritance: replace}"


@pytest.mark.parametrize("service", [REPLACE, "compat: tempo"])
def test_entry_without_a_body_is_no_entry_when_entries_are_used_whole(service: str) -> None:
    text = "overrides:\n  acme:\n  globex: {}\n  '*': ~\n"
    assert tenants_of(text, service) == {"globex": None}
    assert set(tenants_of(text, "")) == {"acme", "globex", "*"}


def test_entry_that_loses_its_body_is_removed_when_entries_are_used_whole() -> None:
    config = parse_service_config(REPLACE.encode(), {})
    disk = Disk("overrides:\n  a: {}\n  b: {}\n  c: {}\n")
    file = RuntimeFile(PATH, disk.read, config=config)
    for body, expected in ((" {}", ["a", "b", "c"]), ("", ["a", "c"]), (" {}", ["a", "b", "c"])):
        disk.write(f"overrides:\n  a: {{}}\n  b:{body}\n  c: {{}}\n")
        file.poll()
        assert file.good is not None
        assert list(file.good.overrides) == expected


@pytest.mark.parametrize("service", ["", "overrides: {defaults: {ingestion: {rate_strategy: global}}}"])
@pytest.mark.parametrize("tenant", ["a", "'*'"])
def test_strategy_of_rates_is_set_for_all_tenants_or_for_none(service: str, tenant: str) -> None:
    common, other = ("global", "local") if service else ("local", "global")
    text = f"overrides:\n  {tenant}:\n    ingestion:\n      rate_strategy: {common}\n"
    assert tenants_of(text, service) == {tenant.strip("'"): common}
    config = parse_service_config(service.encode(), {})
    result = RuntimeFile(PATH, Disk(text.replace(common, other)).read, config=config).poll()
    assert isinstance(result, Failed)
    assert [(fault.line, fault.message) for fault in result.faults] == [
        (4, "is one for all tenants; set it in overrides.defaults of the service configuration")
    ]
    assert result.faults[0].path.endswith("ingestion.rate_strategy")


def test_strategy_of_rates_in_an_entry_is_ignored_when_entries_are_used_whole() -> None:
    assert tenants_of("overrides: {a: {ingestion: {rate_strategy: global}}}", REPLACE) == {"a": "global"}


def test_keys_without_effect_are_listed_up_to_a_bound() -> None:
    text = "overrides:\n  a.b: {forwarders: [x], read: {left_pad_trace_ids: true}, metrics_generator: {shards: 1}}\n"
    listed = loaded(text)
    assert set(listed.without_effect) == {'overrides["a.b"].forwarders', 'overrides["a.b"].read.left_pad_trace_ids'}
    assert listed.without_effect_count == 2
    many = loaded(
        "overrides:\n" + "".join(f"  t{number}: {{metrics_generator: {{ring_size: 1}}}}\n" for number in range(60))
    )
    assert (len(many.without_effect), many.without_effect_count) == (50, 60)
    assert loaded("overrides: {a: {metrics_generator: {forwarder: {}}, read: }}").without_effect == ()


def test_collision_with_what_is_not_inherited_is_none() -> None:
    generator = "metrics_generator: {processor: {span_metrics: {%s}}}"
    mapping = generator % "dimension_mappings: [{name: region, source_labels: [zone]}]"
    text = f"overrides: {{a: {{{mapping}}}, '*': {{{generator % 'dimensions: [region]'}}}}}"
    assert [fault.path for fault in first_under("", text).faults] == [  # type: ignore[union-attr]
        "overrides.a.metrics_generator.processor.span_metrics.dimension_mappings"
    ]
    assert isinstance(first_under(REPLACE, text), Loaded)


def first_under(service: str, text: str) -> Unchanged | Loaded | Failed:
    return RuntimeFile(PATH, Disk(text).read, config=parse_service_config(service.encode(), {})).poll()


# Refusals


@pytest.mark.parametrize(
    ("text", "reason", "path", "message"),
    [
        (
            "overrides: {acme: {metrics_generator: {processers: []}}}",
            "validate",
            "overrides.acme.metrics_generator.processers",
            "processors",
        ),
        ("overrides: {acme: {metrics: {}}}", "validate", "overrides.acme.metrics", "unknown key"),
        ("overrides: {acme: []}", "validate", "overrides.acme", "mapping"),
        ("overrides: [acme]", "validate", "overrides", "mapping of tenant ids"),
        ("overrides: acme", "validate", "overrides", "mapping of tenant ids"),
        ("[]", "validate", "", "mapping"),
        ("acme: {}", "validate", "acme", "only overrides may stand here"),
        (
            "defaults: {}\noverrides: {a: {}}",
            "validate",
            "defaults",
            "defaults belong in the service configuration",
        ),
        (
            "overrides: {a: {metrics_generator_processors: []}}",
            "validate",
            "overrides.a.metrics_generator_processors",
            "legacy flat",
        ),
        (
            "overrides: {a: {ingestion: {rate_limit_bytes: 10MB}}}",
            "validate",
            "overrides.a.ingestion.rate_limit_bytes",
            "whole number",
        ),
        (
            "overrides: {a: {metrics_generator: {max_active_series: -5}}}",
            "validate",
            "overrides.a.metrics_generator.max_active_series",
            "0",
        ),
        (
            "overrides: {a: {metrics_generator: {collection_interval: -5s}}}",
            "validate",
            "overrides.a.metrics_generator.collection_interval",
            "1s",
        ),
        (
            "overrides: {a: {metrics_generator: {forwarder: {queue_size: -1}}}}",
            "validate",
            "overrides.a.metrics_generator.forwarder.queue_size",
            "1",
        ),
        (
            "overrides: {a: {metrics_generator: {processor: {service_graphs: {filter_policies: [{}]}}}}}",
            "validate",
            "overrides.a.metrics_generator.processor.service_graphs.filter_policies[0]",
            "is empty; give it include, include_any or exclude",
        ),
        (
            "overrides: {a: {metrics_generator: {native_histogram_bucket_factor: 1}}}",
            "validate",
            "overrides.a.metrics_generator.native_histogram_bucket_factor",
            "greater than 1",
        ),
        (
            "overrides: {a: {metrics_generator: {processors: [nope]}}}",
            "validate",
            "overrides.a.metrics_generator.processors[0]",
            "known are",
        ),
        (
            "overrides: {a: {metrics_generator: {remote_write_headers: {Content-Type: text/plain}}}}",
            "validate",
            "overrides.a.metrics_generator.remote_write_headers.Content-Type",
            "Millrace sets itself",
        ),
        ("overrides: {bad/name: {}}", "validate", 'overrides["bad/name"]', "character '/'"),
        ("overrides: {__x: {}}", "validate", "overrides.__x", "reserved"),
        ("overrides: {'a|a': {}}", "validate", 'overrides["a|a"]', "character '|'"),
        ("overrides: {'': {}}", "validate", 'overrides[""]', "empty"),
        (f"overrides: {{{'a' * 151}: {{}}}}", "validate", f"overrides.{'a' * 151}", "151 bytes"),
        ("overrides: {a: {}, a: {}}", "parse", "overrides.a", "occurs twice"),
        ("overrides: {}\noverrides: {}", "parse", "overrides", "occurs twice"),
        (
            "overrides: {a: {metrics_generator: {shards: 1, shards: 2}}}",
            "parse",
            "overrides.a.metrics_generator.shards",
            "twice",
        ),
        ("overrides: [", "parse", "", "cannot be read at column"),
        ("overrides: {*: {}}", "parse", "", "cannot be read at column"),
        (b"\xff\xfe\x00", "parse", "", "cannot be read at column"),
    ],
)
def test_file_is_refused_with_reason_and_path(text: str | bytes, reason: str, path: str, message: str) -> None:
    assert message in failed(text, reason)[path]


def test_faults_of_all_tenants_are_listed_with_lines() -> None:
    text = """
overrides:
  a:
    metrics_generator: {shards: 65}
  good: {}
  b/c: {bogus: 1}
  d:
    metrics_generator:
      processors: [x]
      bogus: 1
extra: 1
"""
    result = first(text)
    assert isinstance(result, Failed)
    assert {(fault.path, fault.line) for fault in result.faults} == {
        ("overrides.a.metrics_generator.shards", 4),
        ('overrides["b/c"]', 6),
        ('overrides["b/c"].bogus', 6),
        ("overrides.d.metrics_generator.processors[0]", 9),
        ("overrides.d.metrics_generator.bogus", 10),
        ("extra", 11),
    }
    assert "runtime file refused (validate): 6 faults" in str(result)


def test_secrets_are_not_in_failures() -> None:
    secret = "s3cr3t-value"
    text = "overrides: {a: {metrics_generator: {remote_write_headers: {Host: SECRET, X: [SECRET]}}}}"
    result = first(text.replace("SECRET", secret))
    assert isinstance(result, Failed)
    assert secret not in str(result) + repr(result)


@given(st.binary(max_size=100) | st.text(alphabet="overids: {}[]*&\n-'\"a1\t#<", max_size=60).map(str.encode))
def test_any_content_gives_a_result(content: bytes) -> None:
    assert isinstance(first(content), Loaded | Failed)


# Reloading


def test_same_content_is_unchanged() -> None:
    disk = Disk(entries("a"))
    file = RuntimeFile(PATH, disk.read)
    assert isinstance(file.poll(), Loaded)
    assert file.poll() == Unchanged()
    disk.write(entries("a", shards=2))
    changed = file.poll()
    assert isinstance(changed, Loaded)
    assert changed.overrides["a"].metrics_generator.shards == 2
    assert file.good is changed


def test_nothing_is_in_force_before_the_first_good_load() -> None:
    disk = Disk()
    file = RuntimeFile(PATH, disk.read)
    missing = file.poll()
    assert isinstance(missing, Failed)
    assert missing.reason == "read"
    assert "No such file or directory" in str(missing)
    assert "overrides.yaml" in str(missing)
    assert file.good is None
    disk.write(entries("a"))
    assert isinstance(file.poll(), Loaded)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("overrides: [", "parse"),
        ("overrides: {a: {bogus: 1}}", "validate"),
        ("", "mass_removal"),
        (FileNotFoundError(2, "No such file or directory"), "read"),
        (PermissionError(13, "Permission denied"), "read"),
        (OSError("odd"), "read"),
    ],
)
def test_last_good_file_stays_in_force_until_the_file_is_good_again(broken: str | OSError, reason: str) -> None:
    disk = Disk(entries("a"))
    file = RuntimeFile(PATH, disk.read)
    good = file.poll()
    for _ in range(2):
        if isinstance(broken, OSError):
            disk.fail(broken)
        else:
            disk.write(broken)
        result = file.poll()
        assert isinstance(result, Failed)
        assert result.reason == reason
        assert result.faults
        assert file.good is good
    disk.write(entries("a"))
    assert file.poll() == Unchanged()
    disk.write(entries("a", "b"))
    assert isinstance(file.poll(), Loaded)


def test_one_bad_tenant_keeps_the_old_settings_of_all() -> None:
    tenants = [f"t{n}" for n in range(100)]
    disk = Disk(entries(*tenants))
    file = RuntimeFile(PATH, disk.read)
    good = file.poll()
    disk.write(entries(*tenants, shards=2).replace("'t42': {", "'t42': {bogus: 1, "))
    result = file.poll()
    assert isinstance(result, Failed)
    assert [fault.path for fault in result.faults] == ["overrides.t42.bogus"]
    assert file.good is good


# Mass removal (tenancy D-8)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}", "overrides:\n", "overrides: null"])
def test_empty_document_is_refused_even_at_start(text: str) -> None:
    assert "is empty" in failed(text, "mass_removal")[""]
    assert isinstance(first(text, allow_mass_removal=True), Loaded)


def test_file_without_entries_is_fine_at_start() -> None:
    assert loaded("overrides: {}").overrides == {}


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [
        (10, 4, False),
        (10, 5, True),  # half is not more than half
        (9, 4, False),
        (5, 1, True),  # four entries are not five
        (6, 1, False),
        (8, 3, False),
        (10, 0, False),
        (2, 1, True),
        (1, 0, False),
        (3, 0, False),
        (0, 0, True),
    ],
)
def test_reload_that_removes_most_entries_is_refused_unless_allowed(before: int, after: int, accepted: bool) -> None:
    for allow in (False, True):
        disk = Disk(entries(*(f"t{n}" for n in range(before))))
        file = RuntimeFile(PATH, disk.read, allow_mass_removal=allow)
        assert isinstance(file.poll(), Loaded)
        disk.write(entries(*(f"t{n}" for n in range(after))) + "# edited\n")
        result = file.poll()
        if accepted or allow:
            assert isinstance(result, Loaded)
            assert len(result.overrides) == after
        else:
            assert isinstance(result, Failed)
            assert result.reason == "mass_removal"
            assert f"would remove {before - after} of {before} entries" in str(result)


def test_replaced_entries_count_as_removed() -> None:
    disk = Disk(entries(*(f"old{n}" for n in range(6))))
    file = RuntimeFile(PATH, disk.read)
    file.poll()
    disk.write(entries(*(f"new{n}" for n in range(6))))
    result = file.poll()
    assert isinstance(result, Failed)
    assert result.reason == "mass_removal"


# Environment


TOKEN = "overrides: {a: {metrics_generator: {remote_write_headers: {X-Key: '${TOK}'}}}}"


@pytest.mark.parametrize(("environ", "value"), [(None, "${TOK}"), ({"TOK": "abc"}, "abc")])
def test_variables_are_filled_in_only_when_asked(environ: dict[str, str] | None, value: str) -> None:
    result = RuntimeFile(PATH, Disk(TOKEN).read, environ=environ).poll()
    assert isinstance(result, Loaded)
    headers = result.overrides["a"].metrics_generator.remote_write_headers
    assert headers is not None
    assert headers["X-Key"].get_secret_value() == value


def test_undefined_variable_fails_the_load() -> None:
    result = RuntimeFile(PATH, Disk(TOKEN).read, environ={}).poll()
    assert isinstance(result, Failed)
    assert result.reason == "parse"
    assert "'TOK' is not set" in str(result)
