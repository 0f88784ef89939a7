"""How sure a mean is whose values are not independent: requests that come together wait for each other.

Blocks of neighbours are drawn instead of single values (H. R. Künsch, "The jackknife and the bootstrap for general
stationary observations", 1989), from values joined to a ring, so that each is drawn as often as any other (D. N.
Politis and J. P. Romano, "A circular block-resampling procedure for stationary data", 1992). All strategies are judged
by the same blocks: their differences are compared request by request (paired), which tells apart what their means do
not.

A block has √n values: more than the n^⅓ that has the least error where values forget quickly, for queues forget slowly.
"""

import math
import random
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any

import msgspec

DRAWS = 2000


class Estimate(msgspec.Struct, frozen=True):
    mean: float
    low: float
    high: float
    """Surely between them, as far as what was asked for is sure."""


class Blocks:
    """Ways to draw n values anew, in blocks. Made once, for all that is compared."""

    def __init__(self, values: int, seed: int, draws: int = DRAWS) -> None:
        """``values``: how many, at least 1."""
        self.length = max(1, round(math.sqrt(values)))
        count = max(2, -(-values // self.length))  # itemgetter gives a tuple of two or more
        draw, starts = random.Random(seed), range(values)
        self._pick: list[Callable[[Sequence[float]], Any]] = [
            itemgetter(*draw.choices(starts, k=count)) for _ in range(draws)
        ]
        self._drawn = count * self.length
        self._values = values

    def estimate(self, values: Sequence[float], alpha: float = 0.05) -> Estimate:
        """Their mean, and where it is with a probability of 1 − alpha (percentiles of the means of what is drawn)."""
        means = sorted(self.means(values))
        out = int(alpha / 2 * len(means))
        return Estimate(math.fsum(values) / len(values), means[out], means[-1 - out])

    def means(self, values: Sequence[float]) -> list[float]:
        """Of each draw."""
        if len(values) != self._values:
            raise ValueError(f"{self._values} values are wanted, not {len(values)}")
        sums = list(accumulate([0.0, *values, *values[: self.length]]))
        blocks = [sums[start + self.length] - sums[start] for start in range(len(values))]
        return [sum(pick(blocks)) / self._drawn for pick in self._pick]
