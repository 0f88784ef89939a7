"""Who is loaded, and who makes room for it, where not all fit that are wanted. Pure.

Memory is a vector (:mod:`.space`): what fits has to fit into RAM and into each GPU.

Those who wait stand in one line, by the time since when they are wanted; a version stands in it once, however many
requests wait for it. From the first on:

1. One that can't fit beside what is kept loaded, whatever else would go, is refused; it makes nobody leave.
2. One that fits into what is free is loaded. So are those behind it, until one does not fit: the *first in need*.
3. For the first in need, models that were loaded on demand leave, those with the lowest price first for each byte where
   bytes are missing, as few as will do, once each may be asked to: a model stays :func:`residence` seconds after its
   load, as long as that took a few times over, so that loading never becomes most of what is done; and it serves the
   requests that it has, for as long as ``turn`` seconds after it was loaded or the first in need came, whichever was
   later. So requests are served in bunches (AABBCC) and not in the order in which they came (ABCABC). What has left, or
   is on its way, is not taken back by a new request, unless that is the first in line itself.
4. Those behind the first in need are loaded only into what it leaves over when all who make room for it have left.

What is kept loaded (pinned) never leaves for others.

**The bound.** The load of whoever is at place p of the line begins, or is refused, within

    p * (load + max(residence, turn) + drain + stop + exit)

where *load* is the longest that a load may take before it is killed, *residence* and *turn* the longest of their kind,
*drain* how long a model may finish its requests, *stop* the time from SIGTERM to SIGKILL, and *exit* what the kernel
takes to end a killed process; as long as no operator changes anything meanwhile.
Proof: (a) Nobody passes whoever is in need: later ones come behind it (line), or take what it will not need (4), and
what was chosen to leave leaves (3). (b) Let it be first in need from t on. Memory that is taken after t is not memory
that it needs (4), so only who was loading or loaded at t may stand in its way. By t + load each of these is ready or
gone, by t + load + max(residence, turn) each may be asked to leave, and all who may be asked, together, leave it enough
(1). By then, at the latest, enough have been asked, and they are gone drain + stop + exit later. (c) So a place in line
takes that long at most, and nobody comes in before it. ∎
"""

import math
from collections.abc import Iterable, Sequence

import msgspec

from inference.supervisor.space import Space, total

USES_HALF_LIFE_SECONDS = 300.0
_REUSE_SECONDS = 60.0
"""A model that is asked for again within this time should have stayed."""
_BUSY_SECONDS = 10.0
"""What it costs for each request that whoever is in need waits for its end, as if it were time to load."""
PREFILL_SECONDS_PER_TOKEN_AND_BYTE = 3.5e-11
"""Of weights: SmolLM2-135M (98 MB) computes 1,024 tokens of a prompt in 3.6 s on two cores. It compares models on one
machine, nothing else."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """In seconds."""

    residence_least: float = 1.0
    residence_most: float = 15.0
    residence_loads: float = 6.0
    """A model stays as long as its load took, so many times over."""
    turn: float = 15.0


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A version that has memory, from the start of its process until its exit was seen."""

    pk: int
    space: Space
    pinned: bool = False
    going: bool = False
    """It drains or stops."""
    ready_at: float | None = None
    """When it was loaded, or taken back. None: it is being loaded, and can't be asked to leave."""
    load_seconds: float = 0.0
    busy: int = 0
    """Requests that run or wait in it."""
    price: float = 0.0
    """What its leaving costs, in seconds; :func:`price`."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is wanted and not loaded."""

    pk: int
    since: float
    """When it came to be wanted."""
    ways: tuple[Space, ...]
    """What each way to load it takes, the largest first."""
    present: bool = False
    """Its process of before is not gone yet, so it can't be started."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    start: tuple[tuple[int, int], ...] = ()
    """Version, and which way to load it."""
    refuse: tuple[int, ...] = ()
    leave: tuple[int, ...] = ()
    """These are to make room, or go on with it: no request takes them back."""
    line: tuple[int, ...] = ()
    """Who waits on, in order."""
    look_at: float | None = None
    """When somebody else may be asked to leave."""


def plan(waiting: Iterable[Waiting], loaded: Iterable[Loaded], has: Space, now: float, times: Times) -> Plan:
    """What is to be done now, on a node that ``has`` so much. Called again whenever anything changes, and at
    ``look_at``."""
    line = sorted(waiting, key=lambda each: (each.since, each.pk))
    residents = {each.pk: each for each in loaded}
    free = has - total(each.space for each in residents.values())
    start: list[tuple[int, int]] = []
    refuse: list[int] = []
    waits: list[int] = []
    leave: tuple[int, ...] = ()
    look_at: float | None = None
    spare: Space | None = None
    """What the first in need leaves over, once it is known who that is."""
    for each in line:
        way = way_that_fits(each.ways, room(each.pk, residents.values(), has))
        if way is None:
            refuse += [] if each.present else [each.pk]  # 1; the other when it is gone
            continue
        wanted = each.ways[way]
        if wanted.fits(free if spare is None else free.least(spare)) and not each.present:
            start.append((each.pk, way))  # 2, 4
            free -= wanted
            spare = None if spare is None else spare - wanted
            continue
        waits.append(each.pk)
        if spare is None:
            leave, look_at = _make_room(each, wanted - free, residents.values(), now, times)  # 3
            spare = free + total(residents[pk].space for pk in leave) - wanted
    # Its own process of before, if that still finishes requests, had better be taken back.
    leave = tuple(pk for pk in leave if pk != waits[0])
    return Plan(start=tuple(start), refuse=tuple(refuse), leave=leave, line=tuple(waits), look_at=look_at)


def room(pk: int, loaded: Iterable[Loaded], has: Space) -> Space:
    """What a version can have, if all that may leave did."""
    return has - total(each.space for each in loaded if each.pinned and not each.going and each.pk != pk)


def way_that_fits(ways: Sequence[Space], room: Space) -> int | None:
    """The largest; None: not even the smallest does."""
    return next((index for index, wanted in enumerate(ways) if wanted.fits(room)), None)


def residence(load_seconds: float, times: Times) -> float:
    """How long a model stays after its load, in seconds."""
    return min(max(times.residence_loads * load_seconds, times.residence_least), times.residence_most)


def price(*, reload_seconds: float, prefill_seconds: float, uses: float, busy: int) -> float:
    """What it costs that a model leaves, in seconds: what has to be done again, as likely as it is to be asked for
    soon, and what the requests in it take.

    Args:
        prefill_seconds: to compute what its cache would lose.
        uses: :func:`uses_now`.
    """
    rate = uses * math.log(2) / USES_HALF_LIFE_SECONDS
    soon = 1.0 - math.exp(-rate * _REUSE_SECONDS)
    return (reload_seconds + prefill_seconds) * soon + busy * _BUSY_SECONDS


def uses_now(uses: float, seconds: float) -> float:
    """Seconds in which it was used or asked for, halved every :data:`USES_HALF_LIFE_SECONDS`; ``seconds`` after they
    were ``uses``."""
    return float(uses * 0.5 ** (seconds / USES_HALF_LIFE_SECONDS))


def longest_wait(place: int, *, load: float, drain: float, stop: float, exit: float, times: Times) -> float:
    """The bound that the module proves, in seconds."""
    return place * (load + max(times.residence_most, times.turn) + drain + stop + exit)


def _make_room(
    needy: Waiting, missing: Space, loaded: Iterable[Loaded], now: float, times: Times
) -> tuple[tuple[int, ...], float | None]:
    """Who leaves so that what is ``missing`` becomes free, and when to look again if they are not enough yet."""
    residents = list(loaded)
    going = [each for each in residents if each.going]
    missing -= total(each.space for each in going)
    leaving = tuple(each.pk for each in going)
    if missing.nothing:
        return leaving, None
    moments = {each.pk: moment for each in residents if (moment := _may_leave_at(each, needy.since, times)) is not None}
    now_possible = [each for each in residents if each.pk in moments and moments[each.pk] <= now]
    chosen = _cheapest(now_possible, missing)
    if chosen:
        return leaving + tuple(each.pk for each in chosen), None
    later = [moment for moment in moments.values() if moment > now]
    return leaving, min(later, default=None)


def _may_leave_at(each: Loaded, needed_since: float, times: Times) -> float | None:
    """None: not yet known, or never."""
    if each.pinned or each.going or each.ready_at is None:
        return None
    stays_until = each.ready_at + residence(each.load_seconds, times)
    if not each.busy:
        return stays_until
    return max(stays_until, max(each.ready_at, needed_since) + times.turn)


def _cheapest(possible: Sequence[Loaded], missing: Space) -> list[Loaded]:
    """Those with the lowest price for what they relieve, until it is enough, and of them only those that it takes;
    nobody if all of them are not enough."""
    helpful = [(each, relief) for each in possible if (relief := each.space.relief(missing)) > 0]
    chosen: list[Loaded] = []
    for each, _ in sorted(helpful, key=lambda pair: (pair[0].price / pair[1], pair[0].pk)):
        if missing.nothing:
            break
        chosen.append(each)
        missing -= each.space
    if not missing.nothing:
        return []
    for each in sorted(chosen, key=lambda each: -each.price):
        if (missing + each.space).nothing:
            chosen.remove(each)
            missing += each.space
    return chosen
