"""What a node tells of a version that it serves, or has served a moment ago. Pure."""

from collections.abc import Iterable
from itertools import zip_longest

import msgspec


class Latencies(msgspec.Struct, frozen=True):
    """How long something took each time, as a histogram."""

    bounds: tuple[float, ...] = ()
    """Seconds, ascending."""
    counts: tuple[int, ...] = ()
    """How often it took at most the bound at this place, and more than the one before; last, longer than all."""

    def __add__(self, other: "Latencies") -> "Latencies":
        """Nodes of one release have the same bounds; of others the newer are left out, for as long as that lasts."""
        if not self.counts or not other.counts:
            return other if other.counts else self
        if self.bounds != other.bounds:
            return self
        return Latencies(self.bounds, tuple(map(sum, zip_longest(self.counts, other.counts, fillvalue=0))))

    @property
    def total(self) -> int:
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """Seconds, as if times were spread evenly between two bounds; at most the last bound. None without any."""
        rank, below, low = q * self.total, 0, 0.0
        for high, count in zip(self.bounds, self.counts, strict=False):
            if count and below + count >= rank:
                return low + (high - low) * max(0.0, rank - below) / count
            below, low = below + count, high
        return low if self.total else None


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the requests of the last minutes."""

    requests: int = 0
    """That a worker was asked for, and that ended by themselves."""
    faults: int = 0
    """Of those: the server's fault."""
    faulty_parts: int = 0
    """In how many stretches of ten seconds there were any: one worker that dies takes many requests along."""
    first_token: Latencies = Latencies()
    """From the begin of the prompt's computation: without queues and load."""

    def __add__(self, other: "Window") -> "Window":
        return Window(
            requests=self.requests + other.requests,
            faults=self.faults + other.faults,
            faulty_parts=self.faulty_parts + other.faulty_parts,
            first_token=self.first_token + other.first_token,
        )


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    version_pk: int
    memory_bytes: int | None = None
    """Resident, of its worker; None: it has none."""
    missed: int = 0
    """Greetings in a row that its worker has not given; at two it is killed."""
    failures: int = 0
    """In a row, of its workers, each before it had proven itself."""
    window: Window = Window()


def windows_added(windows: Iterable[Window]) -> Window:
    return sum(windows, start=Window())
