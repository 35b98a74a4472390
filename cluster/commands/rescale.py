"""What ``millrace rescale`` does: asks a running service for another number of shard hosts, or of a tenant's shards."""

from typing import Final

import httpx

from cluster.commands.service_access import Service
from cluster.commands.waiting import Waiting
from cluster.errors import CommandError
from cluster.scale_routes import CLUSTER_PATH
from tenants.api.admin_routes import TENANTS_PATH
from tenants.identity.tenant_id import TenantId
from tenants.settings.overrides import MAX_SHARDS

AUTOMATIC: Final = 0
"""Shards of a tenant that is sized by its rate."""

_TRIES: Final = 5
"""How often another operator may be faster."""


def rescale_hosts(service: Service, hosts: int, waiting: Waiting) -> bool:
    """Spread tenants over so many shard hosts; 0: one for every two cores. Return whether it is so everywhere by now.

    Raises:
        CommandError: it is not possible.
    """
    service.patch(CLUSTER_PATH, {"shard_hosts": hosts})

    def look() -> tuple[bool, str]:
        scaled = service.get(CLUSTER_PATH)["shard_hosts"]
        if scaled["problem"]:
            raise CommandError(f"{scaled['problem']}; everything is as before")
        text = f"{len(scaled['running'])} shard hosts"
        if scaled["leaving"]:
            text += f", {', '.join(scaled['leaving'])} still to hand over"
        if scaled["missing"]:
            text += f", {', '.join(scaled['missing'])} without a place"
        return scaled["is_done"], text

    is_done = waiting.until(look)
    scaled = service.get(CLUSTER_PATH)["shard_hosts"]
    waiting.say(is_done, f"tenants are spread over {len(scaled['running'])} shard hosts", scaled)
    return is_done


def rescale_tenant(service: Service, tenant: TenantId, shards: int, waiting: Waiting) -> bool:
    """Divide a tenant into so many shards; 0: by its rate. Return whether every process knows by now.

    Raises:
        CommandError: it is not possible.
    """
    _set_shards(service, tenant, shards)
    is_done = waiting.until_overrides(service, f"{tenant}: on its way to all processes")
    text = f"{tenant} is sized by its rate" if shards == AUTOMATIC else f"{tenant} has {shards} shards"
    waiting.say(is_done, text, {"tenant": str(tenant), "shards": shards or "auto", "is_done": is_done})
    return is_done


def shards_of(text: str | None) -> int:
    """Read a number of shards.

    Raises:
        CommandError: it is none.
    """
    if text == "auto":
        return AUTOMATIC
    if text is None or not text.isdecimal() or not 1 <= int(text) <= MAX_SHARDS:
        raise CommandError(f"--shards should be 1 to {MAX_SHARDS}, or auto")
    return int(text)


def _set_shards(service: Service, tenant: TenantId, shards: int) -> None:
    """Set the operator's limit ``metrics_generator.shards`` of a tenant, and no other."""
    path = f"{TENANTS_PATH}/{tenant}"
    for _ in range(_TRIES):
        known = service.get(path)
        limits = known["limits"]
        limits = {**limits, "metrics_generator": {**limits.get("metrics_generator", {}), "shards": shards}}
        match = {"If-Match": f'"{known["revision"]}"'}
        answer = service.ask("PATCH", path, body={"limits": limits}, headers=match)
        if answer.status_code != httpx.codes.PRECONDITION_FAILED:
            service.checked(answer)
            return
    raise CommandError(f"tenant {tenant} is being changed by others all the time; try again")
