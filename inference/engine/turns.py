"""Whose turn it is to be placed, of those who wait, and to have their prompt computed.

Between tenants the highest priority goes first: that of the tenant's next sequence, raised by one for every
:data:`AGING_SECONDS` in which the tenant got no place although it waited. (It is the tenant that ages, not the
sequence: else who sends hundreds at once would have the oldest, and with them every turn.) Among equals tenants take
turns by deficit round robin (Shreedhar and Varghese 1995): every turn earns a tenant :data:`QUANTUM_TOKENS` for its
weight, a prompt costs its tokens and every generated token costs one, so that who sends ten times as many or as long
requests does not get ten times the tokens.

Within a tenant a sequence goes before another if it came earlier, where each step of priority is worth
:data:`AGING_SECONDS`.
"""

import math
from collections import Counter
from collections.abc import Iterable

from inference.engine.sequences import Sequence

AGING_SECONDS = 5.0
QUANTUM_TOKENS = 512
MOST_DEBT_TOKENS = 16 * QUANTUM_TOKENS
"""A tenant that was alone for long owes no more than this when another one comes."""
AHEAD_TOKENS = 1024
"""Of the prompts of a tenant that comes anew, so much is computed before others get their share again."""

SEVERAL_SECONDS = 600.0
"""A tenant that got no place for so long is not reckoned with any more."""

HIGHEST_PRIORITY = 10


def effective_priority(sequence: Sequence, now: float, since: float = -math.inf) -> int:
    """Raised by waiting, at the earliest from ``since`` on."""
    waited = now - max(sequence.arrived, since)
    return max(sequence.priority, min(HIGHEST_PRIORITY, sequence.priority + int(waited / AGING_SECONDS)))


class Turns:
    """Owned by the scheduler."""

    def __init__(self) -> None:
        self._deficits: dict[str, float] = {}
        """In the order of turns: who is first has it. Negative: the tenant owes tokens."""
        self._sequences: Counter[str] = Counter()
        """Of each tenant that has any here."""
        self._placed_at: dict[str, float] = {}
        """When each of them last got a place."""
        self._had: dict[str, float] = {}
        """See :meth:`had`."""
        self._seen: dict[str, float] = {}
        """When who was here of late last got a place, the longest ago first."""

    def enter(self, tenant: str) -> None:
        """One more sequence of this tenant is here, to wait or to run."""
        self._sequences[tenant] += 1
        if tenant not in self._had:
            self._had[tenant] = max(self._had.values(), default=0.0) - AHEAD_TOKENS

    def leave(self, tenant: str) -> None:
        """One of them has ended. A tenant who has nothing here neither saves up nor owes."""
        self._sequences[tenant] -= 1
        if not self._sequences[tenant]:
            del self._sequences[tenant]
            self._deficits.pop(tenant, None)
            del self._had[tenant]
            self._placed_at.pop(tenant, None)

    def next(self, waiting: Iterable[Sequence], now: float) -> Sequence:
        """Whose turn it is; at least one waits."""
        heads = self._highest(waiting, now)
        if len(heads) == 1:
            return next(iter(heads.values()))
        for tenant in heads:
            self._deficits.setdefault(tenant, 0.0)
        while True:
            tenant = next(each for each in self._deficits if each in heads)
            if self._deficits[tenant] >= _prompt_cost(heads[tenant]):
                return heads[tenant]
            self._deficits[tenant] = self._deficits.pop(tenant) + QUANTUM_TOKENS * heads[tenant].weight

    def placed(self, tenant: str, now: float) -> None:
        """One of its sequences got a place."""
        self._placed_at[tenant] = now
        self._seen.pop(tenant, None)
        self._seen[tenant] = now

    def several(self, now: float) -> bool:
        """Whether more than one tenant got a place of late."""
        while self._seen and now - (oldest := next(iter(self._seen.items())))[1] > SEVERAL_SECONDS:
            del self._seen[oldest[0]]
        return len(self._seen) > 1

    def charge(self, tenant: str, tokens: int) -> None:
        """A prompt that was placed, or a token that was generated, takes from its next turns."""
        self._deficits[tenant] = max(self._deficits.get(tenant, 0.0) - tokens, -MOST_DEBT_TOKENS)

    def computed(self, sequence: Sequence, tokens: int) -> None:
        """So many of its tokens are in a step."""
        self._had[sequence.tenant] += tokens / sequence.weight

    def had(self) -> dict[str, float]:
        """Of each tenant that is here, the tokens that were computed for it, by its weight: who has had fewest comes
        next. Who comes anew is :data:`AHEAD_TOKENS` ahead of the one who has had most, and has had as much as that one
        soon: start-time fair queueing (Goyal, Vin and Cheng 1996) with a credit for who comes seldom."""
        return dict(self._had)

    def _highest(self, waiting: Iterable[Sequence], now: float) -> dict[str, Sequence]:
        """Each tenant's first, of the tenants of the highest priority."""
        heads: dict[str, Sequence] = {}
        for sequence in waiting:
            head = heads.get(sequence.tenant)
            if head is None or _rank(sequence) < _rank(head):
                heads[sequence.tenant] = sequence
        priorities = {
            tenant: effective_priority(head, now, self._placed_at.get(tenant, -math.inf))
            for tenant, head in heads.items()
        }
        highest = max(priorities.values())
        return {tenant: head for tenant, head in heads.items() if priorities[tenant] == highest}


def _rank(sequence: Sequence) -> float:
    """When it came, less what its priority is worth."""
    return sequence.arrived - sequence.priority * AGING_SECONDS


def _prompt_cost(sequence: Sequence) -> int:
    return 0 if sequence.begun else len(sequence.tokens)
