import base64
import pickle
from pathlib import Path
from typing import Any

import pytest

from tenants.endpoint.config import HeaderFrom
from tenants.endpoint.endpoint_settings import endpoint_configs
from tenants.settings import SettingsError
from tenants.settings.model import validate
from tenants.settings.plain import plain
from tenants.settings.remote_write import RemoteWriteEndpoint
from tenants.settings.secret_source import SecretSource
from tests.unit.tenant_work import ACME, book, overrides, spans_on

SECRET = "s3cr3t-value"
URL = "https://metrics.example/push"


def endpoint(**keys: Any) -> RemoteWriteEndpoint:
    return validate(RemoteWriteEndpoint, {"url": URL, **keys})


def faults(**keys: Any) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        endpoint(**keys)
    assert SECRET not in str(caught.value)
    return {fault.path: fault.message for fault in caught.value.faults}


@pytest.mark.parametrize(
    ("keys", "path", "message"),
    [
        ({"basic_auth": {"password": SECRET, "password_env": "A"}}, "basic_auth", "at most one of password"),
        ({"basic_auth": {"username": "a:b"}}, "basic_auth.username", "colon"),
        ({"basic_auth": {"password": f"{SECRET}\n"}}, "basic_auth.password", "control characters"),
        ({"basic_auth": {"password_env": "A-B"}}, "basic_auth.password_env", "pattern"),
        ({"basic_auth": {"password_file": ""}}, "basic_auth.password_file", "path"),
        ({"basic_auth": {"password_file": "a\0b"}}, "basic_auth.password_file", "path"),
        ({"authorization": {}}, "authorization", "one of credentials"),
        ({"authorization": {"credentials": SECRET, "credentials_file": "/f"}}, "authorization", "one of credentials"),
        ({"authorization": {"type": "basic", "credentials": SECRET}}, "authorization.type", "use basic_auth instead"),
        ({"authorization": {"type": "a b", "credentials": SECRET}}, "authorization.type", "scheme"),
        ({"authorization": {"credentials": f"{SECRET}\r\nX: y"}}, "authorization.credentials", "visible ASCII"),
        ({"tls_config": {"cert_file": "/c"}}, "tls_config", "together"),
        ({"tls_config": {"key_file": "/k"}}, "tls_config", "together"),
        ({"tls_config": {"server_name": "a b"}}, "tls_config.server_name", "host name"),
        ({"tls_config": {"ca": SECRET}}, "tls_config.ca", "unknown key"),
        ({"url": "http://h/", "tls_config": {}}, "", "use a URL with https"),
        ({"headers_from": {"X-A": {}}}, "headers_from.X-A", "either file or env"),
        ({"headers_from": {"X-A": {"file": "/f", "env": "E"}}}, "headers_from.X-A", "either file or env"),
        ({"headers_from": {"Host": {"env": "E"}}}, "headers_from.Host", "Millrace sets itself"),
        ({"headers_from": {"X-A": {"env": "E"}, "x-a": {"env": "E"}}}, "headers_from", "same header"),
        ({"headers_from": {"X-A": {"env": "E"}}, "headers": {"x-a": SECRET}}, "", "keep one"),
    ],
)
def test_settings_that_say_too_little_or_too_much_are_refused(keys: dict[str, Any], path: str, message: str) -> None:
    assert message in faults(**keys)[path]


_WAYS: dict[str, dict[str, Any]] = {
    "basic_auth": {"basic_auth": {"username": "u", "password": SECRET}},
    "authorization": {"authorization": {"credentials": SECRET}},
    "header": {"headers": {"authorization": SECRET}},
    "header from": {"headers_from": {"AUTHORIZATION": {"env": "E"}}},
}


@pytest.mark.parametrize("first", _WAYS)
@pytest.mark.parametrize("second", _WAYS)
def test_only_one_authorization_is_taken(first: str, second: str) -> None:
    both = _WAYS[first] | _WAYS[second]
    if first == second:
        assert endpoint(**both)
    elif {first, second} == {"header", "header from"}:
        assert "keep one" in faults(**both)[""]
    else:
        assert "at most one of basic_auth, authorization" in faults(**both)[""]


def test_paths_are_absolute_whatever_the_working_directory_of_the_sender_is() -> None:
    made = endpoint(tls_config={"ca_file": "ca.pem"}, authorization={"credentials_file": "token"})
    assert made.tls_config is not None
    assert made.tls_config.ca_file == str(Path("ca.pem").absolute())
    assert made.authorization is not None
    assert made.authorization.source == SecretSource(file=str(Path("token").absolute()))


def test_secrets_are_masked_and_travel() -> None:
    made = endpoint(**_WAYS["basic_auth"])
    other = endpoint(**_WAYS["authorization"])
    for each in (made, other):
        assert SECRET not in f"{each!r} {each} {plain(each)} {each.model_dump_json()}"
        assert pickle.loads(pickle.dumps(each)) == each


def senders(own: dict[str, str] | None = None, **keys: Any) -> Any:
    entry = spans_on(remote_write=[{"url": URL, **keys}], remote_write_headers=own or {})
    (sender,) = endpoint_configs(book(overrides(acme=entry), "multitenancy_enabled: true").get(ACME).settings)
    return sender


def test_inline_secrets_become_headers_and_others_are_read_by_the_sender() -> None:
    basic = dict(senders(**_WAYS["basic_auth"]).headers)["Authorization"]
    assert basic == "Basic " + base64.b64encode(f"u:{SECRET}".encode()).decode()
    assert dict(senders(basic_auth={"username": "key"}).headers)["Authorization"] == "Basic a2V5Og=="
    token = senders(authorization={"type": "Token", "credentials": "t"})
    assert dict(token.headers)["Authorization"] == "Token t"
    from_file = senders(authorization={"credentials_file": "/f"})
    assert from_file.headers_from == (HeaderFrom("Authorization", SecretSource(file="/f"), prefix="Bearer "),)
    from_env = senders(basic_auth={"username": "u", "password_env": "E"})
    assert from_env.headers_from == (HeaderFrom("Authorization", SecretSource(env="E"), user="u"),)
    assert senders(tls_config={"server_name": "n"}).tls.server_name == "n"


@pytest.mark.parametrize("way", _WAYS)
def test_header_of_the_tenant_takes_the_place_of_any_authorization(way: str) -> None:
    sender = senders({"AUTHORIZATION": "own"}, **_WAYS[way])
    assert {name.lower(): value for name, value in sender.headers}["authorization"] == "own"
    assert sender.headers_from == ()


def test_org_id_may_come_from_a_file() -> None:
    source = {"headers_from": {"x-scope-orgid": {"file": "/f"}}}
    assert dict(senders(**source).headers) == {}
    assert dict(senders({"X-Scope-OrgID": "mapped"}, **source).headers) == {"X-Scope-OrgID": "mapped"}
    assert dict(senders().headers) == {"X-Scope-OrgID": "acme"}


def test_only_endpoints_of_overrides_are_confined() -> None:
    static = "remote_write: [{url: 'http://127.0.0.1/'}]"
    (trusted,) = endpoint_configs(book(overrides(acme=spans_on()), static).get(ACME).settings)
    assert not trusted.is_confined
    for entries in (overrides(acme=spans_on(remote_write=[{"url": URL}])), {**overrides(**{"*": spans_on()})}):
        defaults = f"overrides: {{defaults: {{metrics_generator: {{remote_write: [{{url: '{URL}'}}]}}}}}}\n"
        (confined,) = endpoint_configs(book(entries, defaults + static).get(ACME).settings)
        assert confined.is_confined
