from typing import Any

import pytest

from tenants.settings import SettingsError
from tenants.settings.model import validate
from tenants.settings.remote_write import RemoteWriteEndpoint
from tenants.settings.write_relabel import RelabelRule


def rule(**keys: Any) -> RelabelRule:
    return validate(RelabelRule, keys)


def test_defaults_are_those_of_prometheus() -> None:
    made = rule(target_label="a")
    assert (made.source_labels, made.separator, made.regex, made.modulus) == ((), ";", "(.*)", 0)
    assert (made.replacement, made.action) == ("$1", "replace")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "relabel configuration for replace action requires 'target_label' value"),
        ({"action": "lowercase"}, "relabel configuration for lowercase action requires 'target_label' value"),
        ({"action": "keepequal"}, "relabel configuration for keepequal action requires 'target_label' value"),
        ({"action": "hashmod"}, "relabel configuration for hashmod requires non-zero modulus"),
        ({"action": "hashmod", "modulus": 2}, "relabel configuration for hashmod action requires 'target_label' value"),
        ({"action": "hashmod", "modulus": 2, "target_label": "a-b"}, "'target_label' is invalid for hashmod action"),
        ({"action": "lowercase", "target_label": "${3}"}, "'target_label' is invalid for lowercase action"),
        (
            {"action": "uppercase", "target_label": "a", "replacement": "b"},
            "'replacement' can not be set for uppercase",
        ),
        ({"action": "labelmap", "replacement": "a-b"}, "'replacement' is invalid for labelmap action"),
        ({"action": "labelmap", "replacement": ""}, "'replacement' is invalid for labelmap action"),
        (
            {"action": "dropequal", "target_label": "a", "regex": "(.*)"},
            "dropequal action requires only 'source_labels' and `target_label`, and no other fields",
        ),
        (
            {"action": "keepequal", "target_label": "a", "separator": ","},
            "keepequal action requires only 'source_labels' and `target_label`, and no other fields",
        ),
        ({"action": "labeldrop", "source_labels": []}, "labeldrop action requires only 'regex', and no other fields"),
        ({"action": "labelkeep", "target_label": "a"}, "labelkeep action requires only 'regex', and no other fields"),
        ({"action": "labelkeep", "modulus": 1}, "labelkeep action requires only 'regex', and no other fields"),
    ],
)
def test_rule_that_does_not_fit_its_action_is_refused_in_prometheus_words(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        rule(**keys)
    ((path, said),) = {fault.path: fault.message for fault in caught.value.faults}.items()
    assert path == ""
    assert said.startswith(message)


@pytest.mark.parametrize(
    ("target", "is_valid"),
    [
        ("-label", False),
        ("label", True),
        ("label${1}", True),
        ("${1}label", True),
        ("${1}", True),
        ("${", False),
        ("$", False),
        ("${}", False),
        ("foo${", False),
        ("$1", True),
        ("asd$2asd", True),
        ("-foo${1}bar-", False),
        ("bar.foo${1}bar", False),
        ("_${1}_", True),
        ("foo${bar}foo", True),
        ("0${3}", False),
        ("-${3}", False),
        ("gr\u00f6\u00dfe$1", False),
        ("$" * 1000, False),
        ("$a" * 500 + "!", False),
    ],
)
def test_target_label_may_refer_to_groups_as_in_prometheus(target: str, is_valid: bool) -> None:
    if is_valid:
        assert rule(target_label=target).target_label == target
        assert rule(action="labelmap", replacement=target).replacement == target
    else:
        with pytest.raises(SettingsError):
            rule(target_label=target)


@pytest.mark.parametrize(
    ("keys", "path", "message"),
    [
        ({"target_label": "a", "source_labels": ["a.b"]}, "source_labels[0]", "not a valid label name"),
        ({"target_label": "a", "regex": "("}, "regex", "RE2"),
        ({"target_label": "a", "regex": "(?=a)"}, "regex", "RE2"),
        ({"target_label": "a", "regex": "a" * 5000}, "regex", "4096"),
        ({"target_label": "a", "action": "explode"}, "action", "replace"),
        ({"target_label": "a", "modulus": -1}, "modulus", "0"),
        ({"target_label": "a", "modulus": 2**64}, "modulus", "18446744073709551615"),
        ({"target_label": "a", "source_labels": ["a"] * 65}, "source_labels", "64"),
        ({"target_label": "a", "targetlabel": "b"}, "targetlabel", "target_label"),
    ],
)
def test_each_key_is_checked(keys: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        rule(**keys)
    ((where, said),) = {fault.path: fault.message for fault in caught.value.faults}.items()
    assert where == path
    assert message in said


def test_action_is_read_in_any_case_of_letters() -> None:
    assert rule(action="LabelDrop", regex="a").action == "labeldrop"


def test_what_prometheus_takes_is_taken() -> None:
    rules: list[dict[str, Any]] = [
        {"source_labels": ["job", "__meta_dns_name"], "regex": "(.*)some-[regex]", "target_label": "job"},
        {"replacement": "static", "target_label": "abc"},
        {"source_labels": ["a"], "action": "keep"},
        {"source_labels": ["a"], "action": "dropequal", "target_label": "b", "separator": ";", "replacement": "$1"},
        {"action": "hashmod", "source_labels": ["a"], "modulus": 8, "target_label": "b", "replacement": "unused"},
        # Prometheus wraps the text and compiles it then.
        {"source_labels": ["a"], "regex": "a)|(b", "action": "drop"},
    ]
    made = validate(RemoteWriteEndpoint, {"url": "https://h/", "write_relabel_configs": rules})
    assert len(made.write_relabel_configs) == len(rules)
    with pytest.raises(SettingsError, match="at most 64 entries"):
        validate(RemoteWriteEndpoint, {"url": "https://h/", "write_relabel_configs": rules * 11})
