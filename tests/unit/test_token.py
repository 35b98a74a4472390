import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.identity.token import Token, check_hash, hash_secret, new_token, parse_token, verify

TOKEN = Token("0123456789abcdef", "s" * 43)
TOKEN_HASH = "$scrypt$ln=14,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$WOsBfNGObBUGbF1cKvJkd0Wn6XtDIKB7VBEh7ULYn3w"


def test_text_reads_back() -> None:
    token = new_token()

    assert len(token.text) == 4 + 16 + 1 + 43
    assert parse_token(token.text) == token


def test_tokens_come_from_the_bytes_drawn() -> None:
    assert new_token(bytes).text == f"mrt_{'0' * 16}_{'A' * 43}"
    assert len({new_token().text for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mrt_",
        TOKEN.text[:-1],
        TOKEN.text + "s",
        TOKEN.text + "\n",
        " " + TOKEN.text,
        TOKEN.text.replace("mrt", "MRT"),
        TOKEN.text.replace("abcdef", "ABCDEF"),
        TOKEN.text.replace("ss", "s=", 1),
        TOKEN.text.replace("ss", "s\u0661", 1),
        TOKEN.text.replace("0", "\u0660", 1),
    ],
)
def test_what_is_no_token_is_not_read_as_one(text: str) -> None:
    assert parse_token(text) is None


@given(st.text(max_size=80) | st.from_regex(r"mrt_[0-9a-f]{15,17}_[A-Za-z0-9_-]{42,44}"))
def test_any_text_is_a_token_that_writes_itself_back_or_none(text: str) -> None:
    token = parse_token(text)

    assert token is None or token.text == text


def test_hash_is_that_of_its_secret_alone() -> None:
    token = new_token()
    secret_hash = hash_secret(token)

    assert verify(token, secret_hash)
    assert not verify(Token(token.token_id, "s" * 43), secret_hash)
    assert verify(Token("f" * 16, token.secret), secret_hash)
    assert token.secret not in secret_hash
    assert hash_secret(token) != secret_hash


def test_hash_is_scrypt_with_its_parameters() -> None:
    # The value of hashlib.scrypt for this secret, an all-zero salt, n=2**14, r=8, p=1: what is stored stays readable.
    assert hash_secret(TOKEN, bytes) == TOKEN_HASH


@pytest.mark.parametrize(
    "secret_hash",
    [
        "",
        "plain",
        "$argon2id$v=19$m=65536,t=3,p=4$AAAA$BBBB",
        "$scrypt$ln=14,r=8,p=1$" + "A" * 22,
        "$scrypt$ln=18,r=8,p=1$" + "A" * 22 + "$" + "A" * 43,
        "$scrypt$ln=99,r=99,p=1$" + "A" * 22 + "$" + "A" * 43,
        "$scrypt$ln=14,r=8,p=9$" + "A" * 22 + "$" + "A" * 43,
        "$scrypt$ln=0,r=8,p=1$" + "A" * 22 + "$" + "A" * 43,
        "$scrypt$ln=14,r=8,p=1$" + "A" * 25 + "$" + "A" * 43,
    ],
)
def test_hash_that_cannot_or_should_not_be_computed_is_refused(secret_hash: str) -> None:
    with pytest.raises(ValueError, match=r"hash|padded|characters"):
        check_hash(secret_hash)
    with pytest.raises(ValueError, match=r"hash|padded|characters"):
        verify(TOKEN, secret_hash)


def test_secret_shows_nowhere_and_does_not_travel() -> None:
    assert TOKEN.secret not in repr(TOKEN) + str(TOKEN) + f"{TOKEN}"
    with pytest.raises(TypeError, match="token_id") as caught:
        pickle.dumps(TOKEN)
    assert TOKEN.secret not in str(caught.value)
