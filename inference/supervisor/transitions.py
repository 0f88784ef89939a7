"""The steps of a replica's life. Each leaves every field that its new phase gives a meaning to in order."""

from msgspec.structs import replace

from inference.protocol import EngineParameters
from inference.supervisor.events import Action, Revive, Start, Stop
from inference.supervisor.fit import Option
from inference.supervisor.replica import Desired, Phase, Policy, Replica


def start(
    replica: Replica, now: float, policy: Policy, worker: int, taken: Option | None
) -> tuple[Replica, list[Action]]:
    """``taken``: how; None: as the engine chooses, whatever that takes."""
    again = replica.phase is Phase.FAILED and not replica.refused
    why = "it is kept loaded" if replica.desired is Desired.RUNNING else "a request asks for it"
    smaller = taken.smaller if taken is not None else EngineParameters()
    actions: list[Action] = [Start(worker=worker, spec=replica.spec, smaller=smaller)]
    if replica.desired is Desired.STOPPED:
        actions.append(Revive(replica.spec.version_pk))
        replica = replace(replica, desired=Desired.ON_DEMAND, revived_at=now)
    loading = replace(
        replica,
        phase=Phase.LOADING,
        since=now,
        reason=f"restarted after: {replica.reason}" if again else why,
        worker=worker,
        deadline=now + policy.load,
        restarts=replica.restarts + again,
        refused=False,
        taken=taken,
        waits_since=None,
        place=0,
        makes_room=False,
    )
    return loading, actions


def ready(replica: Replica, now: float) -> Replica:
    return replace(
        replica,
        phase=Phase.READY,
        since=now,
        reason=_less(replica),
        load_seconds=now - replica.since if replica.phase is Phase.LOADING else replica.load_seconds,
        progress=1.0,
        deadline=None,
        demanded_at=None,
        last_use=now,
        ready_at=now if replica.ready_at is None else replica.ready_at,
        waits_since=None,
        place=0,
    )


def _less(replica: Replica) -> str:
    less = replica.taken.less if replica.taken is not None else ""
    return f"it has {less}, to fit into this node's memory" if less else ""


def drain(replica: Replica, now: float, seconds: float, reason: str) -> Replica:
    """``seconds``: after which what still runs is cut off."""
    return replace(replica, phase=Phase.DRAINING, since=now, deadline=now + seconds, reason=reason)


def make_room(replica: Replica, now: float, policy: Policy) -> Replica:
    """It leaves for others."""
    if replica.phase is Phase.READY:
        replica = drain(replica, now, policy.swap_drain, "others need its memory")
    return replica if replica.makes_room else replace(replica, makes_room=True)


def refuse(replica: Replica, now: float, reason: str) -> Replica:
    """It can't fit."""
    return replace(
        replica, phase=Phase.FAILED, refused=True, since=now, reason=reason, retry_at=0.0, waits_since=None, place=0
    )


def terminate(replica: Replica, now: float, stop_seconds: float, reason: str) -> tuple[Replica, list[Action]]:
    assert replica.worker is not None
    stopping = replace(replica, phase=Phase.STOPPING, since=now, deadline=now + stop_seconds, reason=reason)
    return stopping, [Stop(worker=replica.worker, kill=False)]


def overdue(replica: Replica, now: float, policy: Policy) -> tuple[Replica, list[Action]]:
    assert replica.worker is not None
    if replica.phase is Phase.DRAINING:
        reason = f"{replica.reason}; {replica.busy} requests were cut off after {now - replica.since:.0f} s"
        return terminate(replica, now, policy.stop, reason)
    killed = replace(replica, phase=Phase.STOPPING, deadline=now + policy.stop)
    if replica.phase is Phase.LOADING:
        fault = f"it did not finish loading within {now - replica.since:.0f} s"
        killed = replace(killed, since=now, fault=fault, reason=fault)
    return killed, [Stop(worker=replica.worker, kill=True)]


def cold(replica: Replica, now: float, reason: str) -> Replica:
    return replace(
        replica, phase=Phase.COLD, since=now, reason=reason, failures=0, retry_at=0.0, refused=False, makes_room=False
    )
