"""Who is loaded and who leaves: replicas as :mod:`.swapping` sees them, and its plan as steps of their lives. Pure.

1. A wanted version without a process is weighed, and stands in line since it is wanted.
2. One that was refused and would fit now is cold again.
3. The plan: who starts, who is refused, who makes room, who waits at which place.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from inference.supervisor.events import Action, Start, Weigh
from inference.supervisor.fit import why_never
from inference.supervisor.replica import Desired, Phase, Policy, Replica, wanted
from inference.supervisor.space import Space
from inference.supervisor.swapping import (
    PREFILL_SECONDS_PER_TOKEN_AND_BYTE,
    Loaded,
    Plan,
    Waiting,
    plan,
    price,
    room,
    uses_now,
    way_that_fits,
)
from inference.supervisor.transitions import cold, make_room, refuse, start

_LOAD_BYTES_PER_SECOND = 200e6
"""Of weights, until a load has shown how long it takes."""
_MIB = 1 << 20
_GOING = (Phase.DRAINING, Phase.STOPPING)


class Seating(msgspec.Struct, frozen=True, kw_only=True):
    replicas: dict[int, Replica]
    actions: list[Action]
    next_worker: int
    look_at: float | None
    """When somebody else may be asked to make room."""


def seat(replicas: Mapping[int, Replica], now: float, policy: Policy, next_worker: int) -> Seating:
    """What is to be done for those who are wanted and not loaded."""
    others = {pk: replica for pk, replica in replicas.items() if not _concerned(replica)}
    after = {pk: replica for pk, replica in replicas.items() if _concerned(replica)}
    actions: list[Action] = []
    for pk, replica in list(after.items()):
        after[pk] = _queued(replica, now, policy)
        if _to_be_weighed(after[pk], policy):
            after[pk] = replace(after[pk], weighing=True)
            actions.append(Weigh(replica.spec))
    residents = [_loaded(replica, now) for replica in after.values() if replica.worker is not None]
    after = {pk: _reconsidered(replica, residents, now, policy) for pk, replica in after.items()}
    planned = plan(_line(after.values(), policy), residents, policy.has, now, policy.swap)
    for pk in planned.refuse:
        after[pk] = refuse(after[pk], now, _why_never(after[pk], residents, policy))
    for pk, way in planned.start:
        taken = after[pk].options[way] if after[pk].options else None
        after[pk], effects = start(after[pk], now, policy, next_worker, taken)
        next_worker += sum(isinstance(effect, Start) for effect in effects)
        actions += effects
    after = {pk: _placed(replica, planned, now, policy) for pk, replica in after.items()}
    return Seating(replicas=others | after, actions=actions, next_worker=next_worker, look_at=planned.look_at)


def _concerned(replica: Replica) -> bool:
    """All others are cold, or wait out a back-off, and nobody wants them. They may be many, and events are frequent."""
    absent = replica.worker is None and replica.waits_since is None and not replica.refused
    return not absent or replica.desired is Desired.RUNNING or replica.demanded_at is not None


def _queued(replica: Replica, now: float, policy: Policy) -> Replica:
    """With the time since when it waits. A back-off is no waiting: it begins anew after it."""
    waits = wanted(replica, now, policy) and replica.phase not in (Phase.LOADING, Phase.READY)
    if not waits or now < replica.retry_at or replica.refused:
        return replica if replica.waits_since is None else replace(replica, waits_since=None)
    return replica if replica.waits_since is not None else replace(replica, waits_since=now)


def _to_be_weighed(replica: Replica, policy: Policy) -> bool:
    unknown = not replica.options and not replica.weighing
    return unknown and policy.ram_bytes is not None and replica.waits_since is not None and replica.worker is None


def _reconsidered(replica: Replica, residents: Iterable[Loaded], now: float, policy: Policy) -> Replica:
    """Refused is who can't fit now."""
    if not replica.refused:
        return replica
    ways = [option.space for option in replica.options]
    if ways and way_that_fits(ways, room(replica.spec.version_pk, residents, policy.has)) is None:
        return replica
    return _queued(cold(replica, now, ""), now, policy)


def _line(replicas: Iterable[Replica], policy: Policy) -> list[Waiting]:
    return [
        Waiting(
            pk=replica.spec.version_pk,
            since=replica.waits_since,
            ways=tuple(option.space for option in replica.options) or (Space(),),
            present=replica.worker is not None,
        )
        for replica in replicas
        if replica.waits_since is not None and (replica.options or policy.ram_bytes is None)
    ]


def _loaded(replica: Replica, now: float) -> Loaded:
    going = replica.phase in _GOING
    return Loaded(
        pk=replica.spec.version_pk,
        space=replica.space,
        pinned=replica.desired is Desired.RUNNING,
        going=going,
        ready_at=replica.since if replica.phase is Phase.READY else None,
        load_seconds=replica.load_seconds,
        busy=replica.busy,
        price=_price(replica, now),
    )


def _price(replica: Replica, now: float) -> float:
    weights = replica.taken.needs.weights if replica.taken is not None else 0
    return price(
        reload_seconds=replica.load_seconds or weights / _LOAD_BYTES_PER_SECOND,
        prefill_seconds=replica.cached_tokens * weights * PREFILL_SECONDS_PER_TOKEN_AND_BYTE,
        uses=uses_now(replica.uses, now - replica.uses_at),
        busy=replica.busy,
    )


def _placed(replica: Replica, planned: Plan, now: float, policy: Policy) -> Replica:
    """With its place in line, and whether it makes room for those in it."""
    pk = replica.spec.version_pk
    if pk in planned.leave:
        replica = make_room(replica, now, policy)
    elif replica.makes_room:
        replica = replace(replica, makes_room=False)
    place = planned.line.index(pk) + 1 if pk in planned.line else 0
    if place == replica.place:
        return replica
    if replica.phase is Phase.COLD:
        replica = replace(replica, reason=_why_it_waits(replica) if place else "")
    return replace(replica, place=place)


def _why_it_waits(replica: Replica) -> str:
    """Without its place, which changes often: reasons are written to SQL."""
    least = min(option.ram_bytes for option in replica.options)
    return f"it waits for {least // _MIB:,} MB of memory"


def _why_never(replica: Replica, residents: Iterable[Loaded], policy: Policy) -> str:
    assert policy.ram_bytes is not None, "without a bound everything fits"
    left = room(replica.spec.version_pk, residents, policy.has)
    return why_never(replica.options, ram_bytes=policy.ram_bytes, kept_bytes=policy.ram_bytes - int(left.ram))
