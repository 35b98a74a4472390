"""Tokens for tests, with hashes that cost nothing to make."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tenants.identity import KnownToken, Scope, TenantId, Token, TokenTable, hash_secret, new_token


@dataclass
class CountingCheck:
    """Compares secrets with "hashes" made by :func:`known`; while it is shut, checks wait in their threads."""

    checked: list[str] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _open: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def __call__(self, token: Token, secret_hash: str) -> bool:
        with self._lock:
            self.checked.append(token.text)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        assert self._open.wait(10)
        with self._lock:
            self._at_once -= 1
        return secret_hash == f"hash of {token.secret}"


def known(token: Token, tenant: str | None = "acme", *scopes: Scope) -> KnownToken:
    granted = frozenset(scopes or {Scope.INGEST})
    return KnownToken(token.token_id, tenant and TenantId(tenant), granted, f"hash of {token.secret}")


def table(*tokens: KnownToken) -> TokenTable:
    return TokenTable({each.token_id: each for each in tokens})


def really_hashed(token: Token, entry: KnownToken) -> KnownToken:
    """The same with a hash as it is stored."""
    return replace(entry, secret_hash=hash_secret(token))


def wrong(token: Token, count: int = 1) -> Iterable[Token]:
    """Other secrets under the same id."""
    return [Token(token.token_id, new_token().secret) for _ in range(count)]
