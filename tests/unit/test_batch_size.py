"""How large a batch becomes where label values are long: receivers cap the bytes of a message, not its samples."""

import pytest
import snappy

from tenants.settings.protobuf_message import ProtobufMessage
from tests import traces
from tests.engine_driver import EngineDriver
from tests.remote_write import decode
from tests.remote_write_v2 import decode_v2

MOST_MESSAGE_BYTES = 4 << 20
DIMENSIONS = [f"d{number}" for number in range(8)]
VALUE_BYTES = 2048
SECOND_NS = 10**9


@pytest.mark.parametrize(
    ("message", "latency", "names"),
    [
        # 1.0 repeats the values with every series of an entity.
        (ProtobufMessage.V1, True, 30),
        (ProtobufMessage.V1, False, 600),
        (ProtobufMessage.V2, False, 600),
    ],
)
def test_batch_is_closed_before_it_is_larger_than_receivers_take(
    message: ProtobufMessage, latency: bool, names: int
) -> None:
    spans = [
        traces.span(
            f"n{name}",
            trace_id=(name + 1).to_bytes(16),
            start_ns=2 * SECOND_NS,
            end_ns=2 * SECOND_NS + 5,
            attributes={key: f"{name}-{key}-".ljust(VALUE_BYTES, "x") for key in DIMENSIONS},
        )
        for name in range(names)
    ]
    plan = traces.plan(span_metrics=traces.span_metrics_plan(dimensions=DIMENSIONS, latency=latency))
    tenant = EngineDriver(plan, started_at_ms=1000)
    tenant.push(traces.request(traces.batch({"service.name": "shop"}, *spans)), 3 * SECOND_NS)
    tenant.flush(3 * SECOND_NS)

    ((batches, _),) = tenant.registry.collect_each(10_000, [], 1_000_000, [(None, message.value)])

    series = [
        key
        for batch in batches
        for key in (decode(batch.body) if message is ProtobufMessage.V1 else decode_v2(batch.body).series)
    ]
    assert len(series) == len(set(series)) == tenant.registry.stats()["active_series"]
    sizes = [len(snappy.uncompress(batch.body)) for batch in batches]
    entity_bytes = (len(series) / names if message is ProtobufMessage.V1 else 1) * len(DIMENSIONS) * VALUE_BYTES
    assert max(sizes) < MOST_MESSAGE_BYTES + 1.1 * entity_bytes
    # Not smaller than they have to be either.
    assert min(sizes[:-1]) > MOST_MESSAGE_BYTES
    assert len(batches) >= 3
