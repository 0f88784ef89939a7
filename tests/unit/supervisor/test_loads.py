"""Loads under way, as gateways are told of them, and what is learned when they end."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from inference.protocol import LoadSeconds, LoadStage, LoadTier, LoadView, ModelSpec, WorkerStage, WorkerStatus
from inference.supervisor.load_times import Key, LoadTimes, Samples
from inference.supervisor.loads import Loads
from inference.supervisor.replica import Phase, Replica

EPOCH = 1_000_000.0
WORKER = 5


class Hand:
    """A clock, and what came of it."""

    def __init__(self, files: tuple[str, ...] = ()) -> None:
        self.now = 10.0
        self.published = 0
        self.recorded: dict[Key, Samples] = {}
        self.spec = ModelSpec(version_pk=1, model="m", version="1.0.0", files=files)
        self.times = LoadTimes()
        self.loads = Loads(self.times, clock=lambda: self.now, record=self._record, publish=self._publish)
        self.replica = Replica(spec=self.spec, phase=Phase.LOADING, since=10.0, known_at=0.0, worker=WORKER)

    def _record(self, learned: Mapping[Key, Samples]) -> None:
        self.recorded |= learned

    def _publish(self) -> None:
        self.published += 1

    def report(self, stage: WorkerStage, after: float) -> None:
        self.now += after
        self.loads.reported(WORKER, WorkerStatus(stage=stage))

    def view(self, *others: Replica) -> LoadView:
        replicas = {each.spec.version_pk: each for each in (self.replica, *others)}
        shown = self.loads.view(self.replica, replicas, EPOCH)
        assert shown is not None
        return shown


async def test_a_load_goes_through_its_stages_and_each_is_published_once() -> None:
    hand = Hand()
    hand.loads.started(WORKER, hand.spec, 0)
    assert (hand.view().stage, hand.view().since) == (LoadStage.STARTING, EPOCH + 10.0)
    hand.report(WorkerStage.LOADING, after=1.0)
    hand.report(WorkerStage.LOADING, after=1.0)
    assert (hand.view().stage, hand.view().since, hand.published) == (LoadStage.READING, EPOCH + 11.0, 1)
    hand.report(WorkerStage.WARMING, after=2.0)
    assert (hand.view().stage, hand.published) == (LoadStage.WARMING, 2)


async def test_a_load_that_ends_well_teaches_how_long_its_stages_take() -> None:
    hand = Hand()
    hand.loads.started(WORKER, hand.spec, 0)
    hand.report(WorkerStage.LOADING, after=1.0)
    hand.report(WorkerStage.WARMING, after=3.0)
    hand.report(WorkerStage.READY, after=0.5)
    seconds = LoadSeconds(starting=1.0, reading=3.0, warming=0.5)
    assert hand.recorded == {(1, LoadTier.PAGE_CACHE): (seconds,)}
    hand.loads.started(WORKER, hand.spec, 0)
    assert hand.view().expected == seconds


async def test_a_worker_that_dies_while_it_loads_teaches_nothing() -> None:
    hand = Hand()
    hand.loads.started(WORKER, hand.spec, 0)
    hand.loads.ended(WORKER)
    hand.report(WorkerStage.READY, after=1.0)
    assert not hand.recorded


async def test_a_spare_that_takes_weights_in_memory_is_warm() -> None:
    hand = Hand()
    hand.loads.started(WORKER, hand.spec, 0)
    assert hand.view().tier is LoadTier.PAGE_CACHE
    assert hand.loads.spare_taken(WORKER, None) is None
    assert hand.view().tier is LoadTier.PAGE_CACHE
    spare = cast("object", "a process")
    assert hand.loads.spare_taken(WORKER, spare) is spare  # type: ignore[arg-type]
    assert hand.view().tier is LoadTier.WARM


async def test_weights_that_are_on_disk_only_are_found_so(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    with file.open("wb") as made:
        made.truncate(10_000_000)
    hand = Hand((str(file),))
    hand.loads.started(WORKER, hand.spec, 400_000_000)
    await asyncio.gather(*hand.loads._looking)
    assert hand.view().tier is LoadTier.DISK
    assert hand.view().expected.reading == pytest.approx(2.0)


def test_who_waits_for_memory_is_told_of_the_loads_before_it() -> None:
    hand = Hand()
    hand.times.learn(2, LoadTier.PAGE_CACHE, LoadSeconds(starting=1.0, reading=2.0, warming=3.0))
    hand.replica = replace(hand.replica, phase=Phase.COLD, worker=None, place=2, waits_since=4.0)
    before = replace(hand.replica, spec=replace(hand.spec, version_pk=2), place=1)
    after = replace(hand.replica, spec=replace(hand.spec, version_pk=3), place=3)
    shown = hand.view(before, after)
    assert (shown.stage, shown.since, shown.ahead_seconds) == (LoadStage.WAITING, EPOCH + 4.0, 6.0)


def test_of_what_is_cold_or_ready_there_is_nothing_to_tell() -> None:
    hand = Hand()
    for phase in (Phase.COLD, Phase.READY):
        assert hand.loads.view(replace(hand.replica, phase=phase), {}, EPOCH) is None
