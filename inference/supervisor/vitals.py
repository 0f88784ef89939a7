"""What this node tells of how the versions that it serves are doing: what became of their requests in the last minutes,
what memory their workers take, whether they greet, how often they failed in a row. :mod:`registry.health` judges it.

    gateways ──Counted.served──► rolling windows ─┐
    workers, as they are looked at (liveness) ────┼─► readings, every few seconds ──► the store
    /proc/<pid>/status, replicas ─────────────────┘
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from inference.durations import added
from inference.protocol import DURATION_BOUNDS_SECONDS, ServedCounts
from inference.supervisor.replica import Replica
from registry.health.vitals import Latencies, Vitals, Window, windows_added

WINDOW_SECONDS = 300.0
_PART_SECONDS = 10.0
"""What is told in such a time is forgotten together."""

TELL_SECONDS = 5.0
"""What changes all the time is told so often at most; what happened to a replica, with what SQL records of it."""

_PAGE_BYTES = 1 << 20
"""Memory is told in such steps: it is never the same twice."""


class RollingWindow:
    """Sums of what was counted in the last minutes. Pure; times are seconds of a clock that does not go back."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: deque[tuple[float, ServedCounts]] = deque()
        """With the time at which each began."""

    def add(self, counts: ServedCounts, now: float) -> None:
        if self._parts and now - self._parts[-1][0] < _PART_SECONDS:
            began, part = self._parts.pop()
            self._parts.append((began, _added(part, counts)))
        else:
            self._parts.append((now, counts))

    def sum(self, now: float) -> Window:
        while self._parts and now - self._parts[0][0] >= WINDOW_SECONDS:
            self._parts.popleft()
        return windows_added(_window(counts) for _, counts in self._parts)


class VitalSigns:
    """Belongs to the running loop."""

    def __init__(self, replicas: Callable[[], Mapping[int, Replica]], clock: Callable[[], float]) -> None:
        """``replicas``: those of this node, by version."""
        self._replicas = replicas
        self._clock = clock
        self._windows: dict[int, RollingWindow] = {}
        self._missed: dict[int, int] = {}
        """By the worker's number: greetings in a row."""
        self._told: dict[int, Vitals] = {}
        self._told_at: float | None = None

    def counted(self, served: Mapping[int, ServedCounts]) -> None:
        now = self._clock()
        for pk, counts in served.items():
            self._windows.setdefault(pk, RollingWindow()).add(counts, now)

    def looked(self, worker: int, missed: int) -> None:
        """A worker was looked at, and so many greetings in a row have been missed."""
        self._missed[worker] = missed

    def ended(self, worker: int) -> None:
        self._missed.pop(worker, None)

    def news(self, *, hurried: bool) -> Sequence[Vitals]:
        """What differs from what was told last; nothing, a moment after that, unless ``hurried``."""
        now = self._clock()
        if not hurried and self._told_at is not None and now - self._told_at < TELL_SECONDS:
            return ()
        return [vitals for vitals in self._readings(now) if self._told.get(vitals.version_pk) != vitals]

    def told(self, news: Sequence[Vitals]) -> None:
        """They have arrived."""
        if news:
            self._told |= {vitals.version_pk: vitals for vitals in news}
            self._told_at = self._clock()

    def forget_told(self) -> None:
        """What was told may be lost: all of it is news again."""
        self._told.clear()
        self._told_at = None

    def _readings(self, now: float) -> Iterable[Vitals]:
        for pk, replica in self._replicas().items():
            window = self._windows.get(pk)
            yield Vitals(
                version_pk=pk,
                memory_bytes=None if replica.pid is None else resident_bytes(replica.pid),
                missed=0 if replica.worker is None else self._missed.get(replica.worker, 0),
                failures=replica.failures,
                window=Window() if window is None else window.sum(now),
            )


def resident_bytes(pid: int) -> int | None:
    """What a process has in memory, weights that it maps included; None: it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")), None)
    return None if kilobytes is None else (int(kilobytes) << 10) // _PAGE_BYTES * _PAGE_BYTES


def _added(one: ServedCounts, other: ServedCounts) -> ServedCounts:
    return ServedCounts(
        requests=one.requests + other.requests,
        faults=one.faults + other.faults,
        first_token=added(one.first_token, other.first_token),
    )


def _window(counts: ServedCounts) -> Window:
    times = counts.first_token.counts
    return Window(
        requests=counts.requests,
        faults=counts.faults,
        faulty_parts=int(counts.faults > 0),
        first_token=Latencies(DURATION_BOUNDS_SECONDS, times) if times else Latencies(),
    )
