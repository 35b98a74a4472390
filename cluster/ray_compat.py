"""The only place that knows how Ray is started, and which of its settings we lean on (Ray 2.60).

Nothing here imports ray before the environment is set: Ray reads it when it is imported.
"""

import os
import secrets
from collections.abc import Sequence
from typing import Any, Final

from cluster.errors import StartError

NAMESPACE: Final = "millrace"

_OBJECT_STORE_BYTES = 256 << 20
"""Only groups of frames in flight live in the object store: a few calls of at most a few MiB for each shard host."""

_INLINE_TOTAL_BYTES = 64 << 20
_INLINE_BYTES = 1 << 20
"""Arguments up to this size travel inside the call. Groups are mostly 100-512 KiB, which Ray's default of 100 KiB sends
through shared memory at three times the latency."""


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
        RAY_max_direct_call_object_size=str(_INLINE_BYTES),
        RAY_task_rpc_inlined_bytes_limit=str(_INLINE_TOTAL_BYTES),
    )
    import ray  # noqa: PLC0415

    ray.init(
        address="local",
        namespace=NAMESPACE,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        configure_logging=False,
    )


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


def create_actor(actor_class: type, name: str, *, slot: str = "", **options: Any) -> Any:
    """Find the named actor or create it; it outlives its creator and is restarted, empty, when its process dies.

    Calls are never repeated by Ray: a repeated call would count twice.

    Args:
        actor_class: the class; constructed with ``name`` alone, because Ray keeps constructor arguments.
        name: unique in the service.
        slot: custom resource of which the actor takes one, where the cluster offers it.
        options: further options of the actor, such as ``max_concurrency``; ``concurrency_groups`` too.
    """
    import ray  # noqa: PLC0415

    groups = options.pop("concurrency_groups", None)
    remote: Any = ray.remote(**({"concurrency_groups": groups} if groups else {"num_cpus": 0}))(actor_class)
    return remote.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        num_cpus=0,
        enable_task_events=False,
        **({"resources": {slot: 1}} if slot and slots(slot) else {}),
        **options,
    ).remote(name)


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


def raised_in_actor(error: BaseException) -> BaseException:
    """Return what an actor raised, as it raised it.

    Ray hands it over inside an error of its own, once more for every actor that passed it on. That error is of both
    types, but prints the tracebacks of all of them.
    """
    while (cause := getattr(error, "cause", None)) is not None:
        error = cause
    return error
