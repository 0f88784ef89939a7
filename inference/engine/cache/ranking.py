"""Which entry of a tier goes first: one structure for RAM and SSD, two policies. Nothing costs more than O(log n)."""

import heapq
import itertools
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Ranking(ABC, Generic[K]):
    """Keys, ordered by how soon they should go."""

    @abstractmethod
    def add(self, key: K, uses: int = 0) -> None:
        """A new key, just used."""

    @abstractmethod
    def touch(self, key: K) -> None:
        """The key was used."""

    @abstractmethod
    def demote(self, key: K) -> None:
        """The key should go before all others that are there, as if it had never been used."""

    @abstractmethod
    def remove(self, key: K) -> None: ...

    @abstractmethod
    def victim(self, spared: Collection[K] = ()) -> K | None:
        """Who should go first, of those that are not spared; None when nobody is left."""

    @abstractmethod
    def in_order(self) -> list[K]:
        """All keys in an order that keeps their recency: whoever is added in this order is ranked alike by LRU."""


class LeastRecentlyUsed(Ranking[K]):
    def __init__(self) -> None:
        self._order: OrderedDict[K, None] = OrderedDict()

    def add(self, key: K, uses: int = 0) -> None:
        self._order[key] = None

    def touch(self, key: K) -> None:
        self._order.move_to_end(key)

    def demote(self, key: K) -> None:
        self._order.move_to_end(key, last=False)

    def remove(self, key: K) -> None:
        del self._order[key]

    def victim(self, spared: Collection[K] = ()) -> K | None:
        return next((key for key in self._order if key not in spared), None)

    def in_order(self) -> list[K]:
        return list(self._order)


class LeastFrequentlyUsed(Ranking[K]):
    """By the number of uses, among equals by the time of the last one. Stale heap entries are skipped when met."""

    def __init__(self) -> None:
        self._entries: dict[K, tuple[int, int]] = {}
        self._heap: list[tuple[tuple[int, int], K]] = []
        self._clock = itertools.count()

    def add(self, key: K, uses: int = 0) -> None:
        self._set(key, uses)

    def touch(self, key: K) -> None:
        self._set(key, self._entries[key][0] + 1)

    def demote(self, key: K) -> None:
        self._set(key, 0, -next(self._clock))

    def remove(self, key: K) -> None:
        del self._entries[key]

    def victim(self, spared: Collection[K] = ()) -> K | None:
        held: list[tuple[tuple[int, int], K]] = []
        found = None
        while self._heap and found is None:
            entry = heapq.heappop(self._heap)
            if self._entries.get(entry[1]) == entry[0]:
                held.append(entry)
                found = None if entry[1] in spared else entry[1]
        for entry in held:
            heapq.heappush(self._heap, entry)
        return found

    def in_order(self) -> list[K]:
        return sorted(self._entries, key=lambda key: self._entries[key][1])

    def uses(self, key: K) -> int:
        return self._entries[key][0]

    def _set(self, key: K, uses: int, at: int | None = None) -> None:
        self._entries[key] = (uses, next(self._clock) if at is None else at)
        heapq.heappush(self._heap, (self._entries[key], key))
        if len(self._heap) > 4 * len(self._entries) + 64:
            # Touches leave stale entries behind: rebuilt now and then, so that the heap stays within the keys' size.
            self._heap = [(rank, key) for key, rank in self._entries.items()]
            heapq.heapify(self._heap)
