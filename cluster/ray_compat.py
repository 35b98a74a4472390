"""The only place that knows how Ray is started, and which of its settings we lean on (Ray 2.60).

Nothing here imports ray before the environment is set: Ray reads it when it is imported.
"""

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cluster.errors import StartError

NAMESPACE: Final = "millrace"

_SLOT: Final = "_slot"
"""What the names of the custom resources end with that say where actors may live."""

_OBJECT_STORE_BYTES = 256 << 20
"""Only groups of frames in flight live in the object store: a few calls of at most a few MiB for each shard host."""

INLINE_TOTAL_BYTES = 64 << 20
INLINE_BYTES = 1 << 20
"""Arguments up to this size travel inside the call. Groups are mostly 100-512 KiB, which Ray's default of 100 KiB sends
through shared memory at three times the latency."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster, as the cluster knows it: one that is lost is alive until Ray notices.

    Attributes:
        id: of this life of the node.
        address: where it is reached.
        is_alive: whether it is part of the cluster.
        is_draining: whether it will leave; no actor is placed there any more, and those that are there have to go.
        leaves_at_ms: when it will be gone, if it is draining; 0: nobody said.
        resources: what it offers actors, slots among them.
    """

    id: str
    address: str
    is_alive: bool
    is_draining: bool
    leaves_at_ms: int
    resources: Mapping[str, float]

    def offers(self, slot: str) -> bool:
        """Whether actors of this kind may be placed here."""
        return self.is_alive and not self.is_draining and self.resources.get(slot, 0) >= 1


def start(address: str | None) -> None:
    """Become the driver of the cluster at ``address``, or start one of our own that ends with this process.

    Raises:
        StartError: nobody is there, or the token is wrong.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Bodies and frames of 100 KiB and more come and go thousands of times a second: taking each from the system anew
    # costs page faults, a twentieth of all CPU. Read by glibc when the processes start.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(64 << 20))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(256 << 20))
    # gRPC prints a line for every request with an encoding that it does not know: a client could fill the log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if address is None:
        _start_embedded()
    else:
        _attach(address)


def _start_embedded() -> None:
    # Loopback: Ray replaces a loopback address by the machine's, unless it takes the machine for a desktop; this
    # switch makes it do so, and every listener binds 127.0.0.1. The token keeps other users of the machine out: who
    # reaches a Ray port can run code.
    os.environ.update(
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_max_direct_call_object_size=str(INLINE_BYTES),
        RAY_task_rpc_inlined_bytes_limit=str(INLINE_TOTAL_BYTES),
    )
    # Four times a second it would read what every process has: a fifth of what the raylet does at rest.
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "1000")
    # Nobody looks at Ray's own list of calls; 0 is never.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    import ray  # noqa: PLC0415
    from ray._private import worker  # noqa: PLC0415

    ray.init(
        address="local",
        namespace=NAMESPACE,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        configure_logging=False,
    )
    # Nothing says beforehand that these shall not be started. The first reads every log file for a driver that does not
    # want them, the second would add nodes, the third has nothing to do without the dashboard: at rest they took a
    # seventh of all CPU.
    node: Any = worker._global_node
    for end in (node.kill_log_monitor, node.kill_monitor, node.kill_dashboard):
        end(check_alive=False)


def _attach(address: str) -> None:
    import ray  # noqa: PLC0415

    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except ConnectionError as error:
        raise StartError(f"no Ray cluster answers at {address}; check the address and RAY_AUTH_TOKEN") from error


def stop() -> None:
    """Leave the cluster; an embedded one ends."""
    import ray  # noqa: PLC0415

    ray.shutdown()


def slots(resource: str) -> int:
    """Return how many actors the cluster offers a place for, by the custom resource its operator gave the nodes."""
    import ray  # noqa: PLC0415

    offered: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(offered.get(resource, 0))


def has_slots() -> bool:
    """Whether the cluster says by slots where actors may live; then nodes without slots are for none of them.

    One slot of whatever kind says so: a kind that is missing belongs to nodes that have yet to come.
    """
    import ray  # noqa: PLC0415

    offered: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return any(resource.endswith(_SLOT) for resource in offered)


def nodes() -> list[Node]:
    """Return the nodes of the cluster, those that left too. Blocks."""
    import ray  # noqa: PLC0415
    from ray._private import state  # noqa: PLC0415

    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    draining: dict[str, int] = state.state.get_draining_nodes()
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            bool(node["Alive"]),
            node["NodeID"] in draining,
            draining.get(node["NodeID"], 0),
            dict(node["Resources"]),
        )
        for node in listed
    ]


def places() -> dict[str, str]:
    """Return the node of every actor of the service that lives, by the actor's name. Blocks."""
    from ray._private import state  # noqa: PLC0415

    # The public API of this needs Ray's dashboard, which we do not start.
    table: dict[str, dict[str, Any]] = state.actors()
    return {
        actor["Name"]: actor["Address"]["NodeID"]
        for actor in table.values()
        if actor["State"] == "ALIVE" and actor["ActorClassName"] and actor["Name"]
    }


def create_actor(
    actor_class: type, name: str, *, slot: str = "", is_slot_optional: bool = False, node: str = "", **options: Any
) -> Any:
    """Find the named actor or create it; it outlives its creator and is restarted, empty, when its process dies.

    Calls are never repeated by Ray: a repeated call would count twice.

    Args:
        actor_class: the class; constructed with ``name`` alone, because Ray keeps constructor arguments.
        name: unique in the service.
        slot: custom resource of which the actor takes one, if the cluster has slots; it waits for one that is free.
        is_slot_optional: whether it lives anywhere if the cluster has slots, but none of this kind.
        node: id of the one node where it may live; it ends with that. Empty: wherever there is room.
        options: further options of the actor, such as ``max_concurrency``; ``concurrency_groups`` too.
    """
    import ray  # noqa: PLC0415
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    groups = options.pop("concurrency_groups", None)
    remote: Any = ray.remote(**({"concurrency_groups": groups} if groups else {"num_cpus": 0}))(actor_class)
    takes_slot = slot and (slots(slot) or (not is_slot_optional and has_slots()))
    # Spread: actors of one kind on one node would all be lost with it.
    strategy = NodeAffinitySchedulingStrategy(node, soft=False) if node else "SPREAD"
    return remote.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        num_cpus=0,
        enable_task_events=False,
        scheduling_strategy=strategy,
        **({"resources": {slot: 1}} if takes_slot else {}),
        **options,
    ).remote(name)


def find_actors(prefix: str) -> dict[str, Any]:
    """Return the actors of the service whose names begin with ``prefix``, by name; no one that was ended for good."""
    import ray  # noqa: PLC0415

    listed = ray.util.list_named_actors(all_namespaces=True)
    names = [each["name"] for each in listed if each["namespace"] == NAMESPACE and each["name"].startswith(prefix)]
    found = {}
    for name in names:
        # One may have ended since.
        with contextlib.suppress(ValueError):
            found[name] = ray.get_actor(name, namespace=NAMESPACE)
    return found


def wait_for(calls: Sequence[Any], timeout_s: float) -> list[Any]:
    """Block this thread until all calls are answered.

    Raises:
        Exception: what the first of them raised that failed, or that they took longer than ``timeout_s``.
    """
    import ray  # noqa: PLC0415

    answers: list[Any] = ray.get(list(calls), timeout=timeout_s)
    return answers


def kill(actor: Any) -> None:
    """End an actor for good, without waiting."""
    import ray  # noqa: PLC0415

    ray.kill(actor)


def restart(actor: Any) -> None:
    """End an actor's process without waiting; Ray starts it again, empty, where there is room."""
    import ray  # noqa: PLC0415

    ray.kill(actor, no_restart=False)


def is_dead(error: BaseException) -> bool:
    """Whether a call failed because the actor's process is dead; not, if it may be that it cannot be reached."""
    import ray  # noqa: PLC0415

    return isinstance(error, ray.exceptions.ActorDiedError)


def may_live(actor: Any) -> bool:
    """Whether the process that an actor has had may live; not, if the cluster is about to start another. Blocks.

    Of an actor whose node is lost Ray says in a call only that it is restarting, and not that its process is dead.
    """
    from ray._private import state  # noqa: PLC0415

    try:
        row: dict[str, Any] = state.actors(actor_id=actor._ray_actor_id.hex())
    except Exception:  # noqa: BLE001  (who cannot be asked does not say that it is dead)
        return True
    return bool(row.get("State", "ALIVE") == "ALIVE")


def raised_in_actor(error: BaseException) -> BaseException:
    """Return what an actor raised, as it raised it.

    Ray hands it over inside an error of its own, once more for every actor that passed it on. That error is of both
    types, but prints the tracebacks of all of them.
    """
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    return error
