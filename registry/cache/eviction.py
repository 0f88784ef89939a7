"""Which model gives way when a node's KV cache is full: the global eviction policy. Pure; one call per tier.

Allocation gives every model a *share* of the global size. A model may grow past it while the global size has room
(it *borrows*); when there is no room, the policy picks who gives way among those that hold more than their share:

    lru                   who holds the least recently used block
    lfu                   who holds the least frequently used block
    smallest_model_first  whose weights are smallest on disk, in bytes: its prompts are the cheapest to compute again
    round_robin           the next in rotation, by name, after who gave way last

How the one who asks for more is served, in this order:

1. From the room that nobody holds.
2. Up to its share, which it is owed: from whoever the policy picks.
3. Beyond its share: from whoever the policy picks, until it picks the one who asks. Then the asker's own block is the
   one to go, so it gets no more and replaces its own: this is what a single cache of all models would do.

Nobody is pushed below the smaller of its share and what it holds. What is known of a model is only its *first* block to
go, so ask for little at a time (:func:`step`): the next report tells who holds the oldest block then.

A round of each node's supervisor (:mod:`inference.supervisor.cache_budgets`) asks, for each tier, what each wants
(:func:`wanted`), who should hold how much then (:func:`limits`), and what of that may be told now (:func:`transition`).
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

from registry.cache.parts import divided


class EvictionPolicy(StrEnum):
    LRU = "lru"
    LFU = "lfu"
    SMALLEST_MODEL_FIRST = "smallest_model_first"
    ROUND_ROBIN = "round_robin"


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's worker holds in one tier, and what it is owed."""

    model: str
    """Any name that is unique among the holdings of a call; a tie is broken by it."""
    bytes: int
    share: int
    """Bytes that it is owed (:class:`registry.cache.allocation.Share`)."""
    ceiling: int | None = None
    """Bytes that it never gets more of, however much is free (``per_model_quota``). None: no such bound."""
    wants: int = 0
    """Bytes that it could use beyond those that it holds, now."""
    weights_bytes: int = 0
    """Of its files on disk."""
    least_recent_use: float | None = None
    """When the block was used that it would drop first under LRU, in seconds since the epoch."""
    least_uses: int | None = None
    """How often the block was used that it would drop first under LFU."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    limits: dict[str, int]
    """Bytes that each model may hold. They sum to at most the global size."""
    gave_way: str | None = None
    """Whom the policy picked last; the next call's ``after``."""


def limits(
    holdings: Sequence[Holding], global_bytes: int, policy: EvictionPolicy, *, after: str | None = None
) -> Decision:
    """How much each model may hold, given what all hold and who wants more.

    A model that holds nothing yet gets a beginning (:func:`step`) of what it is owed without asking: a limit of 0
    would switch its tier off and it could never ask. What is free at the end is lent, first up to everybody's share,
    then in proportion to the shares, so that a worker can grow before anybody decides again.

    Args:
        global_bytes: of this tier on this node. Shares that sum to more are scaled down to it.
        after: whom the policy picked last (``Decision.gave_way`` of the call before), for ``round_robin``.
    """
    table = _Table(_fitted(holdings, global_bytes), global_bytes, policy, after)
    table.shrink()
    for holding in table.holdings:
        table.grow_to_owed(holding)
    for holding in table.holdings:
        if holding.wants:
            table.grow_beyond(holding)
    table.lend()
    return Decision(limits=table.limits, gave_way=table.gave_way)


def step(global_bytes: int) -> int:
    """How much a model asks for at a time, in bytes: a 64th of the tier, so that the policy is asked often enough to
    be true to what it says and rarely enough to cost nothing."""
    return -(-global_bytes // 64)


def wanted(*, held: int, limit: int, grew: bool, step: int) -> int:
    """Bytes that a worker wants beyond what it holds: a step, once what it may still take is less than one.

    Args:
        grew: it has stored or evicted blocks since it was last asked. One that only sits there wants nothing, or two
            idle models would take turns under ``round_robin``.
    """
    return step if grew and limit - held < step else 0


def transition(target: Mapping[str, int], in_force: Mapping[str, int], global_bytes: int) -> dict[str, int]:
    """The next limits to tell the workers on the way to ``target``, so that the sum is never exceeded meanwhile.

    Who is to shrink is told at once. Who is to grow gets only what is free while the others still hold what is in force
    for them; the rest follows when they have reported that they shrank.

    Args:
        in_force: for each model the larger of its limit as last *reported* and what it held then; one that was told
            more since counts with that. A model that is missing here holds nothing.
    """
    told = {model: min(limit, in_force.get(model, 0)) for model, limit in target.items()}
    room = global_bytes - sum(in_force.values())
    for model in sorted(target):
        more = min(target[model] - told[model], max(0, room))
        told[model] += more
        room -= more
    return told


def _fitted(holdings: Iterable[Holding], global_bytes: int) -> list[Holding]:
    """By name; shares within ceilings and, together, within the global size."""
    fitted = [
        msgspec.structs.replace(holding, share=_capped(holding, holding.share))
        for holding in sorted(holdings, key=lambda holding: holding.model)
    ]
    if sum(holding.share for holding in fitted) <= global_bytes:
        return fitted
    scaled = divided(global_bytes, [holding.share for holding in fitted])
    return [msgspec.structs.replace(holding, share=share) for holding, share in zip(fitted, scaled, strict=True)]


class _Table:
    """The limits while they are made. Whatever is done to them, their sum only grows into what is free."""

    def __init__(
        self, holdings: Sequence[Holding], global_bytes: int, policy: EvictionPolicy, after: str | None
    ) -> None:
        self.holdings = holdings
        self.limits = {holding.model: holding.bytes for holding in holdings}
        self.gave_way = after
        self._policy = policy
        self._global_bytes = global_bytes

    @property
    def free(self) -> int:
        return self._global_bytes - sum(self.limits.values())

    def shrink(self) -> None:
        """Down to the ceilings, then by the policy until all fits: nobody below its share, which all together fit."""
        for holding in self.holdings:
            self.limits[holding.model] = _capped(holding, holding.bytes)
        while self.free < 0 and (victim := self._pick()):
            self._take(victim, -self.free)

    def grow_to_owed(self, asker: Holding) -> None:
        """Towards its share. Others give way as long as any of them holds more than its own."""
        goal = min(asker.share, max(asker.bytes + asker.wants, step(self._global_bytes)))
        self._raise_to(asker, goal)
        while self._missing(asker, goal) and (victim := self._pick()):
            self._take(victim, self._missing(asker, goal))
            self._raise_to(asker, goal)

    def grow_beyond(self, asker: Holding) -> None:
        """As far as it wants. Others give way until the policy picks the asker itself."""
        goal = _capped(asker, asker.bytes + asker.wants)
        self._raise_to(asker, goal)
        while self._missing(asker, goal) and (victim := self._pick(asker)) not in (None, asker):
            self._take(victim, self._missing(asker, goal))
            self._raise_to(asker, goal)

    def lend(self) -> None:
        """What is free, up to the shares first."""
        for holding in self.holdings:
            self._raise_to(holding, holding.share)
        while self.free > 0 and (borrowers := [each for each in self.holdings if self._may_borrow(each)]):
            for holding, part in zip(borrowers, divided(self.free, [each.share for each in borrowers]), strict=True):
                self._raise_to(holding, _capped(holding, self.limits[holding.model] + part))

    def _may_borrow(self, holding: Holding) -> bool:
        return holding.ceiling is None or self.limits[holding.model] < holding.ceiling

    def _missing(self, asker: Holding, goal: int) -> int:
        return max(0, goal - self.limits[asker.model])

    def _raise_to(self, holding: Holding, goal: int) -> None:
        self.limits[holding.model] += max(0, min(self._missing(holding, goal), self.free))

    def _take(self, victim: Holding, wish: int) -> None:
        self.limits[victim.model] -= min(wish, self.limits[victim.model] - victim.share)

    def _pick(self, asker: Holding | None = None) -> Holding | None:
        """Who gives way next, as the policy says: of those above their share, and the asker if there is one."""
        able = [each for each in self.holdings if self.limits[each.model] > each.share or each is asker]
        picked = _first_by(self._policy, able, self.gave_way) if able else None
        self.gave_way = picked.model if picked else self.gave_way
        return picked


def _first_by(policy: EvictionPolicy, able: Sequence[Holding], after: str | None) -> Holding:
    """Of those who can give way, who does. ``able`` is in the order of the names, which also breaks ties."""
    match policy:
        case EvictionPolicy.LRU:
            return min(able, key=lambda each: each.least_recent_use or 0.0)
        case EvictionPolicy.LFU:
            return min(able, key=lambda each: each.least_uses or 0)
        case EvictionPolicy.SMALLEST_MODEL_FIRST:
            return min(able, key=lambda each: each.weights_bytes)
        case EvictionPolicy.ROUND_ROBIN:
            return next((each for each in able if after is None or each.model > after), able[0])


def _capped(holding: Holding, goal: int) -> int:
    return goal if holding.ceiling is None else min(goal, holding.ceiling)
