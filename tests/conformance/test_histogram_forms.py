"""What one message edge sends when its histograms are classic, native or both (processors §4.2, §4.4, case 79)."""

from typing import Any

import pytest

from tests.conformance.case import Difference, key_of, row
from tests.conformance.driver import Tenant
from tests.conformance.fixtures import (
    CLIENT_SECONDS,
    MESSAGING_SECONDS,
    MYTH_NS,
    MYTH_TRACE,
    SERVER_SECONDS,
    graphs_plan,
    half,
)
from tests.remote_write import SeriesKey, decode
from tests.traces import CONSUMER, PRODUCER, histograms_plan, request

MILLISECOND_NS = 1_000_000
EDGE = {"client": "svc-a", "server": "svc-b", "connection_type": "messaging_system"}
OBSERVED = {CLIENT_SECONDS: 0.05, SERVER_SECONDS: 0.03, MESSAGING_SECONDS: 0.01}
BUCKETS = {CLIENT_SECONDS: "+Inf", SERVER_SECONDS: "0.04", MESSAGING_SECONDS: "0.04"}
ON_BUCKETS = {key_of(f"{metric}_bucket", EDGE, le=le): OBSERVED[metric] for metric, le in BUCKETS.items()}
ON_HISTOGRAMS = {key_of(metric, EDGE): value for metric, value in OBSERVED.items()}
ZERO_SUMS = Difference(
    "design §3",
    "the contract counts 23 float samples, for the first collection of a classic histogram has no zero sample of its "
    "sum; here every series begins with one, so three histograms send three more",
)


@pytest.mark.parametrize(
    ("mode", "samples", "histograms", "exemplars"),
    [
        row("79a", "classic", "classic", 26, 0, ON_BUCKETS, differs=ZERO_SUMS),
        row("79b", "native", "native", 2, 6, ON_HISTOGRAMS),
        row("79c", "both", "both", 26, 6, ON_BUCKETS, differs=ZERO_SUMS),
    ],
)
def test_first_collection_of_a_message(
    mode: str, samples: int, histograms: int, exemplars: dict[SeriesKey, float]
) -> None:
    settings: dict[str, Any] = {"histogram_buckets": [0.04], "enable_messaging_system_latency_histogram": True}
    tenant = Tenant(graphs_plan(**settings) | {"histograms": histograms_plan(mode)})
    consumer_end_ns = MYTH_NS + 40 * MILLISECOND_NS
    producer = half("svc-a", PRODUCER, "A", duration_ns=50 * MILLISECOND_NS)
    consumer = half("svc-b", CONSUMER, "B", "A", duration_ns=30 * MILLISECOND_NS, end_ns=consumer_end_ns)
    tenant.push(request(producer, consumer), consumer_end_ns)
    tenant.flush(consumer_end_ns)

    batches = tenant.registry.collect(consumer_end_ns // MILLISECOND_NS + 1, [], 2000)
    sent = [pair for batch in batches for pair in decode(batch.body).items()]
    assert sum(batch.samples for batch in batches) == samples
    assert sum(batch.histograms for batch in batches) == histograms
    assert sum(batch.exemplars for batch in batches) == 3
    found = {key: [(one.labels, one.value) for one in series.exemplars] for key, series in sent if series.exemplars}
    assert found == {key: [({"traceID": MYTH_TRACE.hex()}, value)] for key, value in exemplars.items()}
