"""URLs of receivers that something is sent to. Nothing is sent or looked up here."""

import re
from urllib.parse import urlsplit

_MAX_URL = 2048
_MAX_HOST, _MAX_LABEL = 253, 63  # RFC 1035 §2.3.4


def check_receiver_url(url: str, *, example: str, instead: str) -> str:
    """Return a URL of http or https with a host, and without a password; raise ValueError otherwise.

    Messages never quote the URL: a refused one may hold a password.

    Args:
        url: what is configured.
        example: of a good one.
        instead: the setting that says who sends.
    """
    if len(url) > _MAX_URL or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(f"should be a URL of at most {_MAX_URL} visible ASCII characters")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("has a host or port that cannot be read") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"should be http:// or https:// with a host, such as {example}")
    if problem := _host_problem(parts.hostname):
        raise ValueError(f"has a host {problem}")
    if "@" in parts.netloc:
        raise ValueError(f"should not hold a user or password; use {instead} instead")
    if parts.fragment:
        raise ValueError("should have no fragment (#...)")
    return url


def _host_problem(host: str) -> str:
    """Return why no host can have this name; empty if one can."""
    name = host.removesuffix(".")
    labels = name.split(".")
    if "" in labels:
        return "with nothing before, behind or between its dots"
    if len(name) > _MAX_HOST:
        return f"of more than {_MAX_HOST} characters"
    if max(map(len, labels)) > _MAX_LABEL:
        return f"of which a part between dots has more than {_MAX_LABEL} characters"
    return ""
