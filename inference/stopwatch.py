"""How long something takes each time, as a histogram that can be summed over processes."""

import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest

from inference.protocol import TIMING_BOUNDS_SECONDS, Timing


class Stopwatch:
    def __init__(self) -> None:
        self._counts = [0] * (len(TIMING_BOUNDS_SECONDS) + 1)
        self.seconds = 0.0
        """All of it together."""

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Counts what happens within, unless it fails."""
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        self.seconds += took
        self._counts[bisect_left(TIMING_BOUNDS_SECONDS, took)] += 1

    def take(self) -> Timing:
        """What was measured since it was taken last."""
        timing = self.timing
        self._counts = [0] * len(self._counts)
        return timing

    @property
    def timing(self) -> Timing:
        return Timing(counts=tuple(self._counts) if any(self._counts) else ())


def timings_added(one: Timing, other: Timing) -> Timing:
    return Timing(counts=tuple(map(sum, zip_longest(one.counts, other.counts, fillvalue=0))))
