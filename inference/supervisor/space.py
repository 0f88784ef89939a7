"""Memory as a vector: a node's RAM, and that of each of its GPUs. What fits has to fit in every place. Pure."""

from collections.abc import Iterable, Iterator
from itertools import zip_longest

import msgspec


class Space(msgspec.Struct, frozen=True):
    """Bytes in each place; in places that are not named there are none."""

    ram: float = 0
    gpus: tuple[float, ...] = ()
    """In the order in which the node names them."""

    def __add__(self, other: "Space") -> "Space":
        return _space(one + two for one, two in _pairs(self, other))

    def __sub__(self, other: "Space") -> "Space":
        return _space(one - two for one, two in _pairs(self, other))

    def least(self, other: "Space") -> "Space":
        """Place by place, the smaller one."""
        return _space(min(pair) for pair in _pairs(self, other))

    def fits(self, room: "Space") -> bool:
        return all(wanted <= free for wanted, free in _pairs(self, room))

    @property
    def nothing(self) -> bool:
        """In no place there is more than none."""
        return self.fits(Space())

    def relief(self, missing: "Space") -> float:
        """How far it would go where something is missing: 1.0 for each place where it is just enough."""
        return sum(own / lack for own, lack in _pairs(self, missing) if lack > 0)


def total(spaces: Iterable[Space]) -> Space:
    return sum(spaces, start=Space())


def _pairs(one: Space, other: Space) -> Iterator[tuple[float, float]]:
    yield one.ram, other.ram
    yield from zip_longest(one.gpus, other.gpus, fillvalue=0.0)


def _space(places: Iterator[float]) -> Space:
    ram, *gpus = places
    return Space(ram, tuple(gpus))
