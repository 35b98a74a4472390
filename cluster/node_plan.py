"""What may live on which node: pure, from the nodes as the cluster knows them."""

from collections.abc import Iterable, Sequence
from typing import Final

from cluster.ray_compat import Node

GATEWAY: Final = "gateway-"
"""What the names of gateways begin with."""

_ID_CHARACTERS: Final = 8


def offers_slots(nodes: Iterable[Node]) -> bool:
    """Whether the nodes say by slots what may live on them (:func:`cluster.ray_compat.has_slots`)."""
    return any(resource.endswith("_slot") for node in nodes if node.is_alive for resource in node.resources)


def gateway_places(nodes: Sequence[Node], slot: str) -> dict[str, str]:
    """Return the gateways that there shall be, by name, with the id of the node that each is bound to.

    One for each node that offers a slot: a gateway takes the ports of its node. In a cluster without slots there is
    one, bound to none.
    """
    if not offers_slots(nodes):
        return {f"{GATEWAY}0": ""}
    return {f"{GATEWAY}{node.id[:_ID_CHARACTERS]}": node.id for node in nodes if node.offers(slot)}


def has_room(nodes: Sequence[Node], slot: str) -> bool:
    """Whether an actor of this kind could live on a node that stays."""
    is_slotted = offers_slots(nodes)
    return any(node.offers(slot) if is_slotted else node.is_alive and not node.is_draining for node in nodes)


def draining(nodes: Iterable[Node]) -> dict[str, Node]:
    """Return the nodes that will leave, by id."""
    return {node.id: node for node in nodes if node.is_alive and node.is_draining}
