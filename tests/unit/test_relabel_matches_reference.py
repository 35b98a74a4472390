import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tenants import _engine
from tests.reference_relabel import relabelled

_NAMES = st.sampled_from(["__name__", "a", "b", "ab", "le", "client_a", "service"])
_VALUES = st.text("abAB01.;\n\u00e9-", max_size=6)

# What Python and RE2 read alike: nothing that may match empty is repeated, because they then capture otherwise.
_CHARACTERS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\.", ";", "_", "\\d", "(?:ab|a)", "(?i:B)"])
_REPEATED = st.builds(
    "{}{}".format, _CHARACTERS, st.sampled_from(["", "*", "+", "?", "*?", "+?", "??", "{1,2}", "{2}?"])
)
_SEQUENCES = st.lists(_REPEATED, max_size=3).map("".join)
_GROUPS = st.builds("{}{})".format, st.sampled_from(["(", "(?P<n>", "(?:"]), _SEQUENCES)
_PATTERNS = st.one_of(
    st.just("(.*)"),
    _SEQUENCES,
    st.builds("{}{}".format, _GROUPS, _SEQUENCES),
    st.builds("{}{}{}".format, _SEQUENCES, _GROUPS, st.just("(.*)")),
    st.builds("{}|{}".format, _GROUPS, _SEQUENCES),
)
_TEMPLATES = st.lists(
    st.sampled_from(["$1", "${1}", "${2}", "$0", "${n}", "$n", "$$", "$", "${", "a", "B", "_", ".", "1", "${01}"]),
    max_size=4,
).map("".join)
_TARGETS = st.one_of(_NAMES, st.sampled_from(["${1}", "x_$1", "${n}_y", "$1x"]))


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    actions = ["replace", "keep", "drop", "hashmod", "labelmap", "labeldrop", "labelkeep", "lowercase", "uppercase"]
    action = draw(st.sampled_from([*actions, "keepequal", "dropequal"]))
    return {
        "source_labels": draw(st.lists(_NAMES, max_size=3)),
        "separator": draw(st.sampled_from([";", "", "ab"])),
        "regex": draw(_PATTERNS),
        "modulus": draw(st.sampled_from([1, 7, 1000, 2**64 - 1])),
        "target_label": draw(_TARGETS if action == "replace" else _NAMES),
        "replacement": draw(_TEMPLATES),
        "action": action,
    }


LABELS = st.dictionaries(_NAMES, _VALUES, max_size=6)


def rule(action: str, **keys: Any) -> dict[str, Any]:
    plain = {"source_labels": [], "separator": ";", "regex": "(.*)", "modulus": 1, "target_label": "a"}
    return {**plain, "replacement": "$1", "action": action, **keys}


@given(LABELS, st.lists(rules(), max_size=5))
@example({"a": "1", "b": "2"}, [rule("replace", replacement="x"), rule("labelmap", regex="a|b", replacement="c")])
@example({"a": "aab"}, [rule("replace", source_labels=["a"], regex="(a+?)(.*)", replacement="$2$1")])
@example({"a": "x", "b": ""}, [rule("keepequal", source_labels=["b"], target_label="none")])
def test_engine_relabels_as_prometheus_does(labels: dict[str, str], given_rules: list[dict[str, Any]]) -> None:
    labels = {name: value for name, value in labels.items() if value}
    answer = _engine.Relabel(json.dumps(given_rules)).apply(labels)
    assert answer == relabelled(labels, given_rules)
    assert answer is None or list(answer) == sorted(answer)
