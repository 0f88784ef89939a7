"""Whose turn it is to be placed, of those who wait.

The highest priority first, where waiting raises it by one every :data:`AGING_SECONDS`. Among equals tenants take turns
by deficit round robin (Shreedhar and Varghese 1995): every turn earns a tenant :data:`QUANTUM_TOKENS`, a prompt costs
its tokens and every generated token costs one, so that who sends ten times as many or as long requests does not get ten
times the tokens.
"""

import math
from collections import Counter
from collections.abc import Iterable

from inference.engine.sequences import Sequence

AGING_SECONDS = 5.0
QUANTUM_TOKENS = 512
MOST_DEBT_TOKENS = 16 * QUANTUM_TOKENS
"""A tenant that was alone for long owes no more than this when another one comes."""


def effective_priority(sequence: Sequence, now: float) -> int:
    return sequence.priority + int((now - sequence.arrived) / AGING_SECONDS)


class Turns:
    """Owned by the scheduler."""

    def __init__(self) -> None:
        self._deficits: dict[str, float] = {}
        """In the order of turns: who is first has it. Negative: the tenant owes tokens."""
        self._sequences: Counter[str] = Counter()
        """Of each tenant that has any here."""

    def enter(self, tenant: str) -> None:
        """One more sequence of this tenant is here, to wait or to run."""
        self._sequences[tenant] += 1

    def leave(self, tenant: str) -> None:
        """One of them has ended. A tenant who has nothing here neither saves up nor owes."""
        self._sequences[tenant] -= 1
        if not self._sequences[tenant]:
            del self._sequences[tenant]
            self._deficits.pop(tenant, None)

    def next(self, waiting: Iterable[Sequence], now: float) -> Sequence:
        """Whose turn it is, of those of the highest priority; at least one waits."""
        heads = _heads(waiting, now)
        if len(heads) == 1:
            return next(iter(heads.values()))
        for tenant in heads:
            self._deficits.setdefault(tenant, 0.0)
        while True:
            tenant = next(each for each in self._deficits if each in heads)
            if self._deficits[tenant] >= _prompt_cost(heads[tenant]):
                return heads[tenant]
            self._deficits[tenant] = self._deficits.pop(tenant) + QUANTUM_TOKENS

    def charge(self, tenant: str, tokens: int) -> None:
        self._deficits[tenant] = max(self._deficits.get(tenant, 0.0) - tokens, -MOST_DEBT_TOKENS)


def _heads(waiting: Iterable[Sequence], now: float) -> dict[str, Sequence]:
    """Of those of the highest priority each tenant's first."""
    heads: dict[str, Sequence] = {}
    highest = -math.inf
    for sequence in waiting:
        priority = effective_priority(sequence, now)
        if priority > highest:
            highest, heads = priority, {}
        if priority == highest:
            head = heads.setdefault(sequence.tenant, sequence)
            if sequence.arrived < head.arrived:
                heads[sequence.tenant] = sequence
    return heads


def _prompt_cost(sequence: Sequence) -> int:
    return 0 if sequence.begun else len(sequence.tokens)
