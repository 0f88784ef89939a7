"""Drawing by weight, where weights change all the time: O(1) to draw and to change, however many there are. Pure.

Items lie in *levels* by their weight's power of two. A draw picks a level by the sum of its weights, of which there are
some dozens at most and the heaviest come first, then an item of it by rejection: no weight of a level is less than half
of another, so two tries are expected at most. (Matias, Vitter, Ni, "Dynamic generation of discrete random variates",
2003, without its recursion.) Weights are whole numbers inside, so that sums stay exact.
"""

from array import array
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

SCALE = 1 << 20
"""A weight of 1.0, inside. Lighter than 1/SCALE is not told apart from that."""


class _Level(Generic[T]):
    __slots__ = ("items", "most", "places", "total", "weights")

    def __init__(self, power: int) -> None:
        self.most = 1 << power
        """No weight reaches it."""
        self.items: list[T] = []
        self.weights = array("q")
        """Theirs. Beside them rather than with them: a draw waits for memory as seldom as can be."""
        self.places: dict[T, int] = {}
        """Where each is in ``items``."""
        self.total = 0

    def add(self, item: T, weight: int) -> None:
        self.places[item] = len(self.items)
        self.items.append(item)
        self.weights.append(weight)
        self.total += weight

    def remove(self, item: T, weight: int) -> None:
        """The last one takes its place."""
        self.total -= weight
        place, last, last_weight = self.places.pop(item), self.items.pop(), self.weights.pop()
        if place < len(self.items):
            self.items[place], self.weights[place] = last, last_weight
            self.places[last] = place


class Urn(Generic[T]):
    def __init__(self) -> None:
        self._levels: dict[int, _Level[T]] = {}
        self._heaviest_first: tuple[_Level[T], ...] = ()
        """Of the levels those that hold anything."""
        self._weights: dict[T, int] = {}
        self._total = 0

    def __len__(self) -> int:
        """Of those that can be drawn."""
        return len(self._weights)

    def put(self, item: T, weight: float) -> None:
        """``weight`` ≥ 0; of 0 it is never drawn."""
        scaled = max(1, round(weight * SCALE)) if weight > 0 else 0
        if scaled == self._weights.get(item, 0):
            return
        self._remove(item)
        if scaled:
            self._weights[item] = scaled
            self._total += scaled
            self._level(scaled.bit_length()).add(item, scaled)

    def share(self, item: T) -> float:
        """Its chance to be drawn."""
        return self._weights.get(item, 0) / self._total if self._total else 0.0

    def draw(self, random: Callable[[], float]) -> T:
        """Somebody must have a weight. ``random`` is uniform in [0, 1)."""
        left = random() * self._total
        for level in self._heaviest_first:
            left -= level.total
            if left < 0:
                break
        weights, most = level.weights, level.most
        while True:
            place = int(random() * len(weights))
            if random() * most < weights[place]:
                return level.items[place]

    def _level(self, power: int) -> _Level[T]:
        level = self._levels.get(power)
        if level is None:
            level = self._levels[power] = _Level(power)
            self._order()
        return level

    def _remove(self, item: T) -> None:
        weight = self._weights.pop(item, 0)
        if weight:
            self._total -= weight
            power = weight.bit_length()
            self._levels[power].remove(item, weight)
            if not self._levels[power].items:
                del self._levels[power]
                self._order()

    def _order(self) -> None:
        self._heaviest_first = tuple(self._levels[power] for power in sorted(self._levels, reverse=True))
