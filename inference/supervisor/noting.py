"""What an event says about the replicas, before anything is decided. Pure."""

from msgspec.structs import replace

from inference.protocol import ModelSpec, WorkerStage, WorkerStatus
from inference.supervisor.events import (
    Action,
    Closing,
    Demanded,
    Event,
    Revive,
    Tick,
    Used,
    Weighed,
    Wish,
    WishesRead,
    WorkerBusy,
    WorkerCached,
    WorkerEvent,
    WorkerExited,
    WorkerReported,
    WorkerSpawned,
)
from inference.supervisor.replica import Desired, Phase, Policy, Replica, State
from inference.supervisor.swapping import uses_now
from inference.supervisor.transitions import cold, ready


def note(state: State, event: Event, now: float, policy: Policy) -> tuple[State, list[Action]]:
    match event:
        case Demanded(spec):
            known = state.replicas.get(spec.version_pk) or Replica(spec=spec, known_at=now, since=now)
            return _with(state, _demanded(known, spec, now)), []
        case Used(versions):
            used = [_used(state.replicas[pk], now) for pk in versions if pk in state.replicas]
            return _with(state, *(replace(replica, last_use=now) for replica in used)), []
        case WishesRead():
            return _wishes_read(state, event, now)
        case Weighed():
            weighed = [_weighed(replica, event) for replica in _of(state, event.spec)]
            return _with(state, *weighed), []
        case WorkerSpawned() | WorkerReported() | WorkerBusy() | WorkerCached() | WorkerExited():
            # An exit is seen once and last; what is heard of a worker after it belongs to nobody.
            own = [replica for replica in state.replicas.values() if replica.worker == event.worker]
            return _with(state, *(_worker_event(replica, event, now, policy) for replica in own)), []
        case Closing():
            hurried = [_hurried(replica, now, policy) for replica in state.replicas.values()]
            return replace(_with(state, *hurried), closing=True), []
        case Tick():
            return state, []


def _with(state: State, *changed: Replica) -> State:
    return replace(state, replicas=state.replicas | {replica.spec.version_pk: replica for replica in changed})


def _of(state: State, spec: ModelSpec) -> list[Replica]:
    known = state.replicas.get(spec.version_pk)
    return [known] if known is not None else []


def _used(replica: Replica, now: float) -> Replica:
    """Gateways say so once a second, so this counts seconds."""
    return replace(replica, uses=uses_now(replica.uses, now - replica.uses_at) + 1.0, uses_at=now)


def _weighed(replica: Replica, event: Weighed) -> Replica:
    """As it is to be started next. One that has changed meanwhile is weighed again."""
    current = event.spec == (replica.newest or replica.spec)
    return replace(replica, weighing=False, options=event.options if current else replica.options)


def _with_spec(replica: Replica, spec: ModelSpec) -> Replica:
    """To be started so. What it takes is another thing then, and what was refused may fit."""
    if spec == replica.spec:
        return replica
    return replace(replica, spec=spec, options=())


def _demanded(replica: Replica, spec: ModelSpec, now: float) -> Replica:
    if replica.worker is None:
        replica = _with_spec(replica, spec)
    return replace(
        _used(replica, now),
        demanded_at=None if replica.phase is Phase.READY else now,
        last_use=now,
    )


def _wishes_read(state: State, event: WishesRead, now: float) -> tuple[State, list[Action]]:
    replicas = dict(state.replicas)
    actions: list[Action] = []
    for wish in event.wishes:
        pk = wish.spec.version_pk
        known = replicas.get(pk)
        if known is not None:
            replicas[pk], revived = _wished(known, wish, event.read_at, now)
            actions += [Revive(pk)] if revived else []
        elif wish.desired is not Desired.ON_DEMAND:
            replicas[pk] = Replica(spec=wish.spec, known_at=now, since=now, desired=wish.desired)
    named = {wish.spec.version_pk for wish in event.wishes}
    for pk, replica in replicas.items():
        if pk not in named and replica.known_at < event.read_at:
            replicas[pk] = replace(replica, desired=Desired.BARRED)
    return replace(state, replicas=replicas), actions


def _wished(replica: Replica, wish: Wish, read_at: float, now: float) -> tuple[Replica, bool]:
    """The replica with its wish, and whether the wish was overruled by a demand that came after it."""
    desired = wish.desired
    if desired is Desired.STOPPED and replica.revived_at is not None and read_at <= replica.revived_at:
        return replica, False
    if replica.worker is not None:
        replica = replace(replica, newest=wish.spec)
    else:
        if replica.spec.parameters != wish.spec.parameters:
            replica = replace(replica, failures=0, retry_at=min(replica.retry_at, now))  # others may not fail
        replica = _with_spec(replica, wish.spec)
    asked_for = replica.worker is not None or replica.demanded_at is not None
    if desired is Desired.STOPPED and replica.desired is None and asked_for:
        # It was stopped before we started, and asked for before we could know.
        return replace(replica, desired=Desired.ON_DEMAND, revived_at=now), True
    if desired is Desired.STOPPED and replica.desired is not Desired.STOPPED:
        replica = replace(replica, demanded_at=None)  # only a demand after the stop counts
    if desired is Desired.RUNNING and replica.desired is not Desired.RUNNING:
        replica = replace(replica, retry_at=min(replica.retry_at, now))  # an operator does not wait for a back-off
    return replace(replica, desired=desired, revived_at=None), False


def _worker_event(
    replica: Replica,
    event: WorkerEvent,
    now: float,
    policy: Policy,
) -> Replica:
    match event:
        case WorkerSpawned():
            replica = replace(replica, pid=event.pid)
            if replica.phase is Phase.LOADING:
                seconds = policy.load + event.size_bytes / policy.load_bytes_per_second
                replica = replace(replica, deadline=replica.since + seconds)
            return replica
        case WorkerReported(status=status):
            return _reported(replica, status, now, policy)
        case WorkerBusy():
            return replace(replica, busy=event.requests, last_use=now)
        case WorkerCached():
            return replace(replica, cached_tokens=event.tokens)
        case WorkerExited():
            return _exited(replica, event.reason, now, policy)


def _reported(replica: Replica, status: WorkerStatus, now: float, policy: Policy) -> Replica:
    if status.stage is WorkerStage.FAILED and replica.phase is not Phase.STOPPING:
        fault = status.reason or "it failed without saying why"
        deadline = now + policy.stop
        return replace(replica, phase=Phase.STOPPING, since=now, deadline=deadline, fault=fault, reason=fault)
    if replica.phase is not Phase.LOADING:
        return replica
    if status.stage is WorkerStage.READY:
        return ready(replica, now)
    return replace(replica, progress=min(max(replica.progress, status.progress), 1.0))


def _exited(replica: Replica, reason: str, now: float, policy: Policy) -> Replica:
    proven = replica.ready_at is not None and now - replica.ready_at >= policy.proven
    gone = replace(
        _with_spec(replica, replica.newest or replica.spec),
        newest=None,
        taken=None,
        makes_room=False,
        cached_tokens=0,
        worker=None,
        pid=None,
        busy=0,
        progress=0.0,
        deadline=None,
        ready_at=None,
        fault="",
        since=now,
    )
    if replica.phase is Phase.STOPPING and not replica.fault:
        return cold(gone, now, replica.reason)
    if replica.phase is Phase.DRAINING:
        return cold(gone, now, f"{replica.reason}; it ended before its requests did: {reason}")
    failures = 0 if proven else replica.failures + 1
    return replace(
        gone,
        phase=Phase.FAILED,
        reason=replica.fault or reason,
        failures=failures,
        retry_at=now + _backoff(failures, policy),
    )


def _backoff(failures: int, policy: Policy) -> float:
    """Seconds: 0 for a worker that had proven itself, else 1, 2, 4 …"""
    if failures == 0:
        return 0.0
    return min(policy.backoff_longest, 2.0 ** min(failures - 1, 30))


def _hurried(replica: Replica, now: float, policy: Policy) -> Replica:
    if replica.phase is Phase.STOPPING and replica.deadline is not None:
        return replace(replica, deadline=min(replica.deadline, now + policy.shutdown_stop))
    return replica
