"""How bodies are stored: one byte of format, four of checksum, then the body, compressed where that makes it smaller.

The checksum (CRC-32, big-endian) is of the format, of the place where the body belongs, and of what is stored: a body
that got to another row is noticed too.
"""

import zlib
from typing import Final

import zstandard

MAX_BODY_BYTES: Final = 512 << 20
"""Of one body. PostgreSQL and SQLite take no more than about a gigabyte in a row."""

_PLAIN: Final = 0
_ZSTD: Final = 1

_HEAD: Final = 5
_MIN_COMPRESSED_BYTES: Final = 128


class BodyCodec:
    """Writes and reads stored bodies. One thread at a time."""

    def __init__(self) -> None:
        # The fastest level: records are compact already.
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._decompressor = zstandard.ZstdDecompressor()

    def encode(self, body: bytes, place: str) -> bytes:
        """Return what is stored of a body at a place."""
        if len(body) > _MIN_COMPRESSED_BYTES:
            compressed = self._compressor.compress(body)
            if len(compressed) < len(body):
                return _sealed(_ZSTD, compressed, place)
        return _sealed(_PLAIN, body, place)

    def decode(self, stored: bytes, place: str) -> bytes:
        """Return the body that was stored at a place.

        Raises:
            ValueError: it is another one; the message says what is wrong.
        """
        if len(stored) < _HEAD:
            raise ValueError(f"{len(stored)} bytes are less than a head")
        format_, payload = stored[0], stored[_HEAD:]
        if _sealed(format_, payload, place)[:_HEAD] != stored[:_HEAD]:
            raise ValueError("its checksum does not fit")
        if format_ == _PLAIN:
            return payload
        if format_ == _ZSTD:
            return self._decompressed(payload)
        raise ValueError(f"its format {format_} is not known; a newer version has written it")

    def _decompressed(self, payload: bytes) -> bytes:
        try:
            # Checked first: the decompressor would believe it, and ask for as much memory.
            size = zstandard.frame_content_size(payload)
            if not 0 <= size <= MAX_BODY_BYTES:
                raise ValueError(f"it would be {size} bytes")
            return self._decompressor.decompress(payload)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error


def _sealed(format_: int, payload: bytes, place: str) -> bytes:
    head = bytes((format_,))
    checksum = zlib.crc32(payload, zlib.crc32(head + place.encode()))
    return b"".join((head, checksum.to_bytes(4, "big"), payload))
