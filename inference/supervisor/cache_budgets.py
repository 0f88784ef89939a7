"""What each worker is told that its cache may take: one tier of one node, from reports to budgets. Pure.

:func:`registry.cache.eviction.limits` says who should hold how much; here it becomes what may be said now. A worker
obeys some time after it was told, so until its report confirms a budget, the largest that may still be in force counts
(:class:`Grant`). Shrinking is said at once, growing only into what nobody may hold any more: at no moment can all
workers together hold more than the tier has, whatever order their answers come in.

A budget is confirmed by being reported, so a worker whose last one is not confirmed yet is told no other: a report of
the one before could not be told from that of the one after.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from inference.protocol import TierReport
from registry.cache.eviction import EvictionPolicy, Holding, limits, step, transition, wanted


class Grant(msgspec.Struct, frozen=True):
    """How one worker stands in one tier, in bytes."""

    said: int = 0
    """What it was told last."""
    in_force: int = 0
    """The most that it may hold now: it may not have heard yet."""
    confirmed: bool = True


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """One version in one tier."""

    name: str
    """Unique in the tier."""
    model: str
    running: bool
    """False: only its blocks on SSD are there; whoever asked for these budgets trims them."""
    grant: Grant = Grant()
    """Of the running worker."""
    held: int = 0
    possible: bool = True
    """False: this tier is not for this model."""
    grew: bool = False
    """It stored or evicted blocks since the last round."""
    weights_bytes: int = 0
    least_recent_use: float | None = None
    least_uses: int | None = None


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided elsewhere about one tier of this node, in bytes."""

    bytes: int
    """What all models together may take."""
    shares: Mapping[str, int]
    """What each model is owed. One that is not named beside others has nothing to cache, and gets no more than it has;
    where nobody is named, nobody has said yet who is owed what, and whoever runs borrows."""
    ceilings: Mapping[str, int] = {}
    """What a model does not get more than, however much is free; one that is not named has no such bound."""
    policy: EvictionPolicy


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, by the names of the seats."""

    shares: dict[str, int]
    limits: dict[str, int]
    say: dict[str, int]
    """Budgets to tell running workers now."""
    trim: dict[str, int]
    """What those that do not run may keep."""
    gave_way: str | None


def said(grant: Grant, budget: int) -> Grant:
    """The worker is being told a budget."""
    if budget == grant.said:
        return grant
    return Grant(said=budget, in_force=max(grant.in_force, budget), confirmed=False)


def heard(grant: Grant, report: TierReport) -> Grant:
    """The worker reports what it goes by and what it holds."""
    if not report.possible:
        return replace(grant, confirmed=True, in_force=0)
    if report.budget_bytes != grant.said:
        return grant
    return replace(grant, confirmed=True, in_force=max(grant.said, report.bytes))


def decide(seats: Sequence[Seat], tier: Tier, *, after: str | None) -> Round:
    """One round over a tier. ``after`` is the ``gave_way`` of the round before."""
    versions = Counter(seat.model for seat in seats)
    holdings = [_holding(seat, tier, versions[seat.model]) for seat in seats]
    decision = limits(holdings, tier.bytes, tier.policy, after=after)
    in_force = {seat.name: seat.grant.in_force if seat.running else seat.held for seat in seats}
    now = transition(decision.limits, in_force, tier.bytes)
    return Round(
        shares={holding.model: holding.share for holding in holdings},
        limits=decision.limits,
        say={seat.name: now[seat.name] for seat in seats if _is_news(seat, now[seat.name])},
        trim={seat.name: now[seat.name] for seat in seats if not seat.running and now[seat.name] < seat.held},
        gave_way=decision.gave_way,
    )


def _is_news(seat: Seat, budget: int) -> bool:
    return seat.running and seat.grant.confirmed and budget != seat.grant.said


def _holding(seat: Seat, tier: Tier, versions: int) -> Holding:
    """Versions of one model have equal parts of what it is owed."""
    wants = wanted(held=seat.held, limit=seat.grant.said, grew=seat.grew, step=step(tier.bytes)) if seat.running else 0
    return Holding(
        model=seat.name,
        bytes=seat.held,
        share=tier.shares.get(seat.model, 0) // versions,
        ceiling=min(_bounds(seat, tier, versions), default=None),
        wants=wants,
        weights_bytes=seat.weights_bytes,
        least_recent_use=seat.least_recent_use,
        least_uses=seat.least_uses,
    )


def _bounds(seat: Seat, tier: Tier, versions: int) -> Iterator[int]:
    """What a version never gets more than, though there be room: who does not run, or has nothing to cache, could not
    use it and would keep it from others."""
    if seat.model in tier.ceilings:
        yield tier.ceilings[seat.model] // versions
    if not seat.running or (tier.shares and seat.model not in tier.shares):
        yield seat.held
    if not seat.possible:
        yield 0
