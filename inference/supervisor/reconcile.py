"""What to do next: state and event in, state and actions out. Pure.

:func:`step` first notes what the event says, then lets every replica settle by this tree. The first branch that applies
is taken, until none does; so nothing depends on which event brought the news, and a lost one costs only time.

1. Its deadline has passed:
   1a. LOADING: kill it; its exit is then a failure.
   1b. DRAINING: SIGTERM, cutting off what still runs.
   1c. STOPPING: kill it (again: a process stuck in the kernel dies when it leaves it).
2. It may not stay, since it is stopped or barred, its parameters were changed, or the supervisor ends:
   2a. LOADING, and any worker when the supervisor ends: SIGTERM.
   2b. READY: drain it.
   2c. FAILED: it is cold; nobody waits for a retry. One that is asked for all the same, and refused, stays so.
3. DRAINING:
   3a. it may stay, is wanted again, and makes no room for others: it is READY, as it was.
   3b. nothing runs in it and the gateways have had time to hear: SIGTERM.
4. READY on demand, and nobody used it for the idle time: drain it.
5. A demand that nobody repeats any more is forgotten.

Then, over all of them, :mod:`.seating`: who is wanted, has no worker, and whose back-off is over, is started if it fits
into the node's memory; others make room for it if need be. A stopped one is on demand from its start on. After that
each settles again, until nothing changes.

Wanted is what should run, and what a fresh demand asks for unless it is barred. A version has one process at most:
a new one is started only after the exit of the one before was seen.
"""

from msgspec.structs import replace

from inference.supervisor.events import Action, Event, Publish, Record
from inference.supervisor.noting import note
from inference.supervisor.replica import Desired, Phase, Policy, Replica, State, observation, view, wanted
from inference.supervisor.seating import seat
from inference.supervisor.transitions import cold, drain, overdue, ready, terminate

_ON_DEMAND = (None, Desired.ON_DEMAND)
_MOST_ROUNDS = 10
"""Three have been seen to do. A fault of ours must not keep the node from everything else."""


def step(state: State, event: Event, now: float, policy: Policy) -> tuple[State, list[Action]]:
    """What an event changes, and what is to be done about it, in order."""
    noted, actions = note(state, event, now, policy)
    settled = _settle(noted, now, policy, actions)
    for _ in range(_MOST_ROUNDS):
        if settled.closing or (seated := _seat(settled, now, policy, actions)) == settled:
            break
        settled = _settle(seated, now, policy, actions)
    return settled, actions + _announce(state, settled)


def _settle(state: State, now: float, policy: Policy, actions: list[Action]) -> State:
    """Each by itself. Adds to ``actions``."""
    replicas = dict(state.replicas)
    for pk, replica in state.replicas.items():
        while decision := _decide(replica, now, policy, state.closing):
            replica, effects = decision
            actions += effects
        replicas[pk] = replica
    return replace(state, replicas=replicas)


def _seat(state: State, now: float, policy: Policy, actions: list[Action]) -> State:
    """All together. Adds to ``actions``."""
    seated = seat(state.replicas, now, policy, state.next_worker)
    actions += seated.actions
    return replace(state, replicas=seated.replicas, next_worker=seated.next_worker, look_at=seated.look_at)


def due_at(state: State, policy: Policy) -> float | None:
    """When time alone will next change something: step a :class:`Tick` then."""
    moments = [_due_at(replica, policy, state.closing) for replica in state.replicas.values()]
    moments.append(None if state.closing else state.look_at)
    return min((moment for moment in moments if moment is not None), default=None)


def _decide(replica: Replica, now: float, policy: Policy, closing: bool) -> tuple[Replica, list[Action]] | None:
    """One branch of the tree, or None where the replica can stay as it is."""
    # 1
    if replica.deadline is not None and now >= replica.deadline:
        return overdue(replica, now, policy)
    # 2
    if closing and replica.phase in (Phase.LOADING, Phase.READY, Phase.DRAINING):
        return terminate(replica, now, policy.shutdown_stop, "the supervisor ends")
    if closing or replica.outdated or replica.desired in (Desired.STOPPED, Desired.BARRED):
        if replica.phase is Phase.LOADING:
            return terminate(replica, now, policy.stop, _why_unwanted(replica))
        if replica.phase is Phase.READY:
            return drain(replica, now, policy.drain, _why_unwanted(replica)), []
        if replica.phase is Phase.FAILED and (closing or not (replica.refused and wanted(replica, now, policy))):
            return cold(replica, now, replica.reason if closing else _why_unwanted(replica)), []
    # 3
    elif replica.phase is Phase.DRAINING and wanted(replica, now, policy) and not replica.makes_room:
        return ready(replica, now), []
    if replica.phase is Phase.DRAINING and replica.busy == 0 and now >= replica.since + policy.drain_settle:
        return terminate(replica, now, policy.stop, replica.reason)
    # 4
    if _idle(replica, policy) and now >= replica.last_use + policy.idle_unload:
        return drain(replica, now, policy.drain, f"unused for {policy.idle_unload:g} s"), []
    # 5
    if replica.demanded_at is not None and now > replica.demanded_at + policy.demand_fresh:
        return replace(replica, demanded_at=None), []
    return None


def _why_unwanted(replica: Replica) -> str:
    if replica.desired is Desired.BARRED:
        return "its model is disabled or unhealthy, or its files were replaced or have vanished"
    if replica.desired is Desired.STOPPED:
        return "an operator stopped it"
    return "its parameters were changed"


def _idle(replica: Replica, policy: Policy) -> bool:
    """Whether its idle time is running."""
    on_demand = replica.phase is Phase.READY and replica.desired in _ON_DEMAND
    return on_demand and replica.busy == 0 and policy.idle_unload > 0


def _due_at(replica: Replica, policy: Policy, closing: bool) -> float | None:
    if replica.phase is Phase.DRAINING and replica.busy == 0:
        return replica.since + min(policy.drain_settle, policy.drain)
    if replica.deadline is not None:
        return replica.deadline
    if _idle(replica, policy):
        return replica.last_use + policy.idle_unload
    backs_off = replica.phase is Phase.FAILED and not closing and not replica.refused and replica.waits_since is None
    waits = backs_off and wanted(replica, replica.retry_at, policy)
    return replica.retry_at if waits else None


def _announce(before: State, after: State) -> list[Action]:
    """Tell SQL and the gateways what differs."""
    records: list[Action] = []
    publish = False
    for pk, replica in after.replicas.items():
        known = before.replicas.get(pk) or Replica(spec=replica.spec, known_at=replica.known_at, since=replica.since)
        if known is replica:
            continue
        if observation(known) != observation(replica):
            records.append(Record(observation(replica)))
        publish = publish or view(known, epoch=0.0, socket_of=str) != view(replica, epoch=0.0, socket_of=str)
    return records + ([Publish()] if publish else [])
