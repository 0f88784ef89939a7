"""Candidates in order of a whole number, of which the least is wanted: O(1), however many there are. Pure.

A bucket for each number, and one integer whose bits say which buckets have anybody: its lowest set bit is found without
looking at the others (the bitmap queue of schedulers, such as Linux' O(1) scheduler). In a bucket candidates take
turns. Numbers may grow without end, as long as those of one moment lie within some thousands.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_SLACK_BITS = 256
"""So many empty ranks below the lowest one are kept: moving the mask costs more than their bits."""


class Ranking(Generic[T]):
    __slots__ = ("_base", "_buckets", "_mask", "_ranks")

    def __init__(self) -> None:
        # OrderedDict: its first entry is found in O(1) also after thousands before it were removed; a dict's is not.
        self._buckets: dict[int, OrderedDict[T, None]] = {}
        self._ranks: dict[T, int] = {}
        self._mask = 0
        self._base = 0
        """The rank of the mask's lowest bit."""

    def __len__(self) -> int:
        return len(self._ranks)

    def put(self, item: T, rank: int) -> None:
        """Give it this rank, behind the others of it; who has it already keeps its turn."""
        before = self._ranks.get(item)
        if rank != before:
            self._move(item, before, rank)

    def _move(self, item: T, before: int | None, rank: int) -> None:
        if before is not None:
            self._leave(item, before)
        self._ranks[item] = rank
        bucket = self._buckets.get(rank)
        if bucket is None:
            bucket = self._buckets[rank] = OrderedDict()
            self._mark(rank)
        bucket[item] = None

    def remove(self, item: T) -> None:
        """Harmless where it has no rank."""
        rank = self._ranks.pop(item, None)
        if rank is not None:
            self._leave(item, rank)

    def first(self) -> T:
        """Whose turn it is of those with the lowest rank. There must be one."""
        mask = self._mask
        return next(iter(self._buckets[self._base + (mask & -mask).bit_length() - 1]))

    def take_turn(self) -> T:
        """The first one, which has had its turn then."""
        mask = self._mask
        bucket = self._buckets[self._base + (mask & -mask).bit_length() - 1]
        item = next(iter(bucket))
        bucket.move_to_end(item)
        return item

    def _leave(self, item: T, rank: int) -> None:
        bucket = self._buckets[rank]
        del bucket[item]
        if not bucket:
            del self._buckets[rank]
            self._mask ^= 1 << (rank - self._base)

    def _mark(self, rank: int) -> None:
        if not self._mask:
            self._base = rank
        elif rank < self._base:
            self._mask <<= self._base - rank
            self._base = rank
        elif (empty := (self._mask & -self._mask).bit_length() - 1) > _SLACK_BITS and rank >= self._base + empty:
            self._mask >>= empty
            self._base += empty
        self._mask |= 1 << (rank - self._base)
