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
        assert _engine.count_spans(drawn.SerializeToString()) == len(spans)


@pytest.mark.parametrize("body", [b"", b"\xff" * 20, request("op", "op")[:-3]])
def test_malformed_request_has_no_spans(body: bytes) -> None:
    assert _engine.count_spans(body) == 0


def test_what_is_inside_a_span_does_not_matter() -> None:
    assert _engine.count_spans(bytes([0x0A, 6, 0x12, 4, 0x12, 2, 0xFF, 0xFF])) == 1
