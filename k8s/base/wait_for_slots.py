"""Wait until the Ray cluster offers the slots that the service is going to fill.

`millrace serve` makes a gateway for each slot that there is when it starts, and an actor of a kind without any slot
would live anywhere. So it starts when all slots are there; if some node does not come, after a while with what there
is, but never without one slot of each kind.

    wait_for_slots.py ADDRESS PATIENCE_S SLOT=COUNT...
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence

LOOK_EVERY_S = 2.0


def short_of(offered: Mapping[str, float], wanted: Mapping[str, int]) -> list[str]:
    """Return what is missing, as text; nothing: all is there."""
    found = {slot: offered.get(slot, 0) for slot in wanted}
    return [f"{slot}: {found[slot]:g} of {count}" for slot, count in wanted.items() if found[slot] < count]


def wait(
    offered: Callable[[], Mapping[str, float]],
    wanted: Mapping[str, int],
    patience_s: float,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when all slots are offered, or after ``patience_s`` one of each kind. Says what it waits for."""
    is_late_at = monotonic() + patience_s
    said: list[str] = []
    while missing := short_of(now := offered(), wanted):
        if monotonic() >= is_late_at and not short_of(now, dict.fromkeys(wanted, 1)):
            print("starting without", ", ".join(missing), flush=True)
            return
        if missing != said:
            print("waiting for", ", ".join(missing), flush=True)
            said = missing
        sleep(LOOK_EVERY_S)


def main(arguments: Sequence[str]) -> None:
    """Do what the command line says."""
    address, patience_s, *slots = arguments
    wanted = {slot: int(count) for slot, _, count in (each.partition("=") for each in slots)}
    import ray

    ray.init(address=address, configure_logging=False, log_to_driver=False)
    wait(ray.cluster_resources, wanted, float(patience_s))
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
