"""Tells what a page of another site makes a browser send: with the cookies, and so the rights, of who sits there."""

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Those that change nothing."""


def is_same_origin(headers: Headers) -> bool:
    """Whether a request comes from a page of its own host, or from no page at all."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")
