"""What the SSD tier holds, and who goes first. No I/O.

One thread changes it. :meth:`Index.holds` and :meth:`Index.tail_sizes` may be called by any: each is a single look-up
in a dict, and what it finds there is never changed, only replaced.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from inference.engine.cache.files import Label
from inference.engine.cache.names import BLOCK_TOKENS
from inference.engine.cache.ranking import LeastFrequentlyUsed, LeastRecentlyUsed, Ranking


@dataclass(slots=True, eq=False)
class Held:
    label: Label
    size: int
    """Bytes of its file."""
    used_at: float
    """Seconds since the epoch."""
    uses: int = 0


class Index:
    """Invariant: ``bytes`` is the sum of the sizes of all that is held."""

    def __init__(self, *, least_frequently_used_first: bool) -> None:
        self.bytes = 0
        self._held: dict[bytes, Held] = {}
        self._children: dict[bytes, dict[bytes, None]] = {}
        self._tail_counts: dict[bytes, dict[int, int]] = {}
        self._tail_sizes: dict[bytes, tuple[int, ...]] = {}
        self._ranking = _ranking(least_frequently_used_first)

    def __len__(self) -> int:
        return len(self._held)

    def holds(self, name: bytes) -> bool:
        return name in self._held

    def tail_sizes(self, parent: bytes) -> Sequence[int]:
        """Token counts of the tails that follow ``parent``, descending, each once."""
        return self._tail_sizes.get(parent, ())

    def get(self, name: bytes) -> Held | None:
        return self._held.get(name)

    def add(self, held: Held) -> None:
        block = held.label.block
        self._held[block.name] = held
        self._children.setdefault(block.parent, {})[block.name] = None
        self._ranking.add(block.name, held.uses)
        self.bytes += held.size
        if block.tokens < BLOCK_TOKENS:
            self._count_tail(block.parent, block.tokens, 1)

    def remove(self, name: bytes) -> Held:
        held = self._held.pop(name)
        block = held.label.block
        siblings = self._children[block.parent]
        del siblings[name]
        if not siblings:
            del self._children[block.parent]
        self._ranking.remove(name)
        self.bytes -= held.size
        if block.tokens < BLOCK_TOKENS:
            self._count_tail(block.parent, block.tokens, -1)
        return held

    def touch(self, name: bytes, now: float) -> Held | None:
        """A held block was used."""
        held = self._held.get(name)
        if held is not None:
            held.used_at = now
            held.uses += 1
            self._ranking.touch(name)
        return held

    def first_to_go(self) -> Held | None:
        """The block that the policy names, or one at the end of a chain that builds on it: without the block before
        it, a block could never be found again."""
        name: bytes | None = self._ranking.victim()
        if name is None:
            return None
        for _ in range(len(self._held)):  # bounded: names of forged files could form a ring
            if not (children := self._children.get(name)):
                break
            name = next(iter(children))
        return self._held[name]

    def rank_by(self, *, least_frequently_used_first: bool) -> None:
        """Change the policy; uses and recency are kept."""
        ranking = _ranking(least_frequently_used_first)
        if type(ranking) is not type(self._ranking):
            for name in self._ranking.in_order():
                ranking.add(name, self._held[name].uses)
            self._ranking = ranking

    def _count_tail(self, parent: bytes, tokens: int, change: int) -> None:
        counts = self._tail_counts.setdefault(parent, {})
        counts[tokens] = counts.get(tokens, 0) + change
        if not counts[tokens]:
            del counts[tokens]
        if counts:
            self._tail_sizes[parent] = tuple(sorted(counts, reverse=True))
        else:
            del self._tail_counts[parent], self._tail_sizes[parent]


def _ranking(least_frequently_used_first: bool) -> Ranking[bytes]:
    return LeastFrequentlyUsed() if least_frequently_used_first else LeastRecentlyUsed()
