"""Faults are told by path, and shown at a line."""

import json
import tracemalloc

import pytest

from tenants.console.document_lines import lines_of

_TEXT = """{
  "metrics_generator": {
    "processors": [
      "span-metrics",
      "nonsense"
    ],
    "processor": {"span_metrics": {
      "dimensions": ["a", "b"],
      "odd key.": {"x": 1}
    }},
    "twice": 1,
    "twice": 2
  },
  "a \\"]b\\\\": [[1, 2],
    [3]]
}"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("metrics_generator", 2),
        ("metrics_generator.processors", 3),
        ("metrics_generator.processors[1]", 5),
        ("metrics_generator.processor.span_metrics.dimensions[1]", 8),
        ('metrics_generator.processor.span_metrics["odd key."].x', 9),
        ("metrics_generator.twice", 11),
        (r'["a \"]b\\"][1][0]', 15),
        # What is missing is missed where it should be.
        ("metrics_generator.processor.span_metrics.histogram_buckets[3]", 7),
        ("nowhere", 1),
        ("", 1),
    ],
)
def test_a_path_has_a_line(path: str, line: int) -> None:
    assert lines_of(_TEXT, [path]) == {path: line}


def test_paths_of_one_text_have_their_lines() -> None:
    paths = ["metrics_generator.processors[1]", "metrics_generator", "metrics_generator.processor.span_metrics", ""]
    assert list(lines_of(_TEXT, paths).values()) == [5, 2, 7, 1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a": [1, ',
        '{"a" 1}',
        "[" * 100_000,
        '{"a":' * 5_000,
        '{"a": tru}',
        "nonsense",
        '{"a": "',
        "9" * 5_000,
    ],
)
def test_what_is_no_json_has_the_lines_of_what_is(text: str) -> None:
    lines_of(text, ["a", "[0][0]", "a.a"])


def test_lines_are_those_of_a_damaged_text_as_far_as_it_goes() -> None:
    text = json.dumps({"a": {"b": 1, "c": 2}}, indent=1).replace("2", "2 2")
    assert lines_of(text, ["a", "a.b", "a.c", "a.c.d"]) == {"a": 2, "a.b": 3, "a.c": 4, "a.c.d": 4}


class _Counting(str):
    """A text that knows how much of it was searched for line ends."""

    __slots__ = ("searched",)

    def count(self, part: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        end = len(self) if end is None else end
        self.searched = getattr(self, "searched", 0) + end - start
        return super().count(part, start, end)


def test_line_ends_are_counted_once_however_many_lines_are_asked_for() -> None:
    entries = 10_000
    text = _Counting('{"a": [\n' + ",\n".join("1" * entries) + "]}")
    paths = [f"a[{index}]" for index in range(entries)]
    assert list(lines_of(text, paths).values()) == list(range(2, entries + 2))
    assert text.searched <= len(text)


def test_a_deep_text_with_long_keys_takes_little_memory() -> None:
    depth, key = 60, "k" * 160
    text = f'{{"{key}":' * depth + "[" + ",".join("1" * 100_000) + "]" + "}" * depth
    path = ".".join([key] * depth)
    tracemalloc.start()
    try:
        assert lines_of(text, [f"{path}[99999]"]) == {f"{path}[99999]": 1}
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Paths of all entries would be a gigabyte.
    assert most < 10 << 20
