import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.identity.credentials import Credentials, NoCredentials, parse_credentials
from tenants.identity.token import Token, new_token

TOKEN = Token("0123456789abcdef", "s" * 43)


def basic(pair: str, encode: Callable[[bytes], bytes] = base64.b64encode) -> str:
    return f"Basic {encode(pair.encode()).decode()}"


@pytest.mark.parametrize(
    "value",
    [f"Bearer {TOKEN.text}", f"bearer {TOKEN.text}", f"BEARER   {TOKEN.text}", f" Bearer {TOKEN.text} "],
)
def test_bearer_holds_a_token(value: str) -> None:
    assert parse_credentials([value]) == Credentials(TOKEN)


@pytest.mark.parametrize("user", ["", "acme", "a|b", "Tenant-1'()"])
def test_basic_holds_a_tenant_and_a_token(user: str) -> None:
    value = basic(f"{user}:{TOKEN.text}")

    assert parse_credentials([value]) == Credentials(TOKEN, user)
    assert parse_credentials([value.replace("Basic", "bASIC")]) == Credentials(TOKEN, user)


@pytest.mark.parametrize("values", [[], [""], ["  "]])
def test_nothing_is_missing(values: list[str]) -> None:
    assert parse_credentials(values) is NoCredentials.MISSING


@pytest.mark.parametrize(
    "values",
    [
        ["Bearer"],
        ["Bearer "],
        ["Bearer x"],
        [TOKEN.text],
        [f"Bearer{TOKEN.text}"],
        [f"Bearer\t{TOKEN.text}"],
        [f"Bearer {TOKEN.text} {TOKEN.text}"],
        [f"Bearer {TOKEN.text},"],
        [f"Bearer {TOKEN.text}", f"Bearer {TOKEN.text}"],
        [f"Bearer {TOKEN.text}", ""],
        [f"Bearer {' ' * 2000}{TOKEN.text}"],
        [f"Digest {TOKEN.text}"],
        ["Basic"],
        ["Basic ="],
        ["Basic ????"],
        ["Basic YWNtZQ"],
        [f"Basic {TOKEN.text}"],
        [basic(f"acme:{TOKEN.text}").replace(" ", " *")],
        [basic(TOKEN.text)],
        [basic(f"{TOKEN.text}:")],
        [basic(f"acme:{TOKEN.text}\n")],
        [basic(f"acme:x:{TOKEN.text}")],
        [basic(f"é:{TOKEN.text}")],
        [f"Basic {base64.b64encode(b'acme:' + TOKEN.text.encode() + bytes([255])).decode()}"],
    ],
)
def test_anything_else_is_malformed(values: list[str]) -> None:
    assert parse_credentials(values) is NoCredentials.MALFORMED


@given(st.lists(st.text(max_size=100) | st.binary(max_size=100).map(lambda b: b.decode("latin-1")), max_size=3))
def test_any_values_are_read_or_refused(values: list[str]) -> None:
    assert isinstance(parse_credentials(values), NoCredentials)


schemes = st.sampled_from(["bearer", "Basic"]).flatmap(
    lambda scheme: st.lists(st.booleans(), min_size=len(scheme), max_size=len(scheme)).map(
        lambda upper: "".join(c.upper() if up else c.lower() for c, up in zip(scheme, upper, strict=True))
    )
)


@given(
    schemes,
    st.integers(1, 5),
    st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters=":"), max_size=150),
)
def test_a_token_is_read_however_it_is_wrapped(scheme: str, spaces: int, user: str) -> None:
    token = new_token()
    if scheme.lower() == "basic":
        wrapped, expected = base64.b64encode(f"{user}:{token.text}".encode()).decode(), Credentials(token, user)
    else:
        wrapped, expected = token.text, Credentials(token)

    assert parse_credentials([scheme + " " * spaces + wrapped]) == expected


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_token_with_anything_around_it_is_none(before: str, after: str) -> None:
    value = f"Bearer {before}{TOKEN.text}{after}"
    is_padding = not (before + after).strip(" ")

    assert (parse_credentials([value]) == Credentials(TOKEN)) is is_padding


def test_the_token_is_in_no_repr() -> None:
    assert TOKEN.secret not in repr(parse_credentials([f"Bearer {TOKEN.text}"]))
