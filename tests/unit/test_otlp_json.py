import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    InstrumentationScope,
    KeyValue,
    KeyValueList,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from cluster.gateway.otlp_json import json_to_protobuf
from cluster.gateway.refusal import RefusalReason, Refused
from tests.unit.export_requests import SPAN_ID, TRACE_ID, export_request, otlp_json
from tests.unit.peak_memory import peak_memory


def converted(document: object) -> ExportTraceServiceRequest:
    outcome = json_to_protobuf(json.dumps(document).encode())
    assert isinstance(outcome, bytes), outcome
    return ExportTraceServiceRequest.FromString(outcome)


def in_span(**fields: Any) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": [fields]}]}]}


def span_of(**fields: Any) -> Span:
    return converted(in_span(**fields)).resource_spans[0].scope_spans[0].spans[0]


def refusal(body: bytes) -> Refused:
    outcome = json_to_protobuf(body)
    assert isinstance(outcome, Refused)
    assert outcome.reason is RefusalReason.MALFORMED
    return outcome


texts = st.text(max_size=5)
uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
any_values: st.SearchStrategy[AnyValue] = st.recursive(
    st.one_of(
        st.just(AnyValue()),
        st.builds(AnyValue, string_value=texts),
        st.builds(AnyValue, bool_value=st.booleans()),
        st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
        st.builds(AnyValue, double_value=st.floats(allow_nan=False) | st.just(float("nan"))),
        st.builds(AnyValue, bytes_value=st.binary(max_size=5)),
    ),
    lambda inner: st.one_of(
        st.builds(AnyValue, array_value=st.builds(ArrayValue, values=st.lists(inner, max_size=3))),
        st.builds(
            AnyValue,
            kvlist_value=st.builds(
                KeyValueList, values=st.lists(st.builds(KeyValue, key=texts, value=inner), max_size=3)
            ),
        ),
    ),
    max_leaves=5,
)
attributes = st.lists(st.builds(KeyValue, key=texts, value=any_values), max_size=3)
ids = {"trace_id": st.binary(max_size=16), "span_id": st.binary(max_size=8)}
spans = st.builds(
    Span,
    **ids,
    parent_span_id=st.binary(max_size=8),
    trace_state=texts,
    flags=uint32,
    name=texts,
    kind=st.integers(-1, 9),
    start_time_unix_nano=uint64,
    end_time_unix_nano=uint64,
    attributes=attributes,
    dropped_attributes_count=uint32,
    events=st.lists(st.builds(Span.Event, time_unix_nano=uint64, name=texts, attributes=attributes), max_size=2),
    links=st.lists(st.builds(Span.Link, **ids, trace_state=texts, attributes=attributes), max_size=2),
    status=st.builds(Status, message=texts, code=st.integers(0, 3)),
)
requests = st.builds(
    ExportTraceServiceRequest,
    resource_spans=st.lists(
        st.builds(
            ResourceSpans,
            resource=st.builds(Resource, attributes=attributes),
            schema_url=texts,
            scope_spans=st.lists(
                st.builds(
                    ScopeSpans,
                    scope=st.builds(InstrumentationScope, name=texts, attributes=attributes),
                    spans=st.lists(spans, max_size=2),
                ),
                max_size=2,
            ),
        ),
        max_size=2,
    ),
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "resourceSpans",
                        "scopeSpans",
                        "spans",
                        "links",
                        "traceId",
                        "kind",
                        "attributes",
                        "key",
                    ),
                    *(
                        "value",
                        "intValue",
                        "doubleValue",
                        "bytesValue",
                        "arrayValue",
                        "values",
                        "status",
                        "x",
                    ),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(request=requests)
def test_any_request_printed_as_otlp_json_is_read_back_unchanged(request: ExportTraceServiceRequest) -> None:
    # Compared as bytes: a message with a NaN is not equal to itself.
    assert converted(otlp_json(request)).SerializeToString() == request.SerializeToString()


@given(document=documents)
def test_any_document_is_converted_or_refused_and_never_raises(document: object) -> None:
    body = json.dumps(document).encode()

    outcome = json_to_protobuf(body)

    if isinstance(outcome, bytes):
        assert len(outcome) <= len(body)
        ExportTraceServiceRequest.FromString(outcome)
    else:
        assert outcome.reason is RefusalReason.MALFORMED


@given(body=st.binary(max_size=50))
def test_any_bytes_are_converted_or_refused_and_never_raise(body: bytes) -> None:
    json_to_protobuf(body)


def test_damaged_request_is_converted_or_refused_and_never_raises() -> None:
    body = json.dumps(otlp_json(export_request())).encode()

    for position in range(len(body)):
        json_to_protobuf(body[:position])
        json_to_protobuf(body[:position] + b"\x00" + body[position + 1 :])
        json_to_protobuf(body[:position] + b"[" + body[position + 1 :])


def test_example_of_the_specification() -> None:
    """The ids and the shape are those of ``examples/trace.json`` of opentelemetry-proto."""
    span = span_of(
        traceId="5B8EFFF798038103D269B633813FC60C",
        spanId="EEE19B7EC3C1B174",
        parentSpanId="eee19b7ec3c1b173",
        name="I'm a server span",
        startTimeUnixNano="1544712660000000000",
        endTimeUnixNano="1544712661000000000",
        kind=2,
        attributes=[{"key": "my.span.attr", "value": {"stringValue": "some value"}}],
        links=[{"traceId": TRACE_ID.hex(), "spanId": SPAN_ID.hex()}],
        status={"code": 2},
    )

    assert span == Span(
        trace_id=TRACE_ID,
        span_id=SPAN_ID,
        parent_span_id=bytes.fromhex("eee19b7ec3c1b173"),
        name="I'm a server span",
        start_time_unix_nano=1_544_712_660_000_000_000,
        end_time_unix_nano=1_544_712_661_000_000_000,
        kind=Span.SPAN_KIND_SERVER,
        attributes=[KeyValue(key="my.span.attr", value=AnyValue(string_value="some value"))],
        links=[Span.Link(trace_id=TRACE_ID, span_id=SPAN_ID)],
        status=Status(code=Status.STATUS_CODE_ERROR),
    )


def test_keys_may_be_written_as_in_the_proto_files() -> None:
    document = {
        "resource_spans": [{"scope_spans": [{"spans": [{"trace_id": TRACE_ID.hex(), "start_time_unix_nano": 7}]}]}]
    }

    span = converted(document).resource_spans[0].scope_spans[0].spans[0]

    assert (span.trace_id, span.start_time_unix_nano) == (TRACE_ID, 7)


@pytest.mark.parametrize("number", [12, "12", 12.0])
def test_integers_may_be_numbers_or_text(number: object) -> None:
    assert span_of(startTimeUnixNano=number).start_time_unix_nano == 12
    assert span_of(attributes=[{"key": "k", "value": {"intValue": number}}]).attributes[0].value.int_value == 12


def test_kind_may_be_a_name_and_an_unknown_number_stays() -> None:
    assert span_of(kind="SPAN_KIND_CLIENT").kind == Span.SPAN_KIND_CLIENT
    assert span_of(kind=77).kind == 77


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("NaN", "nan"),
        ("Infinity", "inf"),
        ("-Infinity", "-inf"),
        ("1.5e3", "1500.0"),
        (2, "2.0"),
        (-0.5, "-0.5"),
    ],
)
def test_doubles_may_be_numbers_or_text(value: object, expected: str) -> None:
    span = span_of(attributes=[{"key": "k", "value": {"doubleValue": value}}])

    assert str(span.attributes[0].value.double_value) == expected


@pytest.mark.parametrize("value", ["-_8=", "-_8", "+/8=", "+/8"])
def test_bytes_are_base64_of_either_alphabet(value: str) -> None:
    span = span_of(attributes=[{"key": "k", "value": {"bytesValue": value}}])

    assert span.attributes[0].value.bytes_value == b"\xfb\xff"


def test_attributes_named_like_ids_are_left_alone() -> None:
    inner = {"kvlistValue": {"values": [{"key": "traceId", "value": {"stringValue": "zz"}}]}}
    span = span_of(
        attributes=[{"key": "spanId", "value": {"stringValue": "not hex"}}, {"key": "nested", "value": inner}]
    )

    assert span.attributes[0].value.string_value == "not hex"
    assert span.attributes[1].value.kvlist_value.values[0].value.string_value == "zz"


def test_unknown_fields_are_ignored_wherever_they_are() -> None:
    assert converted({"resourceLogs": [1], "resourceSpans": [{"new": {"traceId": 5}}]}) == (
        ExportTraceServiceRequest(resource_spans=[ResourceSpans()])
    )


def test_null_is_absent() -> None:
    assert span_of(name=None, links=None, traceId=None) == Span()


def test_empty_values_keep_their_kind() -> None:
    empties: list[dict[str, object]] = [{"stringValue": ""}, {"arrayValue": {}}]
    span = span_of(attributes=[{"key": "k", "value": value} for value in empties])

    assert [attribute.value.WhichOneof("value") for attribute in span.attributes] == [
        "string_value",
        "array_value",
    ]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "expected an object, got an array at the top"),
        ({"resourceSpans": {}}, "expected an array, got an object at resourceSpans"),
        ({"resourceSpans": ["x"]}, "expected an object, got text at resourceSpans[0]"),
        ({"resourceSpans": [None]}, "expected an object, got null at resourceSpans[0]"),
        (
            in_span(startTimeUnixNano="soon"),
            "expected an integer, got text at resourceSpans[0].scopeSpans[0].spans[0].startTimeUnixNano",
        ),
        (in_span(startTimeUnixNano=-1), "integer out of range at "),
        (in_span(startTimeUnixNano=2**64), "integer out of range at "),
        (in_span(startTimeUnixNano=1.5), "expected an integer, got a number at "),
        (in_span(startTimeUnixNano="1_0"), "expected an integer, got text at "),
        (in_span(startTimeUnixNano="٣"), "expected an integer, got text at "),
        (in_span(flags=True), "expected an integer, got a boolean at "),
        (in_span(kind="SERVER"), "expected an integer, got text at "),
        (in_span(name=5), "expected text, got a number at "),
        (in_span(name="\ud800"), "half of a surrogate pair at "),
        (in_span(traceId="xyz"), "expected hexadecimal digits in pairs at "),
        (in_span(traceId="abc"), "expected hexadecimal digits in pairs at "),
        (in_span(traceId="ab cd"), "expected hexadecimal digits in pairs at "),
        (in_span(links=[{"spanId": "é"}]), "expected hexadecimal digits in pairs at "),
        (in_span(links=[{}, {"spanId": 1}]), "expected text, got a number at "),
        (in_span(attributes=[{"value": {"bytesValue": "a?"}}]), "expected base64 at "),
        (in_span(attributes=[{"value": {"boolValue": 1}}]), "expected true or false, got a number at "),
        (in_span(attributes=[{"value": {"doubleValue": "much"}}]), "expected a number, got other text at "),
        (in_span(attributes=[{"value": {"doubleValue": 10**400}}]), "number out of range at "),
        (in_span(attributes=[{"value": {"doubleValue": "1e9999"}}]), "number out of range at "),
        (
            in_span(attributes=[{"value": {"stringValue": "a", "intValue": 1}}]),
            "a second value where there can be one at ",
        ),
    ],
)
def test_refusal_names_what_and_where(document: object, message: str) -> None:
    assert message in refusal(json.dumps(document).encode()).message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "line 1 column 1"),
        (b'{"resourceSpans": [', "line 1 column 20"),
        (b"{}x", "Extra data"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 at byte 0"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "limit"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(body: bytes, message: str) -> None:
    assert message in refusal(body).message


@pytest.mark.parametrize(("levels", "is_accepted"), [(40, True), (60, False), (300, False)])
def test_nesting_of_values_is_bounded(levels: int, is_accepted: bool) -> None:
    value: dict[str, Any] = {"stringValue": "deep"}
    for _ in range(levels):
        value = {"arrayValue": {"values": [value]}}
    body = json.dumps(in_span(attributes=[{"key": "k", "value": value}])).encode()

    if is_accepted:
        assert isinstance(json_to_protobuf(body), bytes)
    else:
        assert "nested too deeply" in refusal(body).message


def test_refusal_never_repeats_the_payload() -> None:
    secret = string.ascii_letters * 100

    for document in (
        in_span(startTimeUnixNano=secret),
        in_span(kind=secret),
        in_span(traceId=secret),
        {"a": secret},
    ):
        body = json.dumps(document).encode()
        assert "abc" not in refusal(body[:-1]).message
        outcome = json_to_protobuf(body)
        assert isinstance(outcome, bytes) or "abc" not in outcome.message


@pytest.mark.parametrize("element", ["[]", "{}", "0.1", '{"":1}'])
@pytest.mark.parametrize("key", ["resourceSpans", "unknown"])
def test_hostile_body_takes_no_more_than_fifty_times_its_size(key: str, element: str) -> None:
    body = f'{{"{key}":[{",".join([element] * (1_000_000 // (len(element) + 1)))}]}}'.encode()

    with peak_memory() as peak:
        json_to_protobuf(body)

    assert peak() < 50 * len(body)
