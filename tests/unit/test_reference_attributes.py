"""Long attributes are cut on arrival: cases computed by hand, for the model and for the engine (tenancy §4.5)."""

from typing import Any

import pytest

from tests import otlp_raw
from tests.traces import MISSING, SECOND_NS, batch, filter_block, key_values, plan, request, span, span_metrics_plan

NOW_NS = 1_700_000_000 * SECOND_NS
NO_INTRINSICS = dict.fromkeys(["service", "span_name", "span_kind", "status_code"], False)
LIMIT = 64
FITS = "x" * LIMIT
LONG = "x" * (LIMIT + 1)


def count(implementation: Any, drawn: Any, settings: dict[str, Any], limit: int = LIMIT) -> Any:
    """Return a tenant that has counted one request; nothing but a limit of attributes cuts its labels."""
    one = span_metrics_plan(**{"latency": False, "intrinsic_dimensions": NO_INTRINSICS} | settings)
    tenant = implementation(plan(one, max_attribute_bytes=limit, max_label_value_length=0))
    tenant.push(drawn, NOW_NS)
    tenant.flush(NOW_NS)
    return tenant


def calls(tenant: Any) -> dict[Any, float]:
    """Return the calls by their labels."""
    name = ("__name__", "traces_spanmetrics_calls_total")
    return {frozenset(key - {name}): value for key, value in tenant.collect().series.items() if name in key}


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


@pytest.mark.parametrize(
    ("limit", "value", "left", "cuts"),
    [
        (LIMIT, FITS, FITS, {}),
        (LIMIT, LONG, FITS, {"span": 1}),
        (0, LONG, LONG, {}),
        (12, "elevenbytes\u00e9", "elevenbytes", {"span": 1}),  # case 100
        (12, "\U0001f680" * 9, "\U0001f680" * 3, {"span": 1}),
        (LIMIT, 10**18, str(10**18), {}),
        (LIMIT, [LONG], f"[{LONG}]", {}),
        (LIMIT, {LONG: LONG}, f"{{{LONG}:{LONG}}}", {}),
    ],
)
def test_string_of_a_span_is_cut_at_a_character(
    implementation: Any, limit: int, value: Any, left: str, cuts: dict[str, int]
) -> None:
    drawn = request(batch({}, span(end_ns=NOW_NS, attributes={"d": value})))
    tenant = count(implementation, drawn, {"dimensions": ["d"]}, limit)
    assert calls(tenant) == {labels(d=left): 1}
    assert tenant.attributes_truncated == cuts


def test_cut_key_is_the_key_from_then_on_and_the_first_of_equal_keys_counts(implementation: Any) -> None:
    attributes = [(f"{FITS}1", "first"), (FITS, "second"), (f"{FITS}2", MISSING)]
    drawn = request(batch({}, span(end_ns=NOW_NS, attributes=attributes)))
    tenant = count(implementation, drawn, {"dimensions": [FITS]})
    assert calls(tenant) == {labels(**{FITS: "first"}): 1}
    assert tenant.attributes_truncated == {"span": 2}


def test_attributes_of_a_resource_are_cut_and_counted_with_every_request(implementation: Any) -> None:
    drawn = request(batch({"service.name": LONG, f"{LONG}y": LONG}, span(end_ns=NOW_NS), span(end_ns=NOW_NS)))
    settings = {"enable_target_info": True, "enable_instance_label": False, "dimensions": [FITS]}
    tenant = count(implementation, drawn, settings)
    tenant.push(drawn, NOW_NS)
    assert tenant.attributes_truncated == {"resource": 4}
    series = tenant.collect().series
    names = {dict(key)["__name__"] for key in series}
    assert "traces_target_info" in names
    assert {value for key in series for _, value in key if value.startswith("x")} == {FITS}


def test_resource_in_two_parts_is_cut_as_if_it_were_one(implementation: Any) -> None:
    group = batch({"a": LONG}, span(end_ns=NOW_NS, attributes={"d": "e"}))
    second = otlp_raw.ResourceSpans()
    second.resource.attributes.extend(key_values({"b": LONG}))
    # Appended to the one ResourceSpans: its resource is then written twice.
    inner = group.SerializeToString() + second.SerializeToString()
    body = b"\x0a" + _varint(len(inner)) + inner
    tenant = count(implementation, body, {"dimensions": ["a", "b"]})
    assert calls(tenant) == {labels(a=FITS, b=FITS): 1}
    assert tenant.attributes_truncated == {"resource": 2}


def _varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80, value >> 7])


def test_filters_see_what_is_left(implementation: Any) -> None:
    policy = {"include": filter_block("strict", {"span.d": FITS})}
    drawn = request(batch({}, span(end_ns=NOW_NS, attributes={"d": LONG})))
    assert calls(count(implementation, drawn, {"filter_policies": [policy]})) == {labels(): 1}


def test_size_is_that_of_what_is_left_of_span_events_and_links(implementation: Any) -> None:
    def spans(text: str) -> Any:
        built = span(end_ns=NOW_NS, attributes={text: text})
        built.events.add(name=b"e" * 99, attributes=key_values({"k": text}))
        built.links.add(attributes=key_values([(text, 5)]))
        built.links.add(attributes=key_values([(text, 5), ("k", text), ("k", "short")]))
        return built

    settings = {"count": False}
    tenant = count(implementation, request(batch({}, spans("y" * 300))), settings)
    assert list(tenant.collect().series.values()) == [spans("y" * LIMIT).ByteSize()]
    assert tenant.attributes_truncated == {"span": 1, "event": 1, "link": 3}


def test_attributes_of_a_scope_are_counted(implementation: Any) -> None:
    drawn = request(batch({}, span(end_ns=NOW_NS)))
    scope = drawn.resource_spans[0].scope_spans[0].scope
    scope.name = LONG.encode()
    scope.attributes.extend(key_values({"a": LONG, LONG: 1, "b": FITS}))
    tenant = count(implementation, drawn, {})
    assert calls(tenant) == {labels(): 1}
    assert tenant.attributes_truncated == {"scope": 2}


def test_names_and_messages_of_spans_are_never_cut(implementation: Any) -> None:
    settings = {"intrinsic_dimensions": NO_INTRINSICS | {"span_name": True, "status_message": True}}
    drawn = request(batch({}, span(LONG, end_ns=NOW_NS, status=2, message=LONG)))
    tenant = count(implementation, drawn, settings)
    assert calls(tenant) == {labels(span_name=LONG, status_message=LONG): 1}
    assert tenant.attributes_truncated == {}


def test_attributes_of_spans_that_are_set_aside_are_counted_too(implementation: Any) -> None:
    late = span(end_ns=NOW_NS - 60 * SECOND_NS, attributes={"d": LONG})
    tenant = count(implementation, request(batch({}, late)), {})
    tenant.push(request(batch({}, late)), NOW_NS, skip_generation=True)
    assert calls(tenant) == {}
    assert tenant.attributes_truncated == {"span": 2}
