"""The reference model's DRAIN: patterns of span names (processors §4.9 and appendix B).

Literal and slow. The bound on the number of clusters is far away and not modelled.
"""

import unicodedata
from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.reference_labels import Entity, cut

WILDCARD, END = "<_>", "<END>"
MIN_TOKENS, MAX_TOKENS = 3, 80
PREFIX_TOKENS = 27
MAX_CHILDREN = 1000
SIMILARITY_TOO_FEW, SIMILARITY_PARTS = 3, 10  # at least 0.3

_WHITE_SPACE = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(code) for code in range(0x2000, 0x200B)
}
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF") | {
    chr(code)
    for first, last in ((0xFF10, 0xFF19), (0xFF21, 0xFF26), (0xFF41, 0xFF46))
    for code in range(first, last + 1)
}


def _is_number(character: str) -> bool:
    return unicodedata.category(character).startswith("N")


def _is_alphanumeric(character: str) -> bool:
    return unicodedata.category(character)[0] in "LN"


def _run(text: str, start: int, belongs: Callable[[str], bool]) -> int:
    """Return the end of the run of characters from ``start`` that belong together."""
    end = start
    while end < len(text) and belongs(text[end]):
        end += 1
    return end


def tokens(name: str) -> list[str]:
    """Cut a name into tokens; joined they are the name again."""
    found: list[str] = []
    start = 0
    while start < len(name):
        end = _token_end(name, start)
        found.append(name[start:end])
        start = end
    return found


def _token_end(name: str, start: int) -> int:
    character, rest = name[start], name[start + 1 :]
    if character == "%":
        is_encoded = len(rest) < 2 or set(rest[:2]) <= _HEX_DIGITS
        return min(start + 3, len(name)) if is_encoded else start + 1
    if character in _WHITE_SPACE:
        return _run(name, start, _WHITE_SPACE.__contains__)
    if character in _HEX_DIGITS:
        end = _run(name, start, _HEX_DIGITS.__contains__)
        if name[end : end + 1] == "-":
            return _run(name, end, (_HEX_DIGITS | {"-"}).__contains__)
        return _run(name, end, _is_alphanumeric)
    if _is_alphanumeric(character):
        return _run(name, start, _is_alphanumeric)
    return start + 1


def looks_like_data(token: str) -> bool:
    """Return whether a token is so full of digits that it is no word."""
    numbers = sum(map(_is_number, token))
    is_plain = all(
        _is_number(character) or character in _HEX_DIGITS or unicodedata.category(character).startswith("P")
        for character in token
    )
    return (is_plain and numbers > 0) or numbers > max(len(token.encode()) // 4, 1)


@dataclass(slots=True)
class _Node:
    children: dict[str, "_Node"] = field(default_factory=dict)
    clusters: list[list[str]] = field(default_factory=list)


class Drain:
    """One tenant's model of span names, in a mode: off, ``dry_run`` or ``enabled``.

    A pattern may be longer than the names it stands for: it is cut as any other value (§0.5 step 1, once more).
    """

    def __init__(self, mode: str, max_value_bytes: int = 0) -> None:
        self.mode = mode
        self._max_value_bytes = max_value_bytes
        self._by_length: dict[int, _Node] = {}
        self.lines = 0
        self.tokens = 0
        self._sanitized = 0
        self._patterns = 0
        self._skipped: Tally[str] = Tally()

    def apply(self, entity: Entity) -> Entity:
        """Learn from the span name of a label set, an empty one if it has none, and replace it if enabled."""
        if not self.mode:
            return entity
        labels = dict(entity)
        name = labels.get("span_name", "")
        pattern = self.train(name)
        if pattern is None or pattern == name:
            return entity
        self._sanitized += 1
        if self.mode != "enabled":
            return entity
        labels["span_name"] = cut(pattern.encode(), self._max_value_bytes).decode()
        return tuple(sorted(labels.items()))

    def train(self, name: str) -> str | None:
        """Return the pattern of a name after learning from it; None if the name is too short or too long."""
        line = [*tokens(name), END]
        if len(line) < MIN_TOKENS:
            self._skipped["too_few_tokens"] += 1
            return None
        if len(line) > MAX_TOKENS:
            self._skipped["too_many_tokens"] += 1
            return None
        self.lines += 1
        self.tokens += len(line)
        cluster = self._most_similar(line)
        if cluster is None:
            cluster = self._insert(line)
        else:
            cluster[:] = [old if old == new else WILDCARD for old, new in zip(cluster, line, strict=True)]
        return "".join(cluster[:-1])

    def stats(self) -> dict[str, int]:
        """Return the totals, named as the engine's."""
        return {
            "spans_sanitized": self._sanitized,
            "drain_patterns_detected": self._patterns,
            **{f"drain_lines_skipped_{why}": self._skipped[why] for why in ("too_few_tokens", "too_many_tokens")},
        }

    def _most_similar(self, line: list[str]) -> list[str] | None:
        node = self._by_length.get(len(line))
        for token in line[: _levels(line)]:
            if node is None:
                return None
            node = node.children.get(WILDCARD) or node.children.get(token)
        best: list[str] | None = None
        best_rank = (0, 0)
        for cluster in node.clusters if node else ():
            rank = (_equal_tokens(cluster, line), cluster.count(WILDCARD))
            if best is None or rank > best_rank:
                best, best_rank = cluster, rank
        return best if best_rank[0] * SIMILARITY_PARTS >= SIMILARITY_TOO_FEW * len(line) else None

    def _insert(self, line: list[str]) -> list[str]:
        """Return a new cluster, or the one of the same name that a wildcard hides from the search."""
        node = self._by_length.setdefault(len(line), _Node())
        for token in line[: _levels(line)]:
            is_wild = looks_like_data(token) or len(node.children) >= MAX_CHILDREN - 1
            node = node.children.setdefault(WILDCARD if is_wild else token, _Node())
        for cluster in node.clusters:
            if cluster == line:
                return cluster
        self._patterns += 1
        node.clusters.append(line)
        return line


def _levels(line: list[str]) -> int:
    return min(len(line) - 1, PREFIX_TOKENS)


def _equal_tokens(cluster: list[str], line: list[str]) -> int:
    return sum(old == new != WILDCARD for old, new in zip(cluster, line, strict=True))
