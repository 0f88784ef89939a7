"""What a node tells of how its versions are doing, on a clock that only the test moves."""

import os

from inference.protocol import DURATION_BOUNDS_SECONDS, Durations, ModelSpec, ServedCounts
from inference.supervisor.replica import Replica
from inference.supervisor.vitals import TELL_SECONDS, WINDOW_SECONDS, RollingWindow, VitalSigns, resident_bytes
from registry.health.vitals import Vitals, Window

SPEC = ModelSpec(version_pk=7, model="Tiny", version="1.0.0", files=("/models/Tiny.gguf",))


def counts(requests: int = 1, faults: int = 0, seconds: float | None = None) -> ServedCounts:
    places = [0] * (len(DURATION_BOUNDS_SECONDS) + 1)
    if seconds is not None:
        places[DURATION_BOUNDS_SECONDS.index(seconds)] = 1
    times = Durations() if seconds is None else Durations(counts=tuple(places), seconds=seconds)
    return ServedCounts(requests=requests, faults=faults, first_token=times)


class Node:
    def __init__(self) -> None:
        self.now = 1000.0
        self.replicas = {7: Replica(spec=SPEC, since=0.0, known_at=0.0)}
        self.signs = VitalSigns(lambda: self.replicas, lambda: self.now)

    def tell(self, *, hurried: bool = False) -> list[Vitals]:
        news = list(self.signs.news(hurried=hurried))
        self.signs.told(news)
        return news


def test_a_window_forgets_what_is_older() -> None:
    window = RollingWindow()
    window.add(counts(2, 1, 5.0), 0.0)
    window.add(counts(1), WINDOW_SECONDS / 2)
    assert (window.sum(WINDOW_SECONDS / 2).requests, window.sum(WINDOW_SECONDS / 2).faults) == (3, 1)
    later = window.sum(WINDOW_SECONDS)
    assert (later.requests, later.faults, later.first_token.total) == (1, 0, 0)
    assert window.sum(2 * WINDOW_SECONDS) == Window()


def test_a_window_knows_in_how_many_of_its_parts_anything_failed() -> None:
    window = RollingWindow()
    for second in (0.0, 1.0, 2.0, 30.0, 60.0):
        window.add(counts(8, 8), second)
    window.add(counts(1), 90.0)
    assert (window.sum(90.0).faults, window.sum(90.0).faulty_parts) == (40, 3)


def test_a_window_is_never_longer_than_it_should_be_by_more_than_a_part() -> None:
    window = RollingWindow()
    for second in range(1000):
        window.add(counts(), float(second))
    assert WINDOW_SECONDS - 10 <= window.sum(999.0).requests <= WINDOW_SECONDS


def test_what_is_told_holds_the_histogram_with_its_bounds() -> None:
    node = Node()
    node.signs.counted({7: counts(3, 1, 5.0)})
    (vitals,) = node.tell()
    assert (vitals.window.requests, vitals.window.faults) == (3, 1)
    assert vitals.window.first_token.bounds == DURATION_BOUNDS_SECONDS
    assert vitals.window.first_token.quantile(0.95) is not None


def test_only_what_differs_is_told_and_not_too_often() -> None:
    node = Node()
    assert node.tell() == [Vitals(version_pk=7)]
    node.signs.counted({7: counts()})
    assert node.tell() == []
    node.now += TELL_SECONDS
    assert [each.window.requests for each in node.tell()] == [1]
    node.now += TELL_SECONDS
    assert node.tell() == []


def test_what_happens_to_a_replica_is_told_at_once() -> None:
    node = Node()
    node.tell()
    node.replicas[7] = Replica(spec=SPEC, since=0.0, known_at=0.0, failures=3)
    assert [each.failures for each in node.tell(hurried=True)] == [3]


def test_what_did_not_arrive_is_told_again() -> None:
    node = Node()
    assert node.signs.news(hurried=False) == node.signs.news(hurried=False) != []
    node.tell()
    node.signs.forget_told()
    assert len(node.tell()) == 1


def test_a_worker_that_does_not_greet_is_told_until_it_does_or_has_ended() -> None:
    node = Node()
    node.replicas[7] = Replica(spec=SPEC, since=0.0, known_at=0.0, worker=1)
    node.signs.looked(1, 1)
    assert [each.missed for each in node.tell()] == [1]
    node.signs.looked(1, 0)
    assert [each.missed for each in node.tell(hurried=True)] == [0]
    node.signs.looked(1, 2)
    node.signs.ended(1)
    node.replicas[7] = Replica(spec=SPEC, since=0.0, known_at=0.0, worker=2, failures=1)
    assert [each.missed for each in node.tell(hurried=True)] == [0]


def test_the_memory_of_a_worker_is_told_until_it_has_ended() -> None:
    node = Node()
    node.replicas[7] = Replica(spec=SPEC, since=0.0, known_at=0.0, pid=os.getpid())
    (vitals,) = node.tell()
    assert vitals.memory_bytes is not None and vitals.memory_bytes > 10 << 20
    assert resident_bytes(2**22 + 1) is None  # above the largest number of a process
