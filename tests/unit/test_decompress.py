import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cluster.gateway.decompress import decompress, is_supported
from cluster.gateway.refusal import RefusalReason, Refused
from tests.unit.peak_memory import peak_memory

MIB = 1024 * 1024
LIMIT = 4 * MIB


def zstd_stream(data: bytes) -> bytes:
    """A frame as streaming encoders write it: no content size, several blocks, a checksum."""
    stream = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    half = len(data) // 2
    head = stream.compress(data[:half]) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    return head + stream.compress(data[half:]) + stream.flush()


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip stored": ("gzip", lambda data: gzip.compress(data, 0)),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "zstd": ("zstd", zstandard.compress),
    "zstd level 19": ("zstd", lambda data: zstandard.compress(data, 19)),
    "zstd stream": ("zstd", zstd_stream),
}
each_encoder = pytest.mark.parametrize(("encoding", "encode"), ENCODERS.values(), ids=ENCODERS.keys())
SAMPLE = b"".join(b"span %d;" % index for index in range(500)) + os.urandom(500)


def reason_of(outcome: bytes | Refused) -> RefusalReason | None:
    return outcome.reason if isinstance(outcome, Refused) else None


@each_encoder
@given(data=st.binary(max_size=2000) | st.binary(max_size=50).map(lambda part: part * 3000))
def test_round_trip(encoding: str, encode: Callable[[bytes], bytes], data: bytes) -> None:
    assert decompress(encode(data), encoding, LIMIT) == data


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_identity_is_taken_as_it_is(encoding: str) -> None:
    assert decompress(SAMPLE, encoding, len(SAMPLE)) == SAMPLE
    assert reason_of(decompress(SAMPLE, encoding, len(SAMPLE) - 1)) is RefusalReason.TOO_LARGE


def test_names_of_encodings_ignore_case() -> None:
    assert decompress(gzip.compress(SAMPLE), "GZip", LIMIT) == SAMPLE
    assert is_supported("ZSTD")


@pytest.mark.parametrize("encoding", ["br", "snappy", "gzip, gzip", "x" * 1000])
def test_unknown_encoding_is_refused_and_the_known_ones_are_named(encoding: str) -> None:
    outcome = decompress(SAMPLE, encoding, LIMIT)

    assert not is_supported(encoding)
    assert isinstance(outcome, Refused)
    assert outcome.reason is RefusalReason.UNSUPPORTED_ENCODING
    assert "gzip, zstd" in outcome.message
    assert len(outcome.message) < 200


@each_encoder
def test_body_of_exactly_the_limit_passes_and_one_byte_more_does_not(
    encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    encoded = encode(SAMPLE)

    assert decompress(encoded, encoding, len(SAMPLE)) == SAMPLE
    assert reason_of(decompress(encoded, encoding, len(SAMPLE) - 1)) is RefusalReason.TOO_LARGE


@each_encoder
def test_every_truncation_is_refused(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    encoded = encode(SAMPLE)

    for length in range(len(encoded)):
        assert reason_of(decompress(encoded[:length], encoding, LIMIT)) is RefusalReason.MALFORMED, length


@each_encoder
@given(garbage=st.binary(min_size=1, max_size=20).filter(any))
def test_trailing_garbage_is_refused(encoding: str, encode: Callable[[bytes], bytes], garbage: bytes) -> None:
    assert reason_of(decompress(encode(SAMPLE) + garbage, encoding, LIMIT)) is RefusalReason.MALFORMED


@each_encoder
@given(data=st.data())
def test_damage_is_refused_or_harmless_but_never_raises(
    encoding: str, encode: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    encoded = bytearray(encode(SAMPLE))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))

    outcome = decompress(bytes(encoded), encoding, LIMIT)

    assert reason_of(outcome) in {RefusalReason.MALFORMED, RefusalReason.TOO_LARGE, None}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@given(garbage=st.binary(max_size=200))
def test_garbage_is_refused(encoding: str, garbage: bytes) -> None:
    assert reason_of(decompress(garbage, encoding, LIMIT)) is RefusalReason.MALFORMED


@pytest.mark.parametrize("damaged", [-8, -4], ids=["checksum", "length"])
def test_gzip_trailer_is_checked(damaged: int) -> None:
    encoded = bytearray(gzip.compress(SAMPLE))
    encoded[damaged] ^= 1

    assert reason_of(decompress(bytes(encoded), "gzip", LIMIT)) is RefusalReason.MALFORMED


@pytest.mark.parametrize(
    ("encoding", "encode"), [("gzip", gzip.compress), ("zstd", zstandard.compress), ("zstd", zstd_stream)]
)
def test_members_that_follow_each_other_are_one_body_under_one_limit(
    encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    parts = [SAMPLE, b"", SAMPLE[:10], SAMPLE]
    encoded = b"".join(map(encode, parts))
    total = len(b"".join(parts))

    assert decompress(encoded, encoding, total) == b"".join(parts)
    assert reason_of(decompress(encoded, encoding, total - 1)) is RefusalReason.TOO_LARGE
    assert reason_of(decompress(encoded[:-1], encoding, total)) is RefusalReason.MALFORMED


def test_gzip_padding_is_ignored() -> None:
    assert decompress(gzip.compress(SAMPLE) + bytes(100), "gzip", LIMIT) == SAMPLE


def test_zstd_skippable_frame_is_skipped() -> None:
    skippable = struct.pack("<II", 0x184D2A53, 5) + b"extra"

    assert decompress(skippable + zstandard.compress(SAMPLE) + skippable, "zstd", LIMIT) == SAMPLE
    assert reason_of(decompress(skippable[:-1], "zstd", LIMIT)) is RefusalReason.MALFORMED


def test_zstd_frame_that_claims_a_huge_content_or_window_is_refused() -> None:
    bombs = {
        "content": struct.pack("<IBQ", 0xFD2FB528, 0xE0, 2**62) + b"\x01\x00\x00",
        "window": struct.pack("<IBB", 0xFD2FB528, 0x00, 0xFF) + b"\x01\x00\x00",
    }

    for name, bomb in bombs.items():
        with peak_memory() as peak:
            assert isinstance(decompress(bomb, "zstd", LIMIT), Refused), name
        assert peak() < 8 * MIB


@pytest.mark.parametrize(("window_log", "is_accepted"), [(23, True), (24, True), (25, False)])
def test_zstd_window_may_be_as_large_as_the_limit(window_log: int, is_accepted: bool) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    encoded = stream.compress(SAMPLE) + stream.flush()
    assert zstandard.get_frame_parameters(encoded).window_size == 1 << window_log

    outcome = decompress(encoded, "zstd", 16 * MIB)

    assert (outcome == SAMPLE) is is_accepted
    assert is_accepted or reason_of(outcome) is RefusalReason.MALFORMED


def gzip_bomb(size: int) -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as stream:
        for _ in range(size // MIB):
            stream.write(bytes(MIB))
    return file.getvalue()


def deflate_bomb(size: int) -> bytes:
    stream = zlib.compressobj(1)
    return b"".join(stream.compress(bytes(MIB)) for _ in range(size // MIB)) + stream.flush()


def zstd_bomb(size: int) -> bytes:
    """Blocks that repeat one byte 128 KiB times, at 4 bytes each."""
    block = struct.pack("<I", (128 * 1024) << 3 | 1 << 1)[:3] + b"\0"
    return struct.pack("<IBB", 0xFD2FB528, 0, 0x38) + block * (size // (128 * 1024)) + b"\x01\x00\x00"


BOMBS = {
    "gzip": ("gzip", gzip_bomb),
    "gzip of many members": ("gzip", lambda size: gzip_bomb(MIB) * (size // MIB)),
    "deflate": ("deflate", deflate_bomb),
    "zstd": ("zstd", zstd_bomb),
    "zstd of many frames": ("zstd", lambda size: zstd_bomb(MIB) * (size // MIB)),
}


@pytest.mark.parametrize(("encoding", "bomb"), BOMBS.values(), ids=BOMBS.keys())
def test_bomb_stops_at_the_limit(encoding: str, bomb: Callable[[int], bytes]) -> None:
    encoded = bomb(256 * MIB)

    with peak_memory() as peak:
        outcome = decompress(encoded, encoding, LIMIT)

    assert reason_of(outcome) is RefusalReason.TOO_LARGE
    assert peak() < 4 * LIMIT
    assert decompress(bomb(MIB), encoding, LIMIT) == bytes(MIB)


@pytest.mark.parametrize(
    ("encoding", "body", "reason"),
    [
        ("gzip", gzip.compress(b"") * 500_000, None),
        (
            "zstd",
            struct.pack("<IBB", 0xFD2FB528, 0, 0) + b"\0\0\0" * 3_000_000 + b"\x01\0\0",
            RefusalReason.MALFORMED,
        ),
        ("zstd", zstandard.compress(b"") * 1_000_000, RefusalReason.MALFORMED),
    ],
    ids=["gzip members", "zstd blocks", "zstd frames"],
)
@pytest.mark.timeout(5)
def test_countless_empty_parts_take_little_time(encoding: str, body: bytes, reason: RefusalReason | None) -> None:
    assert reason_of(decompress(body, encoding, LIMIT)) is reason
