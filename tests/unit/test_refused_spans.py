import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants import _engine
from tests.script_strategies import NOW_NS
from tests.trace_strategies import requests
from tests.unit.tenant_work import request


@given(st.data())
def test_count_is_that_of_a_request_that_is_read(data: st.DataObject) -> None:
    for arrive in data.draw(requests(max_calls=3)):
        drawn = arrive(NOW_NS)
        spans = [span for group in drawn.resource_spans for scope in group.scope_spans for span in scope.spans]
        refused = _engine.RefusedSpans()
        assert refused.add(drawn.SerializeToString(), "rate_limited") == len(spans)
        assert (refused.take() is not None) == bool(spans)


@pytest.mark.parametrize(("body", "spans"), [(b"", 0), (b"\xff" * 20, 0), (request("op", "op")[:-3], 0)])
def test_of_a_damaged_request_what_lies_behind_the_damage_is_not_counted(body: bytes, spans: int) -> None:
    assert _engine.RefusedSpans().add(body, "malformed") == spans


def test_what_is_inside_a_span_does_not_matter() -> None:
    assert _engine.RefusedSpans().add(bytes([0x0A, 6, 0x12, 4, 0x12, 2, 0xFF, 0xFF]), "too_large") == 1


def test_spans_are_refused_for_few_reasons() -> None:
    with pytest.raises(ValueError, match="no span is refused as whim"):
        _engine.RefusedSpans().add(b"", "whim")
