"""The dashboards of k8s/dashboards, as files: well formed, laid out, explained, and of metrics that there are.

What their queries answer is shown in ``tests/integration/dashboards/``.
"""

import itertools
import json
import re
from typing import Any

import kubernetes_validate
import pytest

from cluster.declarations import DECLARED
from tests import grafana
from tests.unit.k8s_rendering import ROOT, rendered

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RUNBOOKS = ROOT / "k8s" / "runbooks" / "alerts.md"

# What the processors make, and what of it is a histogram; in tests/reference*.py they are counted.
COUNTERS = {
    "traces_spanmetrics_calls_total",
    "traces_spanmetrics_size_total",
    "traces_service_graph_request_total",
    "traces_service_graph_request_failed_total",
}
HISTOGRAMS = {
    "traces_spanmetrics_latency",
    "traces_service_graph_request_server_seconds",
    "traces_service_graph_request_client_seconds",
}

Panel = dict[str, Any]


@pytest.fixture(params=grafana.FILES)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    return grafana.load(request.param)


def charts(document: dict[str, Any]) -> list[Panel]:
    return [panel for panel in grafana.panels(document) if panel["type"] != "row"]


def test_every_panel_says_what_it_shows_and_in_which_unit(document: dict[str, Any]) -> None:
    assert document["schemaVersion"] >= 41
    assert document["uid"] == document["title"].replace(" / ", "-").lower()
    for panel in charts(document):
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


def test_names_of_panels_tell_them_apart(document: dict[str, Any]) -> None:
    identifiers = [panel["id"] for panel in grafana.panels(document)]
    assert len(set(identifiers)) == len(identifiers)
    names = [query.name for query in grafana.queries(document)]
    assert len(set(names)) == len(names)


def test_panels_lie_beside_each_other_and_fill_the_width(document: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    places = [panel["gridPos"] for panel in grafana.panels(document)]
    for place in places:
        cells = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert place["x"] + place["w"] <= 24
        assert not taken & cells, place
        taken |= cells
    # No holes: Grafana would move what is below into them.
    assert len(taken) == 24 * max(place["y"] + place["h"] for place in places)


def test_data_come_from_the_source_that_is_chosen(document: dict[str, Any]) -> None:
    assert {json.dumps(panel["datasource"]) for panel in charts(document)} == {json.dumps(SOURCE)}
    variables = {variable["name"]: variable for variable in document["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(document)))
    assert used == variables.keys()


def test_links_lead_to_runbooks(document: dict[str, Any]) -> None:
    anchors = {title.lower() for title in re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), flags=re.MULTILINE)}
    links = [link for panel in charts(document) for link in panel.get("links", [])]
    assert all(link["url"] == f"${{runbooks}}#{link['title'].removeprefix('Runbook: ').lower()}" for link in links)
    linked = {link["url"].partition("#")[2] for link in links}
    assert linked <= anchors
    if document["title"] == "Millrace / Operator":
        assert anchors == linked, "an alert without a chart that shows it"


def test_operator_s_metrics_and_labels_are_declared() -> None:
    document = grafana.load("operator")
    texts = [query.expr for query in grafana.queries(document)]
    texts += [f"{each.match}{{{each.label}=}}" for each in grafana.variables(document)]
    for text in texts:
        assert set(re.findall(r"millrace_[a-z0-9_]+", text)) <= DECLARED.keys()
        for name, labels in re.findall(r"(millrace_[a-z0-9_]+)\{([^}]*)\}", text):
            assert set(re.findall(r"(\w+)[=!]", labels)) <= {"actor", *DECLARED[name].labels}, name


def test_tenant_s_metrics_are_those_that_processors_make() -> None:
    text = " ".join(query.expr for query in grafana.queries(grafana.load("tenant")))
    named = set(re.findall(r"traces_[a-z_]+[a-z]", text))
    buckets = {f"{name}_bucket" for name in HISTOGRAMS}
    assert named <= COUNTERS | HISTOGRAMS | buckets
    assert named >= COUNTERS | buckets


def test_files_become_config_maps_that_grafana_finds() -> None:
    maps = {item["metadata"]["name"]: item for item in rendered("dashboards")}
    assert {item["kind"] for item in maps.values()} == {"ConfigMap"}
    for item in maps.values():
        kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    assert all(item["metadata"]["labels"] == {"grafana_dashboard": "1"} for item in maps.values())
    for name in grafana.FILES:
        (text,) = maps[f"millrace-dashboard-{name}"]["data"].values()
        assert json.loads(text) == grafana.load(name)
    # The API server keeps no more of an object, and kubectl apply none so large in its annotation.
    assert all(len(json.dumps(item)) < 262_144 for item in maps.values())
