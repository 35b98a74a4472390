"""The hash that decides where a trace is counted: the same in every process, version and language."""

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tenants import _engine

# The same values stand in the engine's own test (hash.rs).
GOLDEN = {b"": 0x2D06800538D394C2, b"\x11" * 16: 0x7EEF42F6DE35CB88}


@pytest.mark.parametrize("trace_id", GOLDEN)
def test_golden_values(trace_id: bytes) -> None:
    assert _engine.trace_hash(trace_id) == GOLDEN[trace_id]


@given(st.binary(max_size=64))
def test_it_is_xxh3_without_a_seed(trace_id: bytes) -> None:
    assert _engine.trace_hash(trace_id) == xxhash.xxh3_64_intdigest(trace_id)
