"""A plain model of Prometheus' relabelling, to compare the engine with.

Written from Prometheus' own (``model/relabel``): labels are a base that does not change, what was deleted from it and
what was added. Only for patterns that mean the same to Python's ``re`` and to RE2.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

_LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))")


class _Builder:
    def __init__(self, base: Mapping[str, str]) -> None:
        self.base = dict(sorted(base.items()))
        self.deleted: set[str] = set()
        self.added: dict[str, str] = {}

    def get(self, name: str) -> str:
        if name in self.added:
            return self.added[name]
        return "" if name in self.deleted else self.base.get(name, "")

    def set(self, name: str, value: str) -> None:
        if value and name:
            self.added[name] = value
        else:
            self.delete(name)

    def delete(self, name: str) -> None:
        self.added.pop(name, None)
        self.deleted.add(name)

    def labels(self) -> list[tuple[str, str]]:
        hidden = self.deleted | self.added.keys()
        return [*((n, v) for n, v in self.base.items() if n not in hidden), *self.added.items()]


def relabelled(labels: Mapping[str, str], rules: Iterable[Mapping[str, Any]]) -> dict[str, str] | None:
    """Apply rules as the engine's JSON has them; None: the series is dropped."""
    builder = _Builder(labels)
    return dict(builder.labels()) if all(_apply(builder, rule) for rule in rules) else None


def _apply(builder: _Builder, rule: Mapping[str, Any]) -> bool:
    value = rule["separator"].join(builder.get(name) for name in rule["source_labels"])
    pattern = re.compile(f"(?s:{rule['regex']})")
    target, replacement = rule["target_label"], rule["replacement"]
    match rule["action"]:
        case "keep":
            return pattern.fullmatch(value) is not None
        case "drop":
            return pattern.fullmatch(value) is None
        case "keepequal":
            return builder.get(target) == value
        case "dropequal":
            return builder.get(target) != value
        case "replace":
            if match := pattern.fullmatch(value):
                name = _expanded(target, match)
                if _LABEL_NAME.fullmatch(name):
                    builder.set(name, _expanded(replacement, match))
        case "lowercase":
            builder.set(target, value.lower())
        case "uppercase":
            builder.set(target, value.upper())
        case "hashmod":
            digest = hashlib.md5(value.encode()).digest()
            builder.set(target, str(int.from_bytes(digest[8:]) % rule["modulus"]))
        case "labelmap":
            for name, each in builder.labels():
                if match := pattern.fullmatch(name):
                    builder.set(_expanded(replacement, match), each)
        case "labeldrop" | "labelkeep" as action:
            for name, _ in builder.labels():
                if (pattern.fullmatch(name) is None) == (action == "labelkeep"):
                    builder.delete(name)
    return True


def _expanded(template: str, match: re.Match[str]) -> str:
    def captured(reference: re.Match[str]) -> str:
        escaped, braced, plain = reference.groups()
        name = braced or plain
        if escaped:
            return "$"
        if name.isdecimal() and (name == "0" or name[0] != "0"):
            return (match[int(name)] or "") if int(name) <= (match.re.groups or 0) else ""
        return match.groupdict().get(name) or ""

    return _REFERENCE.sub(captured, template)
