"""Whose turn it is to be placed, of those who wait.

The highest priority first, where waiting raises it by one every :data:`AGING_SECONDS`. Among equals tenants take turns
by deficit round robin (Shreedhar and Varghese 1995): every turn earns a tenant :data:`QUANTUM_TOKENS`, a prompt costs
its tokens and every generated token costs one, so that who sends ten times as many or as long requests does not get ten
times the tokens.
"""

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

    def next(self, waiting: list[Sequence], now: float) -> Sequence:
        """Whose turn it is, of those of the highest priority."""
        highest = max(effective_priority(sequence, now) for sequence in waiting)
        heads: dict[str, Sequence] = {}
        for sequence in waiting:
            if effective_priority(sequence, now) == highest:
                head = heads.get(sequence.tenant)
                if head is None or sequence.arrived < head.arrived:
                    heads[sequence.tenant] = sequence
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

    def keep(self, tenants: Iterable[str]) -> None:
        """Forget the others: who has nothing here neither saves up nor owes."""
        present = set(tenants)
        for tenant in [each for each in self._deficits if each not in present]:
            del self._deficits[tenant]


def _prompt_cost(sequence: Sequence) -> int:
    return 0 if sequence.begun else len(sequence.tokens)
