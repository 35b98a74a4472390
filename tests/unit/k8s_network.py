"""What the NetworkPolicies of a namespace let through: an evaluator of as much of their language as k8s/ uses."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.unit.k8s_manifests import Object, matches


@dataclass(frozen=True)
class Party:
    """One end of a connection: a pod with labels in a namespace, or an address that is nobody's pod.

    Attributes:
        name: for messages.
        namespace: of the pod; empty: an address outside.
        labels: of the pod.
        address: its IP address.
    """

    name: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = "10.0.0.1"

    @property
    def _namespace_labels(self) -> dict[str, str]:
        # Kubernetes itself puts this one on every namespace.
        return {"kubernetes.io/metadata.name": self.namespace}

    def is_peer(self, peer: Object, policy_namespace: str) -> bool:
        """Whether a `from` or `to` entry of a policy means it."""
        assert peer.keys() <= {"podSelector", "namespaceSelector", "ipBlock"}
        if block := peer.get("ipBlock"):
            address = ipaddress.ip_address(self.address)
            inside = address in ipaddress.ip_network(block["cidr"])
            return inside and not any(address in ipaddress.ip_network(out) for out in block.get("except", []))
        if not self.namespace:
            return False
        if (selector := peer.get("namespaceSelector")) is not None:
            is_there = matches(selector, self._namespace_labels)
        else:
            is_there = self.namespace == policy_namespace
        return is_there and matches(peer.get("podSelector", {}), self.labels)


def is_allowed(policies: Iterable[Object], source: Party, target: Party, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection may be made: the policies of both ends have to let it through."""
    all_policies = list(policies)
    return _lets(all_policies, "Egress", source, target, port, protocol) and _lets(
        all_policies, "Ingress", target, source, port, protocol
    )


def _lets(policies: list[Object], direction: str, of: Party, peer: Party, port: int, protocol: str) -> bool:
    applying = [p for p in policies if direction in p["spec"]["policyTypes"] and _selects(p, of)]
    if not applying:
        return True  # whom no policy selects is free
    return any(
        _names(rule, direction, peer, policy) and _opens(rule, port, protocol)
        for policy in applying
        for rule in policy["spec"].get(direction.lower(), [])
    )


def _selects(policy: Object, party: Party) -> bool:
    return policy["metadata"]["namespace"] == party.namespace and matches(policy["spec"]["podSelector"], party.labels)


def _names(rule: Object, direction: str, peer: Party, policy: Object) -> bool:
    peers = rule.get("from" if direction == "Ingress" else "to")
    # Absent or empty means everybody.
    return not peers or any(peer.is_peer(each, policy["metadata"]["namespace"]) for each in peers)


def _opens(rule: Object, port: int, protocol: str) -> bool:
    ports: list[Object] = rule.get("ports", [])
    return not ports or any(each.get("protocol", "TCP") == protocol and port in _range(each) for each in ports)


def _range(opened: Object) -> range:
    first: int = opened["port"]
    return range(first, opened.get("endPort", first) + 1)


def ports_of(policies: Iterable[Object], direction: str) -> Iterator[tuple[Object, int]]:
    """Every port that a policy names, with the policy."""
    for policy in policies:
        for rule in policy["spec"].get(direction.lower(), []):
            for each in rule.get("ports", []):
                yield policy, each["port"]
