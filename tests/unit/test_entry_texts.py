"""A file of which only what changed is read comes to the same as one that is read for the first time."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenants.settings import Failed, Loaded, RuntimeFile, Unchanged, parse_service_config, runtime_file
from tenants.settings.entry_texts import entry_texts
from tenants.settings.yaml_document import read_yaml

PATH = Path("overrides.yaml")
CONFIGS = {text: parse_service_config(text.encode(), {}) for text in ("", "overrides: {inheritance: replace}")}


def texts_of(text: str) -> dict[str, str] | None:
    cut = entry_texts(text.encode())
    return None if cut is None else dict(cut.texts)


def test_entry_reaches_from_its_key_to_the_next() -> None:
    text = """# head

overrides: # all of them
  # of a
  a:
    x: 1
  # of nobody
  "b.c": {x: 2}

  '*':
  d:
    - '*.&'
"""
    assert texts_of(text) == {
        "a": "  a:\n    x: 1\n  # of nobody\n",
        "b.c": '  "b.c": {x: 2}\n\n',
        "*": "  '*':\n",
        "d": "  d:\n    - '*.&'\n",
    }
    cut = entry_texts(text.encode())
    assert cut is not None
    assert cut.head + "".join(cut.texts.values()) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "overrides: {}",
        "overrides: {a: {}}",
        "overrides:\n",
        "overrides:#\n  a:\n",
        "other:\n  a:\n",
        "---\noverrides:\n  a:\n",
        "%YAML 1.1\n---\noverrides:\n  a:\n",
        "overrides:\n  a: &x {}\n",
        "overrides:\n  a: [&x 1]\n",
        "overrides:\n  a: {'b':&x 1}\n",
        "overrides:\n  a:\n  a:\n",
        "overrides:\n  a:\n b:\n",
        "overrides:\n  a:\nother: 1\n",
        "overrides:\n  a:\n...\n",
        "overrides:\n  a:\n---\n",
        "overrides:\n  ? a\n  : 1\n",
        "overrides:\n  - a\n",
        "overrides:\n  <<: {}\n",
        'overrides:\n  "a\\x41": 1\n',
        "overrides:\n  'a''b': 1\n",
        "overrides:\n  !!str a: 1\n",
        "overrides:\n  a: 'one\n  two'\n",
        "overrides:\r\n  a:\r\n",
        "overrides:\n  a: x\u2028  b:\n",
        "\ufeffoverrides:\n  a:\n",
        "overrides:\n\ta:\n",
        "overrides:\n  a:\n\t b:\n",
    ],
)
def test_file_out_of_the_ordinary_is_not_cut(text: str) -> None:
    assert entry_texts(text.encode()) is None


def test_bytes_that_are_no_text_are_not_cut() -> None:
    assert entry_texts(b"overrides:\n  a: \xff\n") is None
    assert entry_texts("overrides:\n  a:\n".encode("utf-16")) is None


# Reading again


class Source:
    """A file in memory, and what was parsed of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch | None = None, config: str = "") -> None:
        self.content = b""
        self.parsed: list[bytes] = []
        self.file = RuntimeFile(PATH, lambda _: self.content, config=CONFIGS[config], allow_mass_removal=True)
        if monkeypatch:
            monkeypatch.setattr(runtime_file, "read_yaml", self._read_yaml)

    def _read_yaml(self, content: bytes, *arguments: object, **options: object) -> object:
        self.parsed.append(content)
        return read_yaml(content, *arguments, **options)  # type: ignore[arg-type]

    def load(self, text: str) -> Unchanged | Loaded | Failed:
        self.content = text.encode()
        return self.file.poll()

    def good(self, text: str) -> Loaded:
        outcome = self.load(text)
        assert isinstance(outcome, Loaded), str(outcome)
        return outcome


def entry(name: str, shards: int, end: str = "") -> str:
    return f"  {name}:\n    metrics_generator:\n      shards: {shards}\n{end}"


def test_only_entries_that_changed_are_parsed_and_the_others_stay_the_same_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Source(monkeypatch)
    names = ["a", "b", "c", "d", "e"]
    first = source.good("overrides:\n" + "".join(entry(name, 1) for name in names))
    second = source.good("# new\noverrides:\n" + "".join(entry(name, 2 if name == "c" else 1) for name in names))
    assert len(source.parsed) == 2
    left = [line for line in source.parsed[1].decode().splitlines() if line.strip()]
    assert left == ["# new", "overrides:", "  c:", "    metrics_generator:", "      shards: 2", "  d:"]
    assert second.overrides["c"].metrics_generator.shards == 2
    assert list(second.overrides) == names
    for name in ("a", "b", "d", "e"):
        assert second.overrides[name] is first.overrides[name]


@pytest.mark.parametrize(
    "other",
    [
        "overrides: {a: {metrics_generator: {shards: 1}}, b: {metrics_generator: {shards: 3}}}",
        "overrides:\n  # n\n  a:\n    metrics_generator: # n\n      shards: 1\n  b: {metrics_generator: {shards: 3}}\n",
        "overrides:\n      b: {metrics_generator: {shards: 3}}\n      a: {metrics_generator: {shards: 1}}\n",
    ],
    ids=["braces", "comments", "other indentation and order"],
)
def test_entry_that_says_the_same_stays_the_same_object_however_it_is_written(other: str) -> None:
    source = Source()
    first = source.good("overrides:\n" + entry("a", 1) + entry("b", 2))
    second = source.good(other)
    assert second.overrides["a"] is first.overrides["a"]
    assert second.overrides["b"].metrics_generator.shards == 3


def test_entry_that_runs_on_into_unchanged_ones_is_seen() -> None:
    source = Source()
    source.good("overrides:\n" + entry("a", 1) + entry("b", 2) + entry("c", 3))
    begin = "overrides:\n  a: {metrics_generator: {processor: {span_metrics: {span_multiplier_key: 'x\n"
    swallowing = source.good(begin + entry("b", 2) + "  c: '}}}}\n")
    assert list(swallowing.overrides) == ["a"]
    assert "shards: 2 c:" in str(swallowing.overrides["a"].metrics_generator.processor.span_metrics.span_multiplier_key)
    assert list(source.good("overrides:\n" + entry("a", 1) + entry("b", 2)).overrides) == ["a", "b"]


def test_faults_beside_unchanged_entries_have_their_lines() -> None:
    source = Source()
    source.good("overrides:\n" + entry("a", 1, "\n\n") + entry("b", 2) + entry("c", 3))
    outcome = source.load("overrides:\n" + entry("a", 1, "\n\n") + entry("b", 65) + entry("c", 3))
    assert isinstance(outcome, Failed)
    assert [(fault.path, fault.line) for fault in outcome.faults] == [("overrides.b.metrics_generator.shards", 9)]
    assert source.file.good is not None
    assert source.file.good.overrides["b"].metrics_generator.shards == 2


def test_collision_with_a_changed_wildcard_is_found_in_unchanged_entries() -> None:
    def text(dimension: str) -> str:
        spans = f"{{metrics_generator: {{processor: {{span_metrics: {{dimensions: [{dimension}]}}}}}}}}"
        mappings = "dimension_mappings: [{name: region, source_labels: [zone]}]"
        own = f"{{metrics_generator: {{processor: {{span_metrics: {{{mappings}}}}}}}}}"
        return f"overrides:\n  a: {own}\n  '*': {spans}\n"

    source = Source()
    source.good(text("tier"))
    outcome = source.load(text("region"))
    assert isinstance(outcome, Failed)
    assert [fault.line for fault in outcome.faults] == [2]


def test_variables_are_looked_up_again() -> None:
    environ = {"LABEL": "one"}
    content = b"overrides:\n  a: {metrics_generator: {trace_id_label_name: '${LABEL}'}}\n  b: {}\n"
    file = RuntimeFile(PATH, lambda _: content, environ=environ)
    assert isinstance(file.poll(), Loaded)
    environ["LABEL"] = "two"
    content += b"  c: {}\n"
    changed = file.poll()
    assert isinstance(changed, Loaded)
    assert changed.overrides["a"].metrics_generator.trace_id_label_name == "two"


def test_bound_on_values_holds_for_unchanged_and_changed_entries_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenants.settings.yaml_document.MAX_NODES", 40)
    monkeypatch.setattr(runtime_file, "MAX_NODES", 40)
    monkeypatch.setattr(
        runtime_file, "read_yaml", lambda *given, max_nodes=40, **more: read_yaml(*given, max_nodes=max_nodes, **more)
    )
    source = Source()
    text = "overrides:\n"
    outcomes = []
    for number in range(20):
        text += entry(f"t{number}", 1)
        outcomes.append(isinstance(source.load(text), Loaded))
        assert outcomes[-1] == isinstance(Source().load(text), Loaded)
    assert outcomes == sorted(outcomes, reverse=True)
    assert True in outcomes
    assert False in outcomes


# Whatever is written

KEYS = ["a", "b", "'c'", '"*"', "d.e", "12"]
ODD_KEYS = ["a", "<<", "bad/name", "? a\n "]
BODIES = [
    "",
    " {}",
    " # nothing",
    " {metrics_generator: {shards: 2}}",
    "\n    metrics_generator: {shards: 3} # three",
    "\n    metrics_generator:\n      processors:\n      - span-metrics",
    "\n    metrics_generator:\n      trace_id_label_name: >-\n        tid\n\n    # end",
    "\n    metrics_generator:\n      processor: {span_metrics: {span_multiplier_key: 'a\n      b'}}",
    "\n    metrics_generator:\n      processor:\n       span_metrics:\n         span_multiplier_key: |+\n          x",
    "\n    read: {max_search_duration: 1d}\n    metrics_generator: {ring_size: 1}",
    "\n    ingestion:\n      rate_limit_bytes: 5",
    "\n    metrics_generator: {processor: {span_metrics: {dimensions: [region]}}}",
]
ODD_BODIES = [
    " {metrics_generator: {shards: 0}}",
    "\n    metrics_generator: {trace_id_label_name: 'a\n  b: '}",
    "\n    metrics_generator: {processor: {span_metrics: {span_multiplier_key: 'a\n  b: '}}}",
    "\n    metrics_generator: {processor: {span_metrics: {span_multiplier_key: 'a",
    "}}} # '",
    "'}}}",
    "\n    ingestion: {rate_strategy: global}",
    " &x {metrics_generator: {shards: 4}}",
    " *x",
    "\n    <<: {metrics_generator: {shards: 5}}",
    "\n    <<: *x",
    "\n    unknown: 1",
    " [",
    " '",
    "\n    metrics_generator:\n      processor:\n        span_metrics: {dimension_mappings:\n"
    "          [{name: region, source_labels: [x]}]}",
    "\n\tx: 1",
    "\r\n    ingestion: {rate_limit_bytes: 1}",
]
BETWEEN = ["\n", "\n\n", "\n  # about the next\n", "\n# at the margin\n"]
ODD_BETWEEN = ["\n...\n", "\n---\n", ""]
HEADS = ["overrides:\n", "# x\noverrides: # y\n\n"]
ODD_HEADS = ["overrides: {\n", "overrides:", "", "x: 1\n"]

plain = st.tuples(st.sampled_from(KEYS), st.sampled_from(BODIES), st.sampled_from(BETWEEN))
odd = st.tuples(
    st.sampled_from(KEYS + ODD_KEYS), st.sampled_from(BODIES + ODD_BODIES), st.sampled_from(BETWEEN + ODD_BETWEEN)
)
entries = plain | plain | odd
parts_of_files = st.lists(plain, max_size=6, unique_by=lambda each: each[0])
files = st.tuples(st.sampled_from(HEADS), parts_of_files, st.sampled_from(["  ", " ", "    "])) | st.tuples(
    st.sampled_from(HEADS + ODD_HEADS), st.lists(odd, max_size=6), st.sampled_from(["  ", "", "\t"])
)


def written(head: str, parts: list[tuple[str, str, str]], indent: str) -> str:
    return head + "".join(f"{indent}{key}:{body}{between}" for key, body, between in parts)


@st.composite
def histories(draw: st.DrawFn) -> list[str]:
    """A file and what becomes of it, edit by edit: by entries, by lines, by characters."""
    head, parts, indent = draw(st.sampled_from(HEADS)), draw(parts_of_files), "  "
    texts = [written(head, parts, indent)]
    for _ in range(draw(st.integers(1, 5))):
        lines = texts[-1].split("\n")
        at = draw(st.integers(0, len(lines)))
        match draw(st.sampled_from(["entry"] * 6 + ["line", "character", "indent", "new", "swap", "back"])):
            case "entry":
                position = draw(st.integers(0, len(parts)))
                changed = [draw(entries)] if draw(st.booleans()) else []
                parts = [*parts[:position], *changed, *parts[position + draw(st.integers(0, 1)) :]]
                texts.append(written(head, parts, indent))
            case "line":
                kept = lines[at + draw(st.integers(0, 1)) :]
                added = draw(st.sampled_from([[], [""], ["# x"], ["  z: {}"], ["    }"], ["  '"], ["x"], ["  b: |"]]))
                texts.append("\n".join([*lines[:at], *added, *kept]))
            case "character":
                position = draw(st.integers(0, len(texts[-1])))
                put = draw(st.sampled_from(["", " ", "'", '"', "#", ":", "{", "}", "&", "\t", "\r", "\n", "|", "x"]))
                texts.append(texts[-1][:position] + put + texts[-1][position + draw(st.integers(0, 1)) :])
            case "indent":
                by = draw(st.sampled_from([" ", "  "]))
                texts.append("\n".join(by + line if index else line for index, line in enumerate(lines)))
            case "new":
                head, parts, indent = draw(files)
                texts.append(written(head, parts, indent))
            case "swap":
                parts = draw(st.permutations(parts))
                texts.append(written(head, parts, indent))
            case "back":
                texts.append(draw(st.sampled_from(texts)))
    return texts


@given(histories(), st.sampled_from(sorted(CONFIGS)))
@example(["overrides:\n" + entry("a", 1), "overrides:\n" + entry("a", 1).rstrip()], "")
@example(["overrides:\n  a:\n  b: {}\n", "overrides:\n  a:\n  b: {}\n  c: {}\n"], "overrides: {inheritance: replace}")
def test_file_that_is_read_again_comes_to_what_it_would_have_at_first(texts: list[str], config: str) -> None:
    source = Source(config=config)
    for text in texts:
        before = source.file.good
        again, fresh = source.load(text), Source(config=config).load(text)
        if isinstance(again, Unchanged):
            again = source.file.good  # type: ignore[assignment]
        assert again == fresh, text
        if isinstance(again, Loaded):
            assert list(again.overrides) == list(fresh.overrides)  # type: ignore[union-attr]
            for name, value in again.overrides.items():
                if before is not None and before.overrides.get(name) == value:
                    assert value is before.overrides[name]
