"""Which tenant sent a request, from the values of its ``X-Scope-OrgID`` header.

One validator for ingest, the management API and the names in the overrides file (tenancy §1). It knows
nothing about whether a tenant exists or may do anything.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

HEADER = "X-Scope-OrgID"
MAX_BYTES = 150

_FORBIDDEN = re.compile(r"[^0-9A-Za-z!\-_.*'()]")


class IdentityReason(StrEnum):
    """Why no tenant could be read. The texts are labels of a counter and never change."""

    NO_ORG_ID = "no_org_id"
    REPEATED_HEADER = "repeated_header"
    SEVERAL_TENANTS = "several_tenants"
    EMPTY = "empty"
    BAD_CHARACTER = "bad_character"
    TOO_LONG = "too_long"
    DOTS_ONLY = "dots_only"
    RESERVED = "reserved"


@dataclass(frozen=True, slots=True)
class IdentityRefused:
    """A request without a usable tenant. Final: sending it again cannot help.

    Attributes:
        reason: what was wrong.
        message: for the client: names the header and how to mend it; never repeats unbounded input.
    """

    reason: IdentityReason
    message: str

    @property
    def is_unauthenticated(self) -> bool:
        """True: gRPC ``UNAUTHENTICATED``, HTTP 401; false: ``INVALID_ARGUMENT``, 400 (tenancy D-3)."""
        return self.reason is IdentityReason.NO_ORG_ID


@dataclass(frozen=True, slots=True, order=True)
class TenantId:
    """A valid tenant id: case-sensitive, 1 to 150 bytes of ASCII (tenancy §1.2).

    Raises:
        ValueError: the text breaks the grammar; the message says how.
    """

    value: str

    def __post_init__(self) -> None:
        """Refuse whatever :func:`parse_tenant` would refuse."""
        if fault := _fault(self.value):
            raise ValueError(f"is not a tenant id: {fault[1]}")

    def __str__(self) -> str:
        return self.value


def parse_tenant(values: Sequence[str]) -> TenantId | IdentityRefused:
    """Read the tenant from all values of the header or gRPC metadata key, in order (tenancy §1.2, §1.4).

    ``a|a`` is ``a``; everything after a colon is metadata and cut off, unread.
    """
    if not values or (len(values) == 1 and not values[0]):
        return IdentityRefused(IdentityReason.NO_ORG_ID, f"no org id: send the header {HEADER} with your tenant id")
    if len(values) > 1:
        return _refused(IdentityReason.REPEATED_HEADER, f"it was sent {len(values)} times; send it once")
    members = [member.partition(":")[0] for member in values[0].split("|")]
    for member in members:
        if fault := _fault(member):
            return _refused(*fault)
    if any(member != members[0] for member in members):
        return _refused(IdentityReason.SEVERAL_TENANTS, "it names more than one tenant; send one")
    return TenantId(members[0])


def identify(values: Sequence[str], single_tenant: TenantId | None) -> TenantId | IdentityRefused:
    """Return the tenant of a request.

    Args:
        values: all values of the header or metadata key.
        single_tenant: the tenant of every request while multi-tenancy is off (the header is then not even
            read, tenancy §1.3); None while it is on.
    """
    return parse_tenant(values) if single_tenant is None else single_tenant


def _refused(reason: IdentityReason, problem: str) -> IdentityRefused:
    return IdentityRefused(reason, f"invalid {HEADER}: {problem}")


def _fault(text: str) -> tuple[IdentityReason, str] | None:
    """Check alphabet, length and dots, in this order, then the reserved names (tenancy §1.2)."""
    if bad := _FORBIDDEN.search(text):
        # !a escapes control bytes and everything a terminal or log could misread.
        where = f"character {bad[0]!a} at position {bad.start() + 1}"
        return (
            IdentityReason.BAD_CHARACTER,
            f"{where} is not allowed; use letters, digits and ! - _ . * ' ( )",
        )
    if not text:
        return IdentityReason.EMPTY, "the tenant id is empty; send 1 to 150 characters"
    if len(text) > MAX_BYTES:
        return IdentityReason.TOO_LONG, f"the tenant id has {len(text)} bytes; {MAX_BYTES} are allowed"
    if text in {".", ".."}:
        return IdentityReason.DOTS_ONLY, "'.' and '..' are not tenant ids; choose another"
    if text == "*" or text.startswith("__"):
        return IdentityReason.RESERVED, "'*' and ids that begin with '__' are reserved; choose another"
    return None
