import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.store.json_column import object_text, read_object

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), values))
def test_object_is_read_back_as_it_was_with_its_members_in_order(value: dict[str, Any]) -> None:
    again = read_object(object_text(value))
    assert again == value
    assert list(again) == list(value)
    assert object_text(value).isascii()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_number_that_is_not_finite_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        object_text({"a": number})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not JSON"),
        ('{"hidden": ', "is not JSON"),
        ('{"a": 1}{"hidden": 1}', "is not JSON"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON"),
        ("[" * 200_000, "nested too deeply"),
        ("null", "not an object, but NoneType"),
        ('["hidden"]', "not an object, but list"),
    ],
)
def test_what_is_no_object_is_refused_and_not_repeated(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refused:
        read_object(text)
    assert "hidden" not in str(refused.value)
