"""What the supervisor knows of each version on its node. Values only; :mod:`.reconcile` decides what becomes of them.

    COLD ──Start──► LOADING ──ready──► READY ──unwanted──► DRAINING ──idle──► STOPPING ──exit──► COLD
                       │ exit             │ exit                                  │ exit after a fault
                       └──────────────────┴───────────► FAILED ◄──────────────────┘
                                                        (waits out its back-off, then Start again)

LOADING, DRAINING and STOPPING have a deadline. Times are seconds of one monotonic clock.
"""

import math
from collections.abc import Callable
from enum import StrEnum

import msgspec

from inference.protocol import ModelSpec, ReplicaState, ReplicaView
from inference.supervisor.fit import Option
from inference.supervisor.space import Space
from inference.supervisor.swapping import Times


class Phase(StrEnum):
    COLD = "cold"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    """Finishes what runs; gateways send it nothing more."""
    STOPPING = "stopping"
    """Told to exit, or about to exit by itself."""
    FAILED = "failed"


class Desired(StrEnum):
    """What the control plane wants of a version on this node."""

    RUNNING = "running"
    ON_DEMAND = "on_demand"
    STOPPED = "stopped"
    """An operator unloaded it: cold until somebody asks for it again."""
    BARRED = "barred"
    """It may not serve: disabled, unhealthy, replaced, or its files have vanished."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Time limits in seconds, and what the node has."""

    ram_bytes: int | None = None
    """For models, their KV and its cache. None: models are loaded without regard to what they take."""

    @property
    def has(self) -> Space:
        """What there is for models."""
        return Space(math.inf if self.ram_bytes is None else self.ram_bytes)

    swap: Times = Times()
    swap_drain: float = 60.0
    """As ``drain``, of a model that makes room for another: longer, since nobody has asked for its end."""

    idle_unload: float = 900.0
    """A model loaded on demand that nobody used for so long is unloaded; 0 means never."""
    load: float = 300.0
    """Longest load of an empty file; :attr:`load_bytes_per_second` adds to it."""
    load_bytes_per_second: float = 20e6
    """The slowest storage that we wait for: 50 s a GB."""
    drain: float = 30.0
    drain_settle: float = 0.2
    """A drained worker is stopped this long after the gateways were told: what they had sent before then arrives."""
    stop: float = 5.0
    """From SIGTERM to SIGKILL."""
    shutdown_stop: float = 4.0
    """The same when the supervisor itself ends."""
    proven: float = 10.0
    """A worker that served this long before it crashed is restarted at once."""
    backoff_longest: float = 60.0
    demand_fresh: float = 10.0
    """Gateways repeat a demand while anyone waits; one that was not repeated for so long is over."""


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    spec: ModelSpec
    phase: Phase = Phase.COLD
    since: float
    """When the phase began."""
    reason: str = ""
    known_at: float
    """When we first heard of it: a reading of SQL that began earlier says nothing about it."""

    desired: Desired | None = None
    """None until SQL was read: on demand, with a stop that nobody has told us about yet."""
    revived_at: float | None = None
    """When a demand overruled ``stopped``; a reading of SQL that began earlier still shows the old wish."""
    demanded_at: float | None = None
    """The newest demand that no ready worker has answered."""
    last_use: float = 0.0

    newest: ModelSpec | None = None
    """What was wished for since its worker was started with :attr:`spec`."""

    worker: int | None = None
    """The number of its process, from Start until its exit was seen."""
    pid: int | None = None
    progress: float = 0.0
    busy: int = 0
    """Requests that run or wait in the worker."""
    deadline: float | None = None
    ready_at: float | None = None
    fault: str = ""
    """Why the exit that we wait for is a failure."""

    options: tuple[Option, ...] = ()
    """Ways to load it, the largest first; none: it was not weighed yet."""
    weighing: bool = False
    refused: bool = False
    """While FAILED: it can't fit into the node's memory, so there is nothing to retry."""
    taken: Option | None = None
    """How its worker was started: what that takes is taken until its exit was seen."""
    waits_since: float | None = None
    """When it came to be wanted without being loaded."""
    place: int = 0
    """In the line of those who wait for memory, from 1; 0: it does not stand there."""
    makes_room: bool = False
    """While DRAINING: others need its memory, so that no request takes it back."""
    load_seconds: float = 0.0
    """Of its last load."""
    uses: float = 0.0
    """Seconds in which it was used or asked for, as :func:`.swapping.uses_now` forgets them, at :attr:`uses_at`."""
    uses_at: float = 0.0
    cached_tokens: int = 0
    """That only its worker's memory holds the KV of, beyond its cells."""

    failures: int = 0
    """In a row, each before the worker had proven itself."""
    retry_at: float = 0.0
    restarts: int = 0

    @property
    def outdated(self) -> bool:
        """Its worker computes with other parameters than an operator has set since."""
        return self.newest is not None and self.newest.parameters != self.spec.parameters

    @property
    def space(self) -> Space:
        """That it takes of the node's memory."""
        return self.taken.space if self.taken is not None else Space()

    @property
    def ram_bytes(self) -> int:
        return self.taken.ram_bytes if self.taken is not None else 0


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All replicas of the node, by the primary key of their version."""

    replicas: dict[int, Replica] = {}
    next_worker: int = 1
    closing: bool = False
    look_at: float | None = None
    """When a model that stays for now may be asked to make room."""

    @property
    def ram_bytes(self) -> int:
        """That all replicas take together."""
        return sum(replica.ram_bytes for replica in self.replicas.values())

    @property
    def closed(self) -> bool:
        return self.closing and all(replica.worker is None for replica in self.replicas.values())


def wanted(replica: Replica, now: float, policy: Policy) -> bool:
    """It should run, or a fresh demand asks for it and it is not barred."""
    if replica.desired is Desired.RUNNING:
        return True
    if replica.desired is Desired.BARRED or replica.demanded_at is None:
        return False
    return now <= replica.demanded_at + policy.demand_fresh


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What SQL records of a replica."""

    version_pk: int
    observed: ReplicaState
    reason: str
    pid: int | None
    restarts: int


def observation(replica: Replica) -> Observation:
    return Observation(
        version_pk=replica.spec.version_pk,
        observed=_state(replica),
        reason=replica.reason,
        pid=replica.pid,
        restarts=replica.restarts,
    )


def view(replica: Replica, *, node: str = "", epoch: float, socket_of: Callable[[int], str]) -> ReplicaView:
    """What gateways see of a node's replica. ``epoch`` turns our monotonic times into seconds since the epoch."""
    serving = replica.phase in (Phase.READY, Phase.DRAINING, Phase.STOPPING) and replica.ready_at is not None
    return ReplicaView(
        node=node,
        version_pk=replica.spec.version_pk,
        model=replica.spec.model,
        version=replica.spec.version,
        state=_state(replica),
        reason=replica.reason,
        socket=socket_of(replica.worker) if serving and replica.worker is not None else None,
        progress=replica.progress if replica.phase is Phase.LOADING else float(serving),
        since=replica.since + epoch,
        retry_at=replica.retry_at + epoch if replica.phase is Phase.FAILED and not replica.refused else None,
        place=replica.place,
        never_fits=replica.refused,
    )


def _state(replica: Replica) -> ReplicaState:
    """Peers need not tell a worker that finishes its requests from one that is about to exit: both take no more."""
    if replica.phase is Phase.STOPPING:
        return ReplicaState.DRAINING
    return ReplicaState(replica.phase.value)
