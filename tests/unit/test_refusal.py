import pickle

import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from cluster.gateway.refusal import ANSWERS, Code, RefusalReason, Refused, identity_refused
from tenants.identity.denied import Denial, DenialReason, Denied
from tenants.identity.tenant_id import IdentityReason, IdentityRefused

# OTLP, "Failures": the gRPC codes that clients retry; RESOURCE_EXHAUSTED only with RetryInfo.
RETRYABLE_CODES = {
    *("CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"),
}
# OTLP, "Retryable Response Codes".
RETRYABLE_HTTP = {429, 502, 503, 504}


@pytest.mark.parametrize("reason", RefusalReason)
def test_clients_retry_exactly_what_the_table_says(reason: RefusalReason) -> None:
    answer = ANSWERS[reason]

    assert (answer.code.name in RETRYABLE_CODES) is answer.is_retryable
    assert (answer.http_status in RETRYABLE_HTTP) is answer.is_retryable


@pytest.mark.parametrize(
    ("reason", "code", "http_status"),
    [
        # tenancy §1.4
        ("no_org_id", 16, 401),
        ("invalid_org_id", 3, 400),
        ("unauthenticated", 16, 401),
        ("forbidden", 7, 403),
        # tenancy §5.1
        ("blocked", 7, 403),
        # tenancy §4.4
        ("rate_limited", 8, 429),
        ("malformed", 3, 400),
        ("too_large", 3, 413),
        ("unsupported_media_type", 3, 415),
        ("unsupported_encoding", 12, 415),
        ("not_found", 12, 404),
        ("method_not_allowed", 12, 405),
        ("overloaded", 14, 503),
        ("unavailable", 14, 503),
        ("draining", 14, 503),
        ("internal", 13, 500),
    ],
)
def test_answers_are_those_of_the_specification(reason: str, code: int, http_status: int) -> None:
    answer = ANSWERS[RefusalReason(reason)]

    assert (answer.code, answer.http_status) == (code, http_status)


def test_every_reason_has_an_answer() -> None:
    assert ANSWERS.keys() == set(RefusalReason)


@pytest.mark.parametrize("reason", [reason for reason in RefusalReason if not ANSWERS[reason].is_retryable])
def test_final_refusal_cannot_carry_a_time_to_retry(reason: RefusalReason) -> None:
    with pytest.raises(ValueError, match="is final"):
        Refused(reason, "no", retry_after_s=1.0)


def test_status_carries_the_code_the_text_and_when_to_retry() -> None:
    status = Refused(RefusalReason.OVERLOADED, "the gateway is full", retry_after_s=2.5).status()

    assert MessageToDict(status) == {
        "code": 14,
        "message": "the gateway is full (overloaded)",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2.500s"}],
    }
    info = RetryInfo()
    assert status.details[0].Unpack(info)
    assert info.retry_delay.ToNanoseconds() == 2_500_000_000


def test_status_without_a_time_to_retry_has_no_details() -> None:
    status = Refused(RefusalReason.NO_ORG_ID, "no org id").status()

    assert status == Status(code=Code.UNAUTHENTICATED, message="no org id (no_org_id)")


@pytest.mark.parametrize(("retry_after_s", "header"), [(None, None), (0.2, "1"), (1.0, "1"), (1.001, "2"), (60, "60")])
def test_retry_after_is_rounded_up_to_whole_seconds(retry_after_s: float | None, header: str | None) -> None:
    assert Refused(RefusalReason.UNAVAILABLE, "wait", retry_after_s).retry_after_header() == header


def test_long_message_is_cut_but_keeps_its_id() -> None:
    text = Refused(RefusalReason.MALFORMED, "x" * 10_000).text

    assert len(text) < 600
    assert text.endswith("… (malformed)")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (IdentityReason.NO_ORG_ID, RefusalReason.NO_ORG_ID),
        (IdentityReason.REPEATED_HEADER, RefusalReason.INVALID_ORG_ID),
        (IdentityReason.BAD_CHARACTER, RefusalReason.INVALID_ORG_ID),
    ],
)
def test_missing_tenant_is_told_from_an_invalid_one(fault: IdentityReason, reason: RefusalReason) -> None:
    assert identity_refused(IdentityRefused(fault, "look")) == Refused(reason, "look")


@pytest.mark.parametrize(
    ("reason", "refusal", "retry_after_s"),
    [
        (DenialReason.EXPIRED, RefusalReason.UNAUTHENTICATED, None),
        (DenialReason.LACKS_SCOPE, RefusalReason.FORBIDDEN, None),
        (DenialReason.OVERLOADED, RefusalReason.UNAVAILABLE, 1.0),
    ],
)
def test_what_was_denied_is_refused_in_the_words_of_the_receivers(
    reason: DenialReason, refusal: RefusalReason, retry_after_s: float | None
) -> None:
    assert identity_refused(Denied(reason, "look", retry_after_s)) == Refused(refusal, "look", retry_after_s)


@pytest.mark.parametrize("reason", DenialReason)
def test_every_denial_has_a_refusal(reason: DenialReason) -> None:
    assert identity_refused(Denied(reason, "look")).answer.is_retryable == (
        Denied(reason, "").denial is Denial.UNAVAILABLE
    )


def test_refusal_survives_pickling() -> None:
    refused = Refused(RefusalReason.DRAINING, "moving", retry_after_s=1.0)

    assert pickle.loads(pickle.dumps(refused)) == refused
