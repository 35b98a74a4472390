"""Which tenants ``/metrics`` names one by one: the page is read every few seconds, and must not take one of them."""

from collections.abc import Mapping

from cluster.declarations import DECLARED
from cluster.measurements import OTHER_TENANTS, Distribution, Measurements


class PageTenants:
    """Remembers those named first: a series that came and went would look like one that begins anew.

    Attributes:
        left_out: tenants of the last page that it did not name.
    """

    def __init__(self, max_tenants: int) -> None:
        self.left_out = 0
        self._max_tenants = max_tenants
        self._named: set[str] = set()

    def bounded(self, measured: Mapping[str, Measurements]) -> dict[str, Measurements]:
        """Return what the actors measured, with the counts of tenants beyond the bound under one name.

        Their gauges are left out: of lags, limits and states there is no sum.
        """
        left_out: set[str] = set()
        bounded = {actor: self._of_actor(measurements, left_out) for actor, measurements in measured.items()}
        self.left_out = len(left_out)
        return bounded

    def _of_actor(self, measurements: Measurements, left_out: set[str]) -> Measurements:
        kept: Measurements = []
        others: dict[tuple[str, tuple[str, ...]], float] = {}
        for name, labels, value in measurements:
            declared = DECLARED[name]
            place = declared.labels.index("tenant") if "tenant" in declared.labels else None
            tenant = None if place is None else labels[place]
            if place is None or tenant is None or self._is_named(tenant):
                kept.append((name, labels, value))
                continue
            if tenant != OTHER_TENANTS:
                left_out.add(tenant)
            if declared.kind == "counter" and not isinstance(value, Distribution):
                key = (name, (*labels[:place], OTHER_TENANTS, *labels[place + 1 :]))
                others[key] = others.get(key, 0.0) + value
        return kept + [(name, labels, value) for (name, labels), value in others.items()]

    def _is_named(self, tenant: str) -> bool:
        if tenant in self._named:
            return True
        if tenant == OTHER_TENANTS or len(self._named) >= self._max_tenants:
            return False
        self._named.add(tenant)
        return True
