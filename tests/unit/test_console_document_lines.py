"""Faults are told by path, and shown at a line."""

import json

import pytest

from tenants.console.document_lines import line_of, lines_of

_TEXT = """{
  "metrics_generator": {
    "processors": [
      "span-metrics",
      "nonsense"
    ],
    "processor": {"span_metrics": {
      "dimensions": ["a", "b"],
      "odd key.": {"x": 1}
    }}
  }
}"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("metrics_generator", 2),
        ("metrics_generator.processors", 3),
        ("metrics_generator.processors[1]", 5),
        ("metrics_generator.processor.span_metrics.dimensions[1]", 8),
        ('metrics_generator.processor.span_metrics["odd key."].x', 9),
        # What is missing is missed where it should be.
        ("metrics_generator.processor.span_metrics.histogram_buckets[3]", 7),
        ("nowhere", 1),
        ("", 1),
    ],
)
def test_a_path_has_a_line(path: str, line: int) -> None:
    assert line_of(path, lines_of(_TEXT)) == line


@pytest.mark.parametrize("text", ["", "{", '{"a": [1, ', '{"a" 1}', "[" * 100_000, '{"a": tru}', "nonsense", '{"a": "'])
def test_what_is_no_json_has_the_lines_of_what_is(text: str) -> None:
    lines_of(text)


def test_lines_are_those_of_a_damaged_text_as_far_as_it_goes() -> None:
    text = json.dumps({"a": {"b": 1, "c": 2}}, indent=1).replace("2", "2 2")
    assert lines_of(text) == {"a": 2, "a.b": 3, "a.c": 4}
