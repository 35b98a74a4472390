"""How much the counts of tenants have grown between two readings of all processes."""

from collections.abc import Mapping

Counts = tuple[int, ...]


def grown(former: Mapping[str, Mapping[str, Counts]], latter: Mapping[str, Mapping[str, Counts]]) -> dict[str, Counts]:
    """Return by tenant what came in between; tenants of which nothing did are missing.

    A process is heard of twice before it counts, so that nothing is more than really came.

    Args:
        former: counts of each tenant by process; every tenant has as many.
        latter: the same, later.
    """
    found: dict[str, Counts] = {}
    for process, by_tenant in latter.items():
        before = former.get(process)
        if before is None:
            continue
        for tenant, now in by_tenant.items():
            was = before.get(tenant, (0,) * len(now))
            # It began at zero if it was restarted.
            more = tuple(new - old if new >= old else new for old, new in zip(was, now, strict=True))
            if any(more):
                known = found.get(tenant, (0,) * len(now))
                found[tenant] = tuple(one + other for one, other in zip(known, more, strict=True))
    return found
