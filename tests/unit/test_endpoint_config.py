import pickle
from typing import Any

import pytest

from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.errors import EndpointError, InvalidEndpointError
from tenants.endpoint.headers import is_protected, request_headers
from tenants.settings.protobuf_message import ProtobufMessage


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"url": ""}, "url"),
        ({"url": "metrics.example/write"}, "url"),
        ({"url": "ftp://metrics.example/"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://metrics.example:99999/"}, "url"),
        ({"url": "http://metrics.example:0/"}, "url"),
        ({"url": "http://metrics.example:s3cret/"}, "url"),
        ({"url": "http://xn--a/"}, "url"),
        ({"url": "http://[::1/"}, "url"),
        ({"url": "http://metrics.example/\n"}, "url"),
        ({"headers": (("", "s3cret"),)}, "headers[0]"),
        ({"headers": (("A", "1"), ("Authorization: s3cret", ""))}, "headers[1]"),
        ({"headers": (("Authorization", "a\r\nX: s3cret"),)}, "headers.Authorization"),
        ({"headers": (("Authorization", "s3cret\x00"),)}, "headers.Authorization"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"max_queue_bytes": 0}, "max_queue_bytes"),
        ({"min_backoff_s": -1}, "min_backoff_s"),
        ({"max_backoff_s": 0.001}, "max_backoff_s"),
        ({"max_sample_age_s": 0}, "max_sample_age_s"),
    ],
)
def test_what_no_request_can_be_made_of_is_refused_by_field_without_its_value(
    settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidEndpointError) as caught:
        EndpointConfig(**({"url": "http://metrics.example/write"} | settings))
    assert caught.value.field == field
    assert "s3cret" not in str(caught.value)


def test_errors_survive_pickling_under_one_root() -> None:
    error = pickle.loads(pickle.dumps(InvalidEndpointError("url", "not a URL")))
    assert issubclass(InvalidEndpointError, EndpointError)
    assert isinstance(error, InvalidEndpointError)
    assert (error.field, error.problem, str(error)) == ("url", "not a URL", "url: not a URL")


def test_representation_shows_no_secret() -> None:
    config = EndpointConfig(
        "https://user:s3cret-one@metrics.example:8443/write?token=s3cret-two#s3cret-three",
        headers=(("Authorization", "Bearer s3cret-four"), ("X-Key", "s3cret-five")),
    )
    for text in (repr(config), str(config), config.label, config.display_url):
        assert "s3cret" not in text
        assert "https://metrics.example:8443/write" in text
    assert "Authorization" in repr(config)


def test_secrets_are_header_values_password_and_query_but_not_the_tenant_header() -> None:
    config = EndpointConfig(
        "https://user:p%40ssword@metrics.example/write?token=abc",
        headers=(("Authorization", "Bearer topsecret"), ("x-scope-orgid", "acme-corp"), ("X-Short", "ab")),
    )
    assert set(config.secrets) == {"p@ssword", "token=abc", "Bearer topsecret", "topsecret"}


def test_label_is_the_name_where_there_is_one() -> None:
    assert EndpointConfig("http://metrics.example/write", name="main").label == "main"
    assert EndpointConfig("http://metrics.example/write").label == "http://metrics.example/write"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Host", True),
        (" content-TYPE ", True),
        ("Content-Length", True),
        ("X-Prometheus-Remote-Write-Version", True),
        ("User-Agent", True),
        ("Transfer-Encoding", True),
        ("Connection", True),
        ("Retry-Attempt", True),
        ("Authorization", False),
        ("X-Scope-OrgID", False),
        ("Cookie", False),
    ],
)
def test_headers_of_the_protocol_are_protected_in_any_spelling(name: str, expected: bool) -> None:
    assert is_protected(name) is expected


def test_of_configured_headers_that_differ_in_case_the_last_counts() -> None:
    config = EndpointConfig(
        "http://metrics.example/write", headers=(("X-Scope-OrgID", "one"), ("x-scope-orgid ", " two "))
    )
    assert request_headers(config, "1.2.3", 0, ProtobufMessage.V1)["x-scope-orgid"] == "two"
