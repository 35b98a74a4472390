"""A receiver's memory: every sample that it has taken, and whether any came out of order or twice with two values."""

import struct
from collections import defaultdict
from collections.abc import Callable, Mapping

from tests.remote_write import Sample, SeriesKey, TimeSeries, decode
from tests.remote_write_v2 import decode_v2
from tests.unit.receiver import Answer, Decide, Received, WireStep, is_v2, written


class Witness:
    """Takes requests of either version as a receiver without an out-of-order window does, and forgets nothing.

    Attributes:
        samples: of each series, in the order in which they came; one that comes again is there once.
        repeated: samples that came again, as the newest of their series.
        faults: what such a receiver would refuse.
    """

    def __init__(self) -> None:
        self.samples: defaultdict[SeriesKey, list[Sample]] = defaultdict(list)
        self.repeated = 0
        self.faults: list[str] = []

    def judge(self, answer: Callable[[], tuple[bool, WireStep]]) -> Decide:
        """Return what a receiver does: ``answer`` says whether it stores the request, and what it answers."""

        def judge(request: Received) -> WireStep:
            is_stored, step = answer()
            headers = self.take(request) if is_stored else {}
            return Answer(204, headers) if step == 204 else step

        return judge

    def take(self, request: Received) -> dict[str, str]:
        """Store a request; return the headers that say so."""
        if not is_v2(request):
            self._store(decode(request.body))
            return {}
        self._store({key: each.series for key, each in decode_v2(request.body).series.items()})
        return written(request)

    def of(self, name: str) -> dict[SeriesKey, list[Sample]]:
        """The series of a metric."""
        return {key: samples for key, samples in self.samples.items() if ("__name__", name) in key}

    def _store(self, written: Mapping[SeriesKey, TimeSeries]) -> None:
        for key, series in written.items():
            taken = self.samples[key]
            for sample in series.samples:
                if not taken or sample[0] > taken[-1][0]:
                    taken.append(sample)
                elif _bits(sample) == _bits(taken[-1]):
                    self.repeated += 1
                else:
                    self.faults.append(f"{dict(key)['__name__']}: {sample} after {taken[-1]}")


def _bits(sample: Sample) -> bytes:
    # A stale marker is like no number, not even itself.
    return struct.pack("<qd", *sample)
