"""Loads under way on this node: how far each has come, and what is learned from those that end well."""

import asyncio
from collections.abc import Callable, Mapping
from subprocess import Popen

import msgspec

from inference.protocol import LoadSeconds, LoadStage, LoadTier, LoadView, ModelSpec, WorkerStage, WorkerStatus
from inference.supervisor.load_times import Key, LoadTimes, Samples
from inference.supervisor.replica import Phase, Replica
from inference.supervisor.residence import resident_share

_RESIDENT = 0.9
"""A file is in the page cache if so much of it is: a page here and there always went."""

_STAGES = {
    WorkerStage.LOADING: LoadStage.READING,
    WorkerStage.WARMING: LoadStage.WARMING,
}


class _Load(msgspec.Struct, kw_only=True):
    spec: ModelSpec
    weight_bytes: int
    stage: LoadStage = LoadStage.STARTING
    since: float
    """Of our clock; when the stage began."""
    taken: dict[LoadStage, float] = msgspec.field(default_factory=dict)
    """Seconds of the stages that are over."""
    resident: bool = True
    spare: bool = False

    @property
    def tier(self) -> LoadTier:
        if not self.resident:
            return LoadTier.DISK
        return LoadTier.WARM if self.spare else LoadTier.PAGE_CACHE

    def enter(self, stage: LoadStage, now: float) -> None:
        self.taken[self.stage] = now - self.since
        self.stage, self.since = stage, now


class Loads:
    """Belongs to the running loop."""

    def __init__(
        self,
        times: LoadTimes,
        *,
        clock: Callable[[], float],
        record: Callable[[Mapping[Key, Samples]], None],
        publish: Callable[[], None],
    ) -> None:
        """``record`` gets what is to be written down; ``publish`` is called when a view has changed."""
        self._times = times
        self._clock = clock
        self._record = record
        self._publish = publish
        self._loads: dict[int, _Load] = {}
        """By the worker's number."""
        self._looking: set[asyncio.Task[None]] = set()

    def started(self, worker: int, spec: ModelSpec, weight_bytes: int) -> None:
        """Before its process is there, which will soon read what is looked at now."""
        load = self._loads[worker] = _Load(spec=spec, weight_bytes=weight_bytes, since=self._clock())
        task = asyncio.get_running_loop().create_task(self._look(load))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    def spare_taken(self, worker: int, spare: "Popen[bytes] | None") -> "Popen[bytes] | None":
        """A spare worker takes this load, if there is one."""
        if spare is not None and worker in self._loads:
            self._loads[worker].spare = True
        return spare

    def reported(self, worker: int, status: WorkerStatus) -> None:
        load = self._loads.get(worker)
        if load is None:
            return
        if status.stage is WorkerStage.READY:
            self._ended_well(worker, load)
        elif (stage := _STAGES.get(status.stage)) is not None and stage is not load.stage:
            load.enter(stage, self._clock())
            self._publish()

    def ended(self, worker: int) -> None:
        """What did not become ready teaches nothing."""
        self._loads.pop(worker, None)

    def view(self, replica: Replica, replicas: Mapping[int, Replica], epoch: float) -> LoadView | None:
        """None: it is neither loaded nor waits for that. ``epoch``: see :func:`.replica.view`."""
        if replica.phase is Phase.LOADING and replica.worker is not None:
            load = self._loads.get(replica.worker)
            return None if load is None else self._under_way(load, epoch)
        if replica.waits_since is None:
            return None
        before = (each for each in replicas.values() if 0 < each.place < replica.place)
        return LoadView(
            stage=LoadStage.WAITING,
            since=replica.waits_since + epoch,
            tier=LoadTier.PAGE_CACHE,
            expected=self._expected(replica),
            ahead_seconds=sum(self._expected(each).total for each in before),
        )

    def _under_way(self, load: _Load, epoch: float) -> LoadView:
        expected = self._times.expected(load.spec.version_pk, load.tier, load.weight_bytes)
        return LoadView(stage=load.stage, since=load.since + epoch, tier=load.tier, expected=expected)

    def _expected(self, replica: Replica) -> LoadSeconds:
        """Of one that waits: its weights are read ahead meanwhile."""
        weights = replica.options[0].needs.weights if replica.options else 0
        return self._times.expected(replica.spec.version_pk, LoadTier.PAGE_CACHE, weights)

    def _ended_well(self, worker: int, load: _Load) -> None:
        del self._loads[worker]
        load.enter(LoadStage.WARMING, self._clock())
        seconds = LoadSeconds(
            starting=load.taken.get(LoadStage.STARTING, 0.0),
            reading=load.taken.get(LoadStage.READING, 0.0),
            warming=load.taken.get(LoadStage.WARMING, 0.0),
        )
        samples = self._times.learn(load.spec.version_pk, load.tier, seconds)
        self._record({(load.spec.version_pk, load.tier): samples})

    async def _look(self, load: _Load) -> None:
        load.resident = await asyncio.to_thread(resident_share, load.spec.files) >= _RESIDENT
