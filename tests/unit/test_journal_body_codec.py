import random

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from tenants.journal.body_codec import BodyCodec, _sealed

CODEC = BodyCodec()

bodies = st.binary() | st.builds(lambda part, times: part * times, st.binary(max_size=20), st.integers(0, 200))


@given(bodies, st.text("a/1"))
def test_body_is_read_as_it_was_written(body: bytes, place: str) -> None:
    assert CODEC.decode(CODEC.encode(body, place), place) == body


@given(bodies)
def test_stored_body_is_never_longer_than_plain(body: bytes) -> None:
    assert len(CODEC.encode(body, "")) <= len(body) + 5


@pytest.mark.parametrize(
    ("body", "format_"),
    [(b"x" * 128, 0), (b"x" * 129, 1), (random.Random(1).randbytes(1000), 0)],
    ids=["short", "compressible", "random"],
)
def test_body_is_compressed_where_that_makes_it_smaller(body: bytes, format_: int) -> None:
    stored = CODEC.encode(body, "")
    assert stored[0] == format_
    assert (len(stored) < len(body)) == bool(format_)


@given(bodies, st.data())
def test_any_bit_that_changed_is_noticed(body: bytes, data: st.DataObject) -> None:
    stored = bytearray(CODEC.encode(body, "here"))
    bit = data.draw(st.integers(0, 8 * len(stored) - 1))
    stored[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="checksum"):
        CODEC.decode(bytes(stored), "here")


@given(bodies)
def test_body_of_another_place_is_noticed(body: bytes) -> None:
    with pytest.raises(ValueError, match="checksum"):
        CODEC.decode(CODEC.encode(body, "entry/acme/1"), "entry/acme/2")


@given(st.binary())
@example(b"\0\0\0\0")
def test_what_was_not_stored_is_refused(stored: bytes) -> None:
    with pytest.raises(ValueError, match=r"head|checksum"):
        CODEC.decode(stored, "here")


def test_form_is_the_one_that_journals_have() -> None:
    assert CODEC.encode(b"body", "entry/acme/1").hex() == "00f9aa3f23626f6479"


def sealed(format_: int, payload: bytes) -> bytes:
    """Return a stored body with a checksum that fits."""
    return _sealed(format_, payload, "here")


@pytest.mark.parametrize(
    ("stored", "match"),
    [
        (sealed(2, b""), "format 2 is not known"),
        (sealed(1, b"no zstd"), "determining content size"),
        (sealed(1, zstandard.ZstdCompressor(write_content_size=False).compress(b"x")), "it would be -1 bytes"),
        (sealed(1, b"\x28\xb5\x2f\xfd\xa0\xff\xff\xff\xff"), "it would be 4294967295 bytes"),
        (sealed(1, zstandard.ZstdCompressor().compress(b"x" * 1000)[:-3]), "decompress"),
    ],
    ids=["newer", "no zstd", "no size", "too large", "cut off"],
)
def test_body_behind_a_good_checksum_is_read_with_care(stored: bytes, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        CODEC.decode(stored, "here")
