import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.identity import IdentityReason, IdentityRefused, TenantId, identify, parse_tenant

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!-_.*'()"


@pytest.mark.parametrize(
    ("header", "tenant"),
    [
        ("acme", "acme"),
        ("a" * 150, "a" * 150),
        ("...", "..."),
        ("A1!-_.*'()", "A1!-_.*'()"),
        ("Tenant-1", "Tenant-1"),
        ("_one-underscore", "_one-underscore"),
        ("a*", "a*"),
        ("a|a", "a"),
        ("a|a|a", "a"),
        ("acme:k=v", "acme"),
        ("acme:garbage", "acme"),
        ("acme:", "acme"),
        ("acme:k=ü/%", "acme"),
        ("acme:k=v|acme:k=w", "acme"),
        ("123", "123"),
    ],
)
def test_valid_header_gives_its_tenant(header: str, tenant: str) -> None:
    assert parse_tenant([header]) == TenantId(tenant)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "no_org_id"),
        ([""], "no_org_id"),
        (["a", "b"], "repeated_header"),
        (["a", "a"], "repeated_header"),
        (["a", ""], "repeated_header"),
        (["a" * 151], "too_long"),
        (["bad/id"], "bad_character"),
        (["back\\slash"], "bad_character"),
        (["a b"], "bad_character"),
        ([" "], "bad_character"),
        (["a,b"], "bad_character"),
        (["abc%2F"], "bad_character"),
        (["ü"], "bad_character"),
        (["a\x00b"], "bad_character"),
        (["a\n"], "bad_character"),
        (["a" * 150 + "/"], "bad_character"),  # the alphabet is checked before the length
        (["."], "dots_only"),
        ([".."], "dots_only"),
        (["a|b"], "several_tenants"),
        (["a|A"], "several_tenants"),
        (["a|b/c"], "bad_character"),
        (["|"], "empty"),
        (["a|"], "empty"),
        ([":k=v"], "empty"),
        (["*"], "reserved"),
        (["*:k=v"], "reserved"),
        (["__millrace"], "reserved"),
        (["__"], "reserved"),
    ],
)
def test_invalid_header_is_refused_with_its_reason(values: list[str], reason: str) -> None:
    refused = parse_tenant(values)
    assert isinstance(refused, IdentityRefused)
    assert refused.reason == reason
    assert "X-Scope-OrgID" in refused.message


def test_only_a_missing_tenant_is_unauthenticated() -> None:
    assert [r for r in IdentityReason if IdentityRefused(r, "").is_unauthenticated] == [IdentityReason.NO_ORG_ID]


def test_reasons_are_the_published_ones() -> None:
    assert list(IdentityReason) == [
        "no_org_id",
        "repeated_header",
        "several_tenants",
        "empty",
        "bad_character",
        "too_long",
        "dots_only",
        "reserved",
    ]


@given(st.lists(st.text(max_size=400), max_size=3))
def test_any_input_gives_a_tenant_or_a_short_printable_refusal(values: list[str]) -> None:
    result = parse_tenant(values)
    if isinstance(result, TenantId):
        assert set(result.value) <= set(ALPHABET)
        assert 1 <= len(result.value) <= 150
    else:
        assert len(result.message) < 200
        assert result.message.isascii()
        assert result.message.isprintable()


def test_huge_header_is_not_echoed() -> None:
    refused = parse_tenant(["x" * 1_000_000 + "\x1b[2J"])
    assert isinstance(refused, IdentityRefused)
    assert len(refused.message) < 200
    assert "\x1b" not in refused.message


@given(st.text(alphabet=ALPHABET, min_size=1, max_size=150))
def test_ids_that_parse_can_be_written_back(text: str) -> None:
    result = parse_tenant([text])
    if isinstance(result, TenantId):
        assert str(result) == text
        assert parse_tenant([str(result)]) == result


@pytest.mark.parametrize("value", ["", "a/b", "*", "..", "__x", "a" * 151, "a|a", "a:k=v"])
def test_tenant_id_cannot_be_made_invalid(value: str) -> None:
    with pytest.raises(ValueError, match="is not a tenant id"):
        TenantId(value)


@pytest.mark.parametrize("values", [[], [""], ["bad/id"], ["other"], ["a", "b"]])
def test_header_is_not_read_while_multitenancy_is_off(values: list[str]) -> None:
    single = TenantId("single-tenant")
    assert identify(values, single) == single


def test_header_is_read_while_multitenancy_is_on() -> None:
    assert identify(["acme"], None) == TenantId("acme")
    assert isinstance(identify([], None), IdentityRefused)


def test_tenant_ids_compare_by_exact_case_and_pickle() -> None:
    assert TenantId("Tenant-1") != TenantId("tenant-1")
    assert len({TenantId("a"), TenantId("a"), TenantId("b")}) == 2
    assert pickle.loads(pickle.dumps(TenantId("a"))) == TenantId("a")
    refused = parse_tenant([])
    assert pickle.loads(pickle.dumps(refused)) == refused
