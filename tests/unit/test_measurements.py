import math
import pickle
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from cluster.declarations import DECLARED
from cluster.measurements import Distribution, Measurements, families, per_tenant
from tenants.identity import TenantId

TOKENS = "millrace_registry_drain_tokens_per_line"
DISTRIBUTION = Distribution(((5.0, 2), (7.5, 3), (math.inf, 4)), 31.0)


def text_of(measured: dict[str, Measurements]) -> str:
    class Page(Collector):
        def collect(self) -> Iterator[object]:  # type: ignore[override]
            return families(measured)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Page())
    return generate_latest(registry).decode()


def test_actors_are_merged_into_one_family_for_each_metric() -> None:
    text = text_of(
        {
            "gateway-0": [("millrace_actor_up", (), 1.0), ("millrace_spans_received_total", ("acme",), 7)],
            "gateway-1": [("millrace_actor_up", (), 0.0), ("millrace_spans_received_total", ("acme",), 5)],
        }
    )
    assert text.count("# TYPE millrace_spans_received_total counter") == 1
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert {(s.labels["actor"], s.value) for s in found["millrace_actor_up"].samples} == {
        ("gateway-0", 1.0),
        ("gateway-1", 0.0),
    }
    spans = found["millrace_spans_received"]
    assert spans.type == "counter"
    assert [sample.labels for sample in spans.samples] == [
        {"tenant": "acme", "actor": "gateway-0"},
        {"tenant": "acme", "actor": "gateway-1"},
    ]


def test_every_metric_can_be_written_and_read() -> None:
    measured: Measurements = [
        (
            name,
            tuple(f'"{label}"\n' for label in declared.labels),
            DISTRIBUTION if declared.kind == "histogram" else 1.5,
        )
        for name, declared in DECLARED.items()
    ]
    read = list(text_string_to_metric_families(text_of({"a": measured})))
    assert len(read) == len(DECLARED)
    assert {(family.name, family.type, family.documentation) for family in read} == {
        (name.removesuffix("_total"), declared.kind, declared.text) for name, declared in DECLARED.items()
    }


def test_distribution_is_written_as_a_histogram_with_a_bucket_for_each_bound() -> None:
    measured: dict[str, Measurements] = {"a": [(TOKENS, ("acme",), pickle.loads(pickle.dumps(DISTRIBUTION)))]}
    (family,) = text_string_to_metric_families(text_of(measured))
    assert {(sample.name.removeprefix(TOKENS), sample.labels.get("le"), sample.value) for sample in family.samples} == {
        ("_bucket", "5.0", 2),
        ("_bucket", "7.5", 3),
        ("_bucket", "+Inf", 4),
        ("_count", None, 4),
        ("_sum", None, 31),
    }
    assert {(sample.labels["tenant"], sample.labels["actor"]) for sample in family.samples} == {("acme", "a")}


@pytest.mark.parametrize(
    ("name", "value"),
    [(TOKENS, 1.0), ("millrace_spans_received_total", DISTRIBUTION), ("millrace_shard_entities", DISTRIBUTION)],
)
def test_number_is_no_distribution(name: str, value: float | Distribution) -> None:
    with pytest.raises(TypeError, match=name.removesuffix("_total")):
        list(families({"a": [(name, ("acme",), value)]}))


def test_measurement_that_is_not_declared_or_has_other_labels_is_a_bug() -> None:
    with pytest.raises(KeyError):
        list(families({"a": [("millrace_unknown", (), 1)]}))
    for values in ((), ("acme", "more")):
        with pytest.raises(ValueError, match="millrace_spans_received_total has the labels"):
            list(families({"a": [("millrace_spans_received_total", values, 1)]}))


def test_tenant_ids_are_written_as_text() -> None:
    assert per_tenant("millrace_shard_entities", [(TenantId("acme"), 2.0)]) == [
        ("millrace_shard_entities", ("acme",), 2.0)
    ]
