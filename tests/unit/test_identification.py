import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tenants.identity import (
    Authenticator,
    AuthMode,
    DenialReason,
    Denied,
    Identification,
    IdentityReason,
    IdentityRefused,
    Principal,
    Scope,
    TenantId,
    Token,
    new_token,
)
from tests.unit.standing_clock import StandingClock
from tests.unit.tokens import CountingCheck, known, table

ACME, GLOBEX, SINGLE = TenantId("acme"), TenantId("globex"), TenantId("single-tenant")
SENDER, ADMIN, OPERATOR, FORWARDER, UNKNOWN = (new_token() for _ in range(5))
TABLE = table(
    known(SENDER),
    known(ADMIN, "acme", Scope.TENANT_ADMIN),
    known(OPERATOR, None, Scope.OPERATOR),
    known(FORWARDER, None, Scope.INGEST),
)


def bearer(token: Token) -> list[str]:
    return [f"Bearer {token.text}"]


def basic(user: str, token: Token) -> list[str]:
    return [f"Basic {base64.b64encode(f'{user}:{token.text}'.encode()).decode()}"]


@dataclass
class Identifications:
    authenticator: Authenticator

    def in_mode(self, mode: AuthMode, single_tenant: TenantId | None = None) -> Identification:
        return Identification(mode, single_tenant, self.authenticator)


@pytest.fixture
async def identifications() -> AsyncIterator[Identifications]:
    authenticator = Authenticator(StandingClock().now_ms, CountingCheck())
    authenticator.put_tokens(1, TABLE)
    yield Identifications(authenticator)
    authenticator.close()


def told(outcome: object) -> object:
    """The reason of a refusal, or the outcome."""
    return outcome.reason if isinstance(outcome, Denied | IdentityRefused) else outcome


@pytest.mark.parametrize(
    ("authorization", "tenants", "outcome"),
    [
        ([], [], DenialReason.MISSING),
        ([], ["acme"], DenialReason.MISSING),
        (["Bearer x"], ["acme"], DenialReason.MALFORMED),
        (bearer(UNKNOWN), [], DenialReason.UNKNOWN),
        # A bad tenant is not even looked at without a good token.
        (bearer(UNKNOWN), ["a/b"], DenialReason.UNKNOWN),
        (bearer(SENDER), [], ACME),
        (bearer(SENDER), [""], ACME),
        (bearer(SENDER), ["acme"], ACME),
        (bearer(SENDER), ["acme:k=v"], ACME),
        (bearer(SENDER), ["acme|acme"], ACME),
        (bearer(SENDER), ["globex"], DenialReason.WRONG_TENANT),
        (bearer(SENDER), ["ACME"], DenialReason.WRONG_TENANT),
        (bearer(SENDER), ["a/b"], IdentityReason.BAD_CHARACTER),
        (bearer(SENDER), ["acme|globex"], IdentityReason.SEVERAL_TENANTS),
        (bearer(SENDER), ["acme", "acme"], IdentityReason.REPEATED_HEADER),
        (basic("acme", SENDER), [], ACME),
        (basic("", SENDER), [], ACME),
        (basic("acme", SENDER), ["acme"], ACME),
        (basic("globex", SENDER), [], DenialReason.WRONG_TENANT),
        (basic("globex", SENDER), ["acme"], DenialReason.WRONG_TENANT),
        (basic("a/b", SENDER), [], IdentityReason.BAD_CHARACTER),
        (bearer(ADMIN), [], DenialReason.LACKS_SCOPE),
        (bearer(OPERATOR), ["acme"], DenialReason.LACKS_SCOPE),
        (bearer(FORWARDER), [], IdentityReason.NO_ORG_ID),
        (bearer(FORWARDER), ["globex"], GLOBEX),
        (basic("globex", FORWARDER), [], GLOBEX),
        (basic("globex", FORWARDER), ["acme"], DenialReason.WRONG_TENANT),
    ],
)
async def test_sender_in_token_mode(
    identifications: Identifications, authorization: list[str], tenants: list[str], outcome: object
) -> None:
    identification = identifications.in_mode("token")

    assert told(await identification.sender(authorization, tenants)) == outcome
    counted = {reason for reason, count in identification.denials.items() if count}
    assert counted == ({outcome} if isinstance(outcome, DenialReason) else set())
    assert set(identification.denials) == set(DenialReason)


@pytest.mark.parametrize(
    ("authorization", "tenants", "outcome"),
    [
        ([], [], IdentityReason.NO_ORG_ID),
        (bearer(SENDER), [], IdentityReason.NO_ORG_ID),
        ([], ["globex"], GLOBEX),
        (bearer(SENDER), ["globex"], GLOBEX),
        (["Bearer of somebody else"], ["globex"], GLOBEX),
        ([], ["a/b"], IdentityReason.BAD_CHARACTER),
    ],
)
async def test_sender_while_headers_are_trusted(
    identifications: Identifications, authorization: list[str], tenants: list[str], outcome: object
) -> None:
    assert told(await identifications.in_mode("trusted_header").sender(authorization, tenants)) == outcome


@pytest.mark.parametrize(
    ("authorization", "tenants", "outcome"),
    [
        ([], [], DenialReason.MISSING),
        ([], ["acme"], DenialReason.MISSING),
        (bearer(ADMIN), [], Principal(ACME, frozenset({Scope.TENANT_ADMIN}), f"token:{ADMIN.token_id}")),
        (bearer(ADMIN), ["globex"], DenialReason.WRONG_TENANT),
        (bearer(SENDER), [], Principal(ACME, frozenset({Scope.INGEST}), f"token:{SENDER.token_id}")),
        (bearer(OPERATOR), [], Principal(None, frozenset({Scope.OPERATOR}), f"token:{OPERATOR.token_id}")),
        (bearer(OPERATOR), ["acme"], Principal(ACME, frozenset({Scope.OPERATOR}), f"token:{OPERATOR.token_id}")),
        (bearer(OPERATOR), ["a/b"], IdentityReason.BAD_CHARACTER),
    ],
)
async def test_principal_in_token_mode(
    identifications: Identifications, authorization: list[str], tenants: list[str], outcome: object
) -> None:
    assert told(await identifications.in_mode("token").principal(authorization, tenants)) == outcome


HEADER_SCOPES = frozenset({Scope.INGEST, Scope.TENANT_ADMIN})


@pytest.mark.parametrize(
    ("authorization", "tenants", "outcome"),
    [
        ([], [], IdentityReason.NO_ORG_ID),
        ([], ["globex"], Principal(GLOBEX, HEADER_SCOPES, "header:globex")),
        # What a proxy before us leaves there is not ours to judge.
        (["Bearer of somebody else"], ["globex"], Principal(GLOBEX, HEADER_SCOPES, "header:globex")),
        (["Bearer of somebody else"], [], IdentityReason.NO_ORG_ID),
        (bearer(UNKNOWN), ["globex"], DenialReason.UNKNOWN),
        (bearer(OPERATOR), [], Principal(None, frozenset({Scope.OPERATOR}), f"token:{OPERATOR.token_id}")),
        (bearer(OPERATOR), ["acme"], Principal(ACME, frozenset({Scope.OPERATOR}), f"token:{OPERATOR.token_id}")),
        (bearer(ADMIN), ["globex"], DenialReason.WRONG_TENANT),
    ],
)
async def test_principal_while_headers_are_trusted(
    identifications: Identifications, authorization: list[str], tenants: list[str], outcome: object
) -> None:
    assert told(await identifications.in_mode("trusted_header").principal(authorization, tenants)) == outcome


async def test_header_is_not_read_while_multi_tenancy_is_off(identifications: Identifications) -> None:
    trusted = identifications.in_mode("trusted_header", SINGLE)
    assert await trusted.sender([], ["a/b"]) == SINGLE
    assert await trusted.principal([], ["a/b"]) == Principal(SINGLE, HEADER_SCOPES, "header:single-tenant")

    by_token = identifications.in_mode("token", SINGLE)
    assert await by_token.sender(bearer(FORWARDER), ["a/b"]) == SINGLE
    assert await by_token.sender(basic("acme", FORWARDER), []) == SINGLE
    assert told(await by_token.sender(bearer(SENDER), [])) is DenialReason.WRONG_TENANT
    assert told(await by_token.sender([], [])) is DenialReason.MISSING


async def test_no_token_is_in_what_clients_and_operators_see(identifications: Identifications) -> None:
    identification = identifications.in_mode("token")
    for token in (SENDER, ADMIN, OPERATOR, FORWARDER, UNKNOWN):
        for authorization in (bearer(token), basic("globex", token), [token.text]):
            for tenants in ([], ["globex"], ["a/b"]):
                outcomes = [await identification.sender(authorization, tenants)]
                outcomes.append(await identification.principal(authorization, tenants))
                assert token.secret not in repr(outcomes)
