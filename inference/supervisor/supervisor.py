"""One node's supervisor: the only owner of its engine processes.

Everything that happens becomes an event for :meth:`Supervisor.post`; the pure step of :mod:`.reconcile` answers with
actions, which are carried out here. There is no other way to change what runs.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import structlog
from msgspec.structs import replace

from inference.protocol import (
    CacheReport,
    Counted,
    EngineParameters,
    ModelSpec,
    NodeView,
    Replicas,
    ReplicaState,
    WorkerStage,
)
from inference.supervisor.caching import Caching
from inference.supervisor.discovery import Discovery
from inference.supervisor.events import (
    Action,
    Closing,
    Event,
    Publish,
    Record,
    Revive,
    Start,
    Stop,
    Tick,
    Weigh,
    WorkerCached,
    WorkerExited,
    WorkerReported,
)
from inference.supervisor.footprints import Footprints
from inference.supervisor.launching import Launch
from inference.supervisor.load_times import LoadTimes
from inference.supervisor.loads import Loads
from inference.supervisor.metering import Metering
from inference.supervisor.permitting import Permitting
from inference.supervisor.pressure import MemoryWatch
from inference.supervisor.read_ahead import ReadAhead
from inference.supervisor.reconcile import due_at, step
from inference.supervisor.replica import Observation, Phase, Policy, State, view
from inference.supervisor.server import Claim, SupervisorServer
from inference.supervisor.spare import SPARE_BYTES, Spare, affordable
from inference.supervisor.store import NodeIdentity, Store
from inference.supervisor.tunings import Tuning, Tunings, merged
from inference.supervisor.vitals import VitalSigns
from inference.supervisor.weighing import Scales
from inference.supervisor.worker import Worker
from registry.nodes.selectors import Orders

log = structlog.get_logger(module="supervisor")

_LAST_RECORDS_SECONDS = 1.0
_CLOCK_STEP_SECONDS = 1.0
"""The wall clock may drift by so much against ours before published times follow it."""
_BLOCK_TOKENS = 64
"""Of the engine's cache."""
_CANCEL_SECONDS = 0.5
"""A cancelled conversation with a frozen server may not end; it is left behind then."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    node: NodeIdentity
    database_url: str
    models_dirs: tuple[Path, ...]
    starter_model: bool
    cache_dir: Path
    """Workers' caches on SSD lie below it."""
    launch: Launch
    policy: Policy = Policy()
    rival_seconds: float = 45.0
    """How long the node's name may seem taken at the start: as long as PostgreSQL needs to notice that a machine which
    held it is gone."""


class Supervisor:
    """Create it inside the running loop, in the main thread: workers die with the thread that started them.

    Its socket is the claimed path; workers' sockets lie beside it.
    """

    def __init__(self, settings: Settings, claim: Claim) -> None:
        self._settings = settings
        self._claim = claim
        self._loop = asyncio.get_running_loop()
        # Numbers that no supervisor before us has used: a gateway may still hold the path of a dead worker's socket.
        self._state = State(next_worker=time.time_ns() // 1_000_000)
        self._epoch = 0.0
        self._takes = True
        """Gateways may ask for models that are not loaded here."""
        self._events: deque[Event] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._workers: dict[int, Worker] = {}
        self._closed = asyncio.Event()
        self._caching = Caching(
            settings.cache_dir,
            node_ram_bytes=settings.node.ram_budget_mb * 1024**2,
            publish=lambda: self._server.publish_caches(),
            record_use=lambda counts: self._store.record_use(counts),
        )
        self._vitals = VitalSigns(lambda: self._state.replicas, self._loop.time)
        ram_bytes = settings.node.ram_budget_mb * 1024**2
        self._keeps_spare = bool(settings.launch.spare) and affordable(ram_bytes)
        self._policy = replace(settings.policy, ram_bytes=ram_bytes - SPARE_BYTES * self._keeps_spare)
        self._tunings = Tunings(self._tuned)
        self._footprints = Footprints(
            learned=lambda spec: self._scales.again(spec), record=lambda seen: self._store.record_footprints(seen)
        )
        self._scales = Scales(self.post, parameters=self._tunings.parameters, footprint=self._footprints.of)
        self._load_times = LoadTimes()
        self._loads = Loads(
            self._load_times,
            clock=self._loop.time,
            record=lambda learned: self._store.record_load_times(learned),
            publish=lambda: self._server.publish_replicas(),
        )
        self._measuring: set[asyncio.Task[None]] = set()
        self._memory = MemoryWatch(publish=lambda: self._server.publish_pressure())
        self._permitting = Permitting()
        self._metering = Metering(
            publish=lambda: self._server.publish_sums(), permits=lambda: self._permitting.office.sums()
        )
        self._server = SupervisorServer(
            self.post,
            self._view,
            self._caching.view,
            sums=self._metering.view,
            counted=self._gateway_counted,
            pressure=self._memory.view,
            permitting=self._permitting,
        )
        self._store = Store(
            settings.node,
            settings.database_url,
            post=self.post,
            read_caches=self._caching.read,
            read_tunings=self._tunings.read,
            read_footprints=self._footprints.read,
            read_load_times=self._load_times.read,
            read_orders=self._read_orders,
            disk_bytes=lambda: self._caching.disk_bytes,
            vitals=self._vitals,
            rival_seconds=settings.rival_seconds,
        )
        self._spare = Spare(
            settings.launch if self._keeps_spare else None,
            lambda: any(replica.phase is Phase.LOADING for replica in self._state.replicas.values()),
        )
        self._read_ahead = ReadAhead()
        self._discovery = Discovery(settings.models_dirs, starter_model=settings.starter_model)

    async def run(self, stopping: asyncio.Event) -> None:
        """Supervise until ``stopping``, then stop every worker.

        Raises:
            NodeTaken: when another supervisor has this node's name.
        """
        _remove_stale_sockets(self._claim.path.parent)
        await self._server.start(self._claim.listen())
        self._spare.renew()
        log.info("Supervisor started", node=self._settings.node.name, socket=str(self._claim.path))
        tasks = {
            asyncio.create_task(self._store.run()),
            asyncio.create_task(self._discovery.run()),
            asyncio.create_task(self._caching.run()),
            asyncio.create_task(self._memory.run()),
            asyncio.create_task(self._footprints.run()),
            asyncio.create_task(stopping.wait()),
        }
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await self._close(tasks)

    def post(self, event: Event) -> None:
        """The only entrance. Events that an action causes are taken after it."""
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                self._take(self._events.popleft())
        finally:
            self._busy = False
        self._set_timer()

    def _take(self, event: Event) -> None:
        if isinstance(event, WorkerExited):
            self._workers.pop(event.worker, None)
            self._caching.ended(event.worker)
            self._metering.worker_ended(event.worker)
            self._vitals.ended(event.worker)
            self._footprints.ended(event.worker)
            self._loads.ended(event.worker)
        if isinstance(event, WorkerReported):
            self._loads.reported(event.worker, event.status)
        self._state, actions = step(self._state, event, self._loop.time(), self._policy)
        self._caching.give_way(self._state.ram_bytes)
        self._read_ahead.expect(replica.spec for replica in self._state.replicas.values() if replica.place)
        for action in actions:
            self._perform(action)
        if isinstance(event, WorkerReported) and event.status.stage is WorkerStage.READY:
            self._measure(event.worker)
        if self._state.closed:
            self._closed.set()

    def _perform(self, action: Action) -> None:
        match action:
            case Start(worker, spec, smaller):
                self._start(worker, spec, merged(smaller, self._tunings.parameters(spec)))
            case Weigh(spec):
                self._scales.weigh(spec)
            case Stop(worker=worker, kill=kill):
                if worker in self._workers:
                    self._workers[worker].stop(kill=kill)
            case Record(observation):
                self._say(observation)
                self._metering.observed(observation, self._state.replicas[observation.version_pk].spec.model)
                self._store.record(observation)
            case Revive(version_pk):
                self._store.revive(version_pk)
            case Publish():
                self._server.publish_replicas()

    def _start(self, number: int, spec: ModelSpec, parameters: EngineParameters) -> None:
        taken = self._state.replicas[spec.version_pk].taken
        self._loads.started(number, spec, 0 if taken is None else taken.needs.weights)
        worker = self._workers[number] = Worker(
            number,
            spec,
            self._socket_of(number),
            self._caching.directory(spec),
            self._settings.launch,
            self.post,
            partial(self._cache_reported, number),
            report_counts=partial(self._metering.worker_counted, number, spec.model),
            report_missed=partial(self._vitals.looked, number),
            parameters=parameters,
            report_tuned=self._tunings.reporter(spec),
            take_spare=lambda: self._loads.spare_taken(number, self._spare.take()),
            most_ram=self._caching.most_ram(spec.model),
        )
        self._caching.started(number, spec, worker.set_budget)

    def _cache_reported(self, worker: int, report: CacheReport) -> None:
        self._caching.reported(worker, report)
        tokens = max(0, report.ram.blocks - report.ssd.blocks) * _BLOCK_TOKENS
        if tokens != self._only_in_memory(worker):
            self.post(WorkerCached(worker, tokens))

    def _only_in_memory(self, worker: int) -> int | None:
        own = (replica for replica in self._state.replicas.values() if replica.worker == worker)
        return next((replica.cached_tokens for replica in own), None)

    def _tuned(self, tuning: Tuning) -> None:
        self._store.record_tuning(tuning)
        self._scales.again(self._state.replicas[tuning.version_pk].spec)

    def _measure(self, number: int) -> None:
        """What a worker that just became ready takes."""
        pid = next((each.pid for each in self._state.replicas.values() if each.worker == number), None)
        worker = self._workers.get(number)
        if pid is None or worker is None:
            return
        held = partial(self._caching.ram_held, number)
        task = self._loop.create_task(self._footprints.ready(number, pid, worker.spec, worker.parameters, held))
        self._measuring.add(task)
        task.add_done_callback(self._measuring.discard)

    def _gateway_counted(self, counted: Counted) -> None:
        self._metering.gateway_counted(counted)
        self._vitals.counted(counted.served)
        if counted.routing.tests:
            self._store.record_experiments(counted.routing.tests)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        moment = due_at(self._state, self._policy)
        self._timer = None if moment is None else self._loop.call_at(moment, self.post, Tick())

    def _view(self) -> Replicas:
        epoch = time.time() - self._loop.time()
        if abs(epoch - self._epoch) > _CLOCK_STEP_SECONDS:  # else a view would differ in what has not changed
            self._epoch = epoch
        node = self._settings.node.name
        return Replicas(
            replicas=tuple(
                replace(
                    view(replica, node=node, epoch=self._epoch, socket_of=self._socket_name),
                    load=self._loads.view(replica, self._state.replicas, self._epoch),
                )
                for replica in self._state.replicas.values()
            ),
            node=NodeView(
                ram_bytes=self._policy.ram_bytes,
                taken_bytes=self._state.ram_bytes,
                takes=self._takes and not self._state.closing,
                ends=self._state.closing,
            ),
        )

    def _read_orders(self, orders: Orders) -> None:
        if orders.takes != self._takes:
            self._takes = orders.takes
            log.info("This node loads models" if orders.takes else "This node loads no more models")
            self._server.publish_replicas()

    def _socket_of(self, worker: int) -> Path:
        return self._claim.path.parent / f"engine-{worker}.sock"

    def _socket_name(self, worker: int) -> str:
        return str(self._socket_of(worker))

    def _say(self, seen: Observation) -> None:
        """The life of a replica, one line a step."""
        spec = self._state.replicas[seen.version_pk].spec
        if seen.observed is ReplicaState.LOADING and seen.pid is None:
            return  # the line comes with the pid, in a moment
        say: Callable[..., object] = log.error if seen.observed is ReplicaState.FAILED else log.info
        say(
            f"Model {seen.observed.value}: {spec.model}",
            model_id=spec.model,
            version=spec.version,
            reason=seen.reason,
            pid=seen.pid,
            restarts=seen.restarts,
        )

    async def _close(self, tasks: Iterable["asyncio.Task[object]"]) -> None:
        self.post(Closing())
        self._spare.close()
        self._read_ahead.close()
        await self._closed.wait()
        self._caching.close()
        self._metering.close()
        self._permitting.close()
        await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)
        await self._store.close(seconds=_LAST_RECORDS_SECONDS)
        self._server.close()
        if self._timer is not None:
            self._timer.cancel()
        self._claim.release()
        log.info("Supervisor stopped", node=self._settings.node.name)


def _remove_stale_sockets(directory: Path) -> None:
    """Workers die with their supervisor, so whatever a socket's name says, nobody listens there."""
    for path in directory.glob("engine-*.sock"):
        with suppress(OSError):
            path.unlink()
