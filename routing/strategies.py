"""How one of several candidates is chosen. A strategy holds only what it must remember between two requests."""

from collections.abc import Sequence
from typing import Protocol

_COUNTERS = 1024
"""Sets of capabilities that are counted apart. Clients name the capabilities, so something must bound them."""


class Strategy(Protocol):
    name: str

    def choose(self, pool: frozenset[str], candidates: Sequence[object]) -> int:
        """The index of the chosen one of ``candidates``, which are never empty and belong to the pool of models that
        have these capabilities."""


class RoundRobin:
    """Each candidate in turn: over any k·n requests to the n candidates of a pool, each gets exactly k.

    Pools are counted apart: with one counter for all, requests that alternate between two pools of two models would
    reach only half of each.
    """

    name = "round_robin"

    def __init__(self) -> None:
        self._turns: dict[frozenset[str], int] = {}

    def choose(self, pool: frozenset[str], candidates: Sequence[object]) -> int:
        turn = self._turns.get(pool, 0)
        if not turn and len(self._turns) >= _COUNTERS:
            self._turns.clear()
        self._turns[pool] = turn + 1
        return turn % len(candidates)
