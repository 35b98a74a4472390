"""Request bodies out of their content encoding, with a hard bound on what comes out.

Whatever a body claims or inflates to, no more than the limit and one byte is ever produced. A stream that is
cut off, damaged or followed by something else is refused whole: half a request is no request.
"""

import gzip
import io
from collections.abc import Callable
from typing import Final

import zstandard
from zlib_ng import gzip_ng, zlib_ng

from cluster.gateway.refusal import RefusalReason, Refused

# RFC 8878 §3.1.1.1.2 asks decoders to support windows of 8 MiB, and allows them to refuse larger ones.
_MIN_ZSTD_WINDOW_BYTES: Final = 8 * 1024 * 1024
# An empty block takes 3 bytes and an empty frame 9: without a bound, walking 16 MiB of them takes seconds.
# Encoders fill blocks of up to 128 KiB, so that even one that flushes at every kilobyte stays below.
_MAX_ZSTD_STEPS: Final = 65_536
_ZSTD_MAX_HEADER_BYTES: Final = 18
# The package's stub declares the class as an instance.
_ZlibError: Final[type[Exception]] = zlib_ng.error  # type: ignore[assignment]
_ZSTD_MAGIC: Final = 0xFD2FB528
_ZSTD_SKIPPABLE_MAGIC: Final = 0x184D2A50


def decompress(data: bytes, encoding: str, limit: int) -> bytes | Refused:
    """Undo one content encoding.

    Blocks for up to some 3 ms per MiB of output; the GIL is released meanwhile.

    Args:
        data: the body as received.
        encoding: value of HTTP ``Content-Encoding``; empty means identity.
        limit: most bytes to return.

    Returns:
        The decompressed body; or refused as ``too_large`` (above the limit), ``malformed`` (truncated,
        damaged, trailing bytes) or ``unsupported_encoding``.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return data if len(data) <= limit else _too_large(limit)
    decoder = _DECODERS.get(name)
    return unsupported_encoding(encoding) if decoder is None else decoder(data, limit)


def is_supported(encoding: str) -> bool:
    """Tell, before reading a body, whether :func:`decompress` knows its encoding."""
    name = encoding.strip().lower()
    return name in {"", "identity"} or name in _DECODERS


def unsupported_encoding(encoding: str) -> Refused:
    """Refuse an encoding, naming those that are taken."""
    return Refused(
        RefusalReason.UNSUPPORTED_ENCODING,
        f"content encoding {encoding[:60]!r} is not supported; use gzip, zstd, deflate or none",
    )


def _gzip(data: bytes, limit: int) -> bytes | Refused:
    stream = zlib_ng.decompressobj(wbits=31)
    try:
        body: bytes = stream.decompress(data, limit + 1)
    except _ZlibError as error:
        return _malformed("gzip", str(error))
    if len(body) > limit:
        return _too_large(limit)
    if not stream.eof:
        return _malformed("gzip", "the stream is truncated")
    return _gzip_members(data, limit) if stream.unused_data else body


def _gzip_members(data: bytes, limit: int) -> bytes | Refused:
    """Inflate several gzip members, which RFC 1952 §2.2 allows to follow each other.

    The file reader is 3 to 40 times slower than the plain stream, so it serves only these; it goes from
    member to member in C, where a loop over plain streams would copy the rest of the body for each.
    """
    try:
        with gzip_ng.GzipNGFile(fileobj=io.BytesIO(data)) as members:  # type: ignore[no-untyped-call]
            body: bytes = members.read(limit + 1)
    except (gzip.BadGzipFile, EOFError, _ZlibError) as error:
        return _malformed("gzip", str(error))
    return _too_large(limit) if len(body) > limit else body


def _deflate(data: bytes, limit: int) -> bytes | Refused:
    """Inflate the zlib format, which is what HTTP calls deflate (RFC 9110 §8.4.1.2)."""
    stream = zlib_ng.decompressobj()
    try:
        body: bytes = stream.decompress(data, limit + 1)
    except _ZlibError as error:
        return _malformed("deflate", str(error))
    if len(body) > limit:
        return _too_large(limit)
    if not stream.eof:
        return _malformed("deflate", "the stream is truncated")
    return _malformed("deflate", "bytes follow the stream") if stream.unused_data else body


def _zstd(data: bytes, limit: int) -> bytes | Refused:
    if problem := _zstd_problem(data):
        return _malformed("zstd", problem)
    # The decoder keeps a window of what it has produced: up to the limit, that is memory granted anyway.
    decompressor = zstandard.ZstdDecompressor(max_window_size=max(_MIN_ZSTD_WINDOW_BYTES, limit))
    try:
        with decompressor.stream_reader(data, read_across_frames=True) as frames:
            body = frames.read(limit + 1)
    except zstandard.ZstdError as error:
        return _malformed("zstd", str(error))
    return _too_large(limit) if len(body) > limit else body


def _zstd_problem(data: bytes) -> str | None:
    """Check that the body is whole frames (RFC 8878 §3), without decoding them.

    The decoder's streaming interface, the only one with a bound on the output, takes a truncated frame for
    the end of the stream.
    """
    position = steps = 0
    is_in_frame, checksum_bytes = False, 0
    while position < len(data):
        steps += 1
        if steps > _MAX_ZSTD_STEPS:
            return "too many blocks"
        if is_in_frame:
            block = int.from_bytes(data[position : position + 3], "little")
            is_last, is_repeated_byte, size = block & 1, block >> 1 & 3 == 1, block >> 3
            position += 3 + (1 if is_repeated_byte else size)
            if is_last:
                is_in_frame = False
                position += checksum_bytes
            continue
        magic = int.from_bytes(data[position : position + 4], "little")
        if magic == _ZSTD_MAGIC:
            header = data[position : position + _ZSTD_MAX_HEADER_BYTES]
            try:
                position += zstandard.frame_header_size(header)
                checksum_bytes = 4 if zstandard.get_frame_parameters(header).has_checksum else 0
            except zstandard.ZstdError as error:
                return str(error)
            is_in_frame = True
        elif magic & ~0xF == _ZSTD_SKIPPABLE_MAGIC:
            position += 8 + int.from_bytes(data[position + 4 : position + 8], "little")
        else:
            return "not a frame"
    is_whole = steps and not is_in_frame and position == len(data)
    return None if is_whole else "the stream is truncated"


def _too_large(limit: int) -> Refused:
    return Refused(
        RefusalReason.TOO_LARGE, f"the request has more than {limit} bytes decompressed; send smaller batches"
    )


def _malformed(encoding: str, problem: str) -> Refused:
    return Refused(RefusalReason.MALFORMED, f"the body cannot be decompressed as {encoding}: {problem}")


_DECODERS: Final[dict[str, Callable[[bytes, int], bytes | Refused]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "zstd": _zstd,
    "deflate": _deflate,
}
