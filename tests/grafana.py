"""The dashboards of k8s/dashboards, read and asked as Grafana does it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[1] / "k8s" / "dashboards"
FILES: Final = ("operator", "tenant")

# No number: label_replace() has those of its own.
_VARIABLE: Final = re.compile(r"\$([a-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Query:
    """One query of one panel.

    Attributes:
        panel: its title.
        row: the title of the row that it is in.
        ref_id: tells it from the others of the panel.
        expr: with variables.
        is_instant: asked for one moment, or else for a range of time.
        has_exemplars: exemplars are asked for, too.
    """

    row: str
    panel: str
    ref_id: str
    expr: str
    is_instant: bool
    has_exemplars: bool

    @property
    def name(self) -> str:
        """Says which it is."""
        return f"{self.row} / {self.panel} / {self.ref_id}"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that takes its values from label_values().

    Attributes:
        match: selects the series.
        label: whose values they are.
        all_value: what stands for all of them.
    """

    name: str
    match: str
    label: str
    all_value: str


def load(name: str) -> dict[str, Any]:
    """Return a dashboard as it is in its file."""
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return document


def panels(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return its panels in order, those in rows that are folded up too."""
    return [each for panel in document["panels"] for each in (panel, *panel.get("panels", []))]


def queries(document: Mapping[str, Any]) -> Iterator[Query]:
    """Return the queries of all panels."""
    row = ""
    for panel in panels(document):
        if panel["type"] == "row":
            row = panel["title"]
        for target in panel.get("targets", []):
            yield Query(
                row,
                panel["title"],
                target["refId"],
                target["expr"],
                target.get("instant", False),
                target.get("exemplar", False),
            )


def variables(document: Mapping[str, Any]) -> list[Variable]:
    """Return the variables with values of labels."""
    found = []
    for variable in document["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert asked, variable
            found.append(Variable(variable["name"], asked[1], asked[2], variable["allValue"]))
    return found


def replaced(text: str, values: Mapping[str, str | Sequence[str]]) -> str:
    """Put values for variables: of several chosen ones a pattern, as in a matcher ``=~``.

    Raises:
        KeyError: the text names a variable that has no value.
    """

    def value(found: re.Match[str]) -> str:
        chosen = values[found[1]]
        if isinstance(chosen, str):
            return chosen
        # Once for the pattern, once for the text of PromQL.
        escaped = [re.escape(each).replace("\\-", "-").replace("\\", "\\\\") for each in chosen]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    return _VARIABLE.sub(value, text)
