import ipaddress
from pathlib import Path

import pytest

from tenants.settings import SettingsError, parse_service_config
from tenants.settings.model import validate
from tenants.settings.remote_write_targets import RemoteWriteTargets, is_public
from tenants.settings.runtime_file import Failed, Loaded, RuntimeFile

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::808:808", "2002:808:808::1"]
FORBIDDEN = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1", "127.1", "2130706433", "0x7f.1", "017700000001"],
    "unspecified": ["0.0.0.0", "0.1.2.3", "::", "0"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd00:ec2::254"],
    "link-local": ["169.254.1.1", "169.254.169.254", "fe80::1", "fe80::1%eth0", "fec0::1"],
    "metadata": ["168.63.129.16", "100.100.100.200", "192.0.0.192"],
    "multicast": ["224.0.0.1", "239.1.2.3", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "100.64.0.1", "198.18.0.1", "192.0.2.1", "2001:db8::1", "3fff::1"],
    "holds another": ["::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", "2001:0:7f00:1::1"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_may_be_sent_to(address: str) -> None:
    assert RemoteWriteTargets().address_problem(address) is None


@pytest.mark.parametrize("address", [address for kind in FORBIDDEN.values() for address in kind])
def test_address_that_is_not_public_is_refused_however_it_is_written(address: str) -> None:
    targets = RemoteWriteTargets()
    assert "not public" in (targets.address_problem(address) or "")
    host = f"[{address.partition('%')[0]}]" if ":" in address else address
    assert "not public" in (targets.url_problem(f"http://{host}:9090/push") or "")


def test_whole_private_ranges_are_refused() -> None:
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "fc00::/7"):
        parsed = ipaddress.ip_network(network)
        assert not is_public(parsed[0])
        assert not is_public(parsed[-1])


def test_listed_network_is_allowed_and_no_other() -> None:
    targets = RemoteWriteTargets(allowed_private=("10.1.0.0/16", "fd00::/8"))
    assert targets.address_problem("10.1.255.255") is None
    assert targets.address_problem("::ffff:10.1.2.3") is None
    assert targets.address_problem("fd12::1") is None
    assert targets.address_problem("10.2.0.0")
    assert targets.address_problem("127.0.0.1")


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("metrics.example", True),
        ("METRICS.example.", True),
        ("a.hosted.example", True),
        ("a.b.hosted.example", True),
        ("hosted.example", False),
        ("xhosted.example", False),
        ("metrics.example.evil.test", False),
        ("8.8.8.8", True),
        ("134744072", True),
        ("8.8.4.4", False),
    ],
)
def test_hosts_match_the_list(host: str, is_allowed: bool) -> None:
    targets = RemoteWriteTargets(allowed_hosts=("Metrics.example", "*.hosted.example", "8.8.8.8"))
    assert (targets.url_problem(f"https://{host}/push") is None) is is_allowed


@pytest.mark.parametrize(
    ("targets", "path"),
    [
        ({"allowed_hosts": ["https://h"]}, "allowed_hosts[0]"),
        ({"allowed_hosts": ["a.*.b"]}, "allowed_hosts[0]"),
        ({"allowed_hosts": ["*"]}, "allowed_hosts[0]"),
        ({"allowed_private": ["10.1.2.3/8"]}, "allowed_private[0]"),
        ({"allowed_private": ["ten"]}, "allowed_private[0]"),
        ({"allow": []}, "allow"),
    ],
)
def test_targets_are_checked(targets: object, path: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validate(RemoteWriteTargets, targets)
    assert [fault.path for fault in caught.value.faults] == [path]


def loaded(text: str, config: str) -> Loaded | Failed:
    answer = RuntimeFile(
        Path("runtime.yaml"), lambda _: text.encode(), config=parse_service_config(config.encode(), {})
    ).poll()
    assert isinstance(answer, Loaded | Failed)
    return answer


@pytest.mark.parametrize("tenant", ["acme", "'*'"])
def test_entry_of_the_runtime_file_is_refused_with_path_and_line(tenant: str) -> None:
    text = f"""
overrides:
  {tenant}:
    metrics_generator:
      remote_write:
        - url: https://8.8.8.8/push
        - url: http://169.254.169.254/latest
"""
    answer = loaded(text, "")
    assert isinstance(answer, Failed)
    (fault,) = answer.faults
    assert fault.path.endswith("metrics_generator.remote_write[1].url")
    assert fault.line == 7
    assert "remote_write_targets.allowed_private" in fault.message
    assert isinstance(loaded(text, "remote_write_targets: {allowed_private: [169.254.0.0/16]}"), Loaded)


def test_defaults_are_checked_and_the_services_own_list_is_trusted() -> None:
    own = "remote_write: [{url: 'http://127.0.0.1/push'}]"
    assert parse_service_config(own.encode(), {}).remote_write
    defaults = "overrides: {defaults: {metrics_generator: {remote_write: [{url: 'http://127.0.0.1/push'}]}}}"
    with pytest.raises(SettingsError) as caught:
        parse_service_config(defaults.encode(), {})
    assert [fault.path for fault in caught.value.faults] == ["overrides.defaults.metrics_generator.remote_write[0].url"]
    listed = "remote_write_targets: {allowed_hosts: [metrics.example]}\n"
    with pytest.raises(SettingsError, match="allowed_hosts"):
        parse_service_config((listed + defaults.replace("127.0.0.1", "other.example")).encode(), {})
