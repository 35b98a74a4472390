"""Which filter policies are taken, and what is said of those that are not. What they match is the engine's."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.settings import Overrides, SettingsError, parse_service_config
from tenants.settings.filter_policies import FilterPolicy
from tenants.settings.model import validate

Policy = Mapping[str, object]

KINDS = "SPAN_KIND_UNSPECIFIED, SPAN_KIND_INTERNAL, SPAN_KIND_SERVER, SPAN_KIND_CLIENT, SPAN_KIND_PRODUCER, "
KINDS += "SPAN_KIND_CONSUMER"


def block(match_type: object, *attributes: object) -> dict[str, object]:
    return {"match_type": match_type, "attributes": list(attributes)}


def attribute(key: object, value: object) -> dict[str, object]:
    return {"key": key, "value": value}


def policies(processor: str, *given: object) -> dict[str, object]:
    return {"metrics_generator": {"processor": {processor: {"filter_policies": list(given)}}}}


def accepted(policy: object) -> FilterPolicy:
    return validate(FilterPolicy, policy)


def refused(policy: object, processor: str = "span_metrics") -> dict[str, str]:
    prefix = f"metrics_generator.processor.{processor}.filter_policies"
    with pytest.raises(SettingsError) as caught:
        validate(Overrides, policies(processor, policy))
    assert all(fault.path.startswith(prefix) for fault in caught.value.faults)
    return {fault.path.removeprefix(prefix): fault.message for fault in caught.value.faults}


@pytest.mark.parametrize(
    "key",
    [
        "kind",
        "name",
        "status",
        "span:kind",
        "span:name",
        "span:status",
        "span.kind",
        "span.http.method",
        "span.größe",
        "span.a-b/c:d",
        "span.parent.x",
        "resource.service.name",
        "resource.resource.x",
        'span."foo bar"',
        'span."a\\"b\\\\c"',
        "span.a\\b",
        "parent.span.x",
        "parent.resource.x",
        "span." + "x" * 1019,
    ],
)
def test_key_is_a_property_or_an_attribute_with_its_scope(key: str) -> None:
    assert accepted({"include": block("regex", attribute(key, "x"))})


NOT_A_KEY = "should be kind, name, status, span.<attribute> or resource.<attribute>"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", NOT_A_KEY),
        (".foo", NOT_A_KEY),
        ("foo", NOT_A_KEY),
        ("duration", NOT_A_KEY),
        ("statusMessage", NOT_A_KEY),
        ("rootName", NOT_A_KEY),
        ("trace:id", NOT_A_KEY),
        ("span:duration", NOT_A_KEY),
        ("resource:name", NOT_A_KEY),
        ("nestedSetLeft", NOT_A_KEY),
        ("event.name", NOT_A_KEY),
        ("link.x", NOT_A_KEY),
        ("instrumentation.name", NOT_A_KEY),
        ("parent.x", NOT_A_KEY),
        ("parent.kind", NOT_A_KEY),
        ("parent.parent.span.x", NOT_A_KEY),
        ("Kind", NOT_A_KEY),
        (" kind", NOT_A_KEY),
        ("span", NOT_A_KEY),
        ("span.", "names no attribute after span."),
        ('resource.""', "names no attribute after resource."),
        ("span.a b", 'write span."<attribute>", with \\" for a quote and \\\\ for a backslash'),
        ("resource.a=b", 'write resource."<attribute>", with \\" for a quote and \\\\ for a backslash'),
        ('span.a."b c".d', 'write span."<attribute>"'),
        ('span."a', "or a quote that does not end"),
        ('span."a\\n"', "or a quote that does not end"),
        ("span." + "x" * 1020, "should be at most 1024 bytes, not 1025"),
        ("span.\ud800", "is not valid Unicode text"),
        (5, "should be text; put it in quotes"),
    ],
)
def test_any_other_key_is_refused(key: object, message: str) -> None:
    found = refused({"include": block("strict", attribute(key, "x"))})
    assert list(found) == ["[0].include.attributes[0].key"]
    assert message in found["[0].include.attributes[0].key"]


@pytest.mark.parametrize("value", ["", "x", "x" * 4096, 0, -5, 2**63 - 1, -(2**63), 0.5, -0.0, True, False])
def test_value_of_an_attribute_keeps_its_type(value: object) -> None:
    policy = accepted({"exclude": block("strict", attribute("span.x", value))})
    assert policy.exclude
    assert policy.exclude.attributes[0].value == value
    assert type(policy.exclude.attributes[0].value) is type(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "should be text, a number, true or false"),
        ({"a": 1}, "should be text, a number, true or false"),
        (b"x", "should be text, a number, true or false"),
        (2**63, "is beyond 64 bits, which no attribute holds; put it in quotes if it is text"),
        (-(2**63) - 1, "is beyond 64 bits, which no attribute holds; put it in quotes if it is text"),
        (float("nan"), "should be a finite number"),
        (float("inf"), "should be a finite number"),
        ("x" * 4097, "should be at most 4096 bytes, not 4097"),
        ("\ud800", "is not valid Unicode text"),
    ],
)
@pytest.mark.parametrize("match_type", ["strict", "regex"])
def test_any_other_value_is_refused(match_type: str, value: object, message: str) -> None:
    found = refused({"include": block(match_type, attribute("span.x", value))})
    assert found == {"[0].include.attributes[0].value": message}


def test_key_and_value_are_required() -> None:
    assert refused({"include": block("strict", {})}) == {
        "[0].include.attributes[0].key": "is required; add it",
        "[0].include.attributes[0].value": "is required; add it",
    }
    found = refused({"include": block("strict", attribute("span.x", None))})
    assert found == {"[0].include.attributes[0].value": "is required; add it"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kind", "SPAN_KIND_SERVER", None),
        ("span:kind", "SPAN_KIND_UNSPECIFIED", None),
        ("span.kind", "anything", None),
        ("status", "STATUS_CODE_ERROR", None),
        ("span:status", "STATUS_CODE_UNSET", None),
        ("name", "", None),
        ("kind", "INVALID_KIND", f"value should be one of {KINDS}, because the key is kind"),
        ("kind", "server", f"value should be one of {KINDS}, because the key is kind"),
        ("kind", 2, f"value should be one of {KINDS}, because the key is kind"),
        (
            "span:status",
            "error",
            "value should be one of STATUS_CODE_UNSET, STATUS_CODE_OK, STATUS_CODE_ERROR, because the key is "
            "span:status",
        ),
        ("name", 5, "value should be text, because the key is name; put it in quotes"),
        ("span:name", True, "value should be text, because the key is span:name; put it in quotes"),
    ],
)
def test_strict_value_of_a_property_is_one_that_it_can_have(key: str, value: object, message: str | None) -> None:
    policy = {"include_any": block("strict", attribute(key, value))}
    if message is None:
        assert accepted(policy)
    else:
        assert refused(policy) == {"[0].include_any.attributes[0]": message}


@pytest.mark.parametrize("key", ["kind", "status", "name", "span.x", "resource.x"])
@pytest.mark.parametrize("pattern", ["", "oo", "SPAN_KIND_(SERVER|CLIENT)", "^200$", r"\d+", "(?i)x"])
def test_regex_is_taken_for_every_key(key: str, pattern: str) -> None:
    assert accepted({"include": block("regex", attribute(key, pattern))})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (200, "value should be text, because match_type is regex; put it in quotes"),
        (True, "value should be text, because match_type is regex; put it in quotes"),
        (".*(", "value is not a regular expression of RE2 syntax: "),
        ("[", "value is not a regular expression of RE2 syntax: "),
        ("a(?=b)", "value is not a regular expression of RE2 syntax: "),
    ],
)
def test_regex_that_the_engine_refuses_is_refused_here(value: object, message: str) -> None:
    found = refused({"exclude": block("regex", attribute("span.x", value))})
    assert list(found) == ["[0].exclude.attributes[0]"]
    assert found["[0].exclude.attributes[0]"].startswith(message)


@pytest.mark.parametrize(
    ("policy", "path", "message"),
    [
        ({}, "[0]", "is empty; give it include, include_any or exclude"),
        ({"include": None}, "[0]", "is empty; give it include, include_any or exclude"),
        ([], "[0]", "should be a mapping of keys to values"),
        ({"includes": {}}, "[0].includes", "unknown key; did you mean include?"),
        ({"include": {}}, "[0].include.match_type", "is required; add it"),
        ({"include": block("invalid")}, "[0].include.match_type", "should be 'strict' or 'regex'"),
        ({"include": block("Strict")}, "[0].include.match_type", "should be 'strict' or 'regex'"),
        ({"include": block(1)}, "[0].include.match_type", "should be 'strict' or 'regex'"),
        ({"include": {"match_type": "strict", "attributes": {}}}, "[0].include.attributes", "should be a list"),
        (
            {"exclude": {"match_type": "strict"}},
            "[0].exclude",
            "has no attributes and would exclude every span; list some, or take the processor out of processors",
        ),
        (
            {"include": block("strict"), "exclude": block("regex")},
            "[0].exclude",
            "has no attributes and would exclude every span; list some, or take the processor out of processors",
        ),
        (
            {"include": block("strict", *[attribute("span.x", "y")] * 65)},
            "[0].include.attributes",
            "should have at most 64 entries, not 65",
        ),
        (
            {"include": block("strict", {"key": "span.x", "value": 1, "negate": True})},
            "[0].include.attributes[0].negate",
            "unknown key; remove it",
        ),
    ],
)
@pytest.mark.parametrize("processor", ["span_metrics", "service_graphs"])
def test_policy_of_another_shape_is_refused(processor: str, policy: object, path: str, message: str) -> None:
    assert refused(policy, processor)[path] == message


def test_block_that_lets_spans_in_may_be_without_attributes() -> None:
    policy = accepted({"include": {"match_type": "strict"}, "include_any": block("regex")})
    assert policy.include
    assert policy.include.attributes == ()
    assert policy.exclude is None


def test_there_are_at_most_64_policies() -> None:
    policy = {"include": block("strict", *[attribute("span.x", "y")] * 64)}
    validate(Overrides, policies("span_metrics", *[policy] * 64))
    with pytest.raises(SettingsError, match="should have at most 64 entries, not 65"):
        validate(Overrides, policies("span_metrics", *[policy] * 65))


def test_every_fault_of_all_policies_is_reported_with_its_line() -> None:
    text = """
metrics_generator:
  processor:
    span_metrics:
      filter_policies:
        - include: {match_type: strict, attributes: [{key: span.x, value: y}]}
        - exclude:
            match_type: regex
            attributes:
              - {key: kind, value: 5}
              - key: duration
                value: x
    service_graphs:
      filter_policies: [{}]
"""
    with pytest.raises(SettingsError) as caught:
        parse_service_config(text.encode(), {})
    prefix = "metrics_generator.processor"
    assert [(fault.path, fault.line) for fault in caught.value.faults] == [
        (f"{prefix}.span_metrics.filter_policies[1].exclude.attributes[0]", 10),
        (f"{prefix}.span_metrics.filter_policies[1].exclude.attributes[1].key", 11),
        (f"{prefix}.service_graphs.filter_policies[0]", 14),
    ]


scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
keys = st.sampled_from(["kind", "name", "status"]) | st.text(alphabet='span.resource"\\ =äx', max_size=12) | scalar
blocks = st.fixed_dictionaries(
    {},
    optional={
        "match_type": st.sampled_from(["strict", "regex", "x"]),
        "attributes": st.lists(st.fixed_dictionaries({}, optional={"key": keys, "value": scalar}), max_size=2) | scalar,
    },
)


@given(st.dictionaries(st.sampled_from(["include", "include_any", "exclude", "other"]), blocks | scalar))
def test_any_policy_is_taken_or_refused(policy: Policy) -> None:
    try:
        taken = accepted(policy)
    except SettingsError:
        return
    assert accepted(taken.model_dump(exclude_none=True)) == taken
