"""Whether what was drawn fits what was to be drawn."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

_SURE = 4.0
"""Standard deviations: by chance alone a test fails once in 30,000 seeds, and its seed is fixed."""


def chi_square_fits(drawn: Counter[T], expected: Mapping[T, float]) -> bool:
    """``expected``: the chance of each. By Wilson and Hilferty's approximation of the distribution."""
    total = sum(drawn.values())
    statistic = sum((drawn[each] - total * chance) ** 2 / (total * chance) for each, chance in expected.items())
    freedom = len(expected) - 1
    deviations = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return set(drawn) <= set(expected) and deviations < _SURE


def binomial_fits(hits: int, total: int, chance: float) -> bool:
    return abs(hits - total * chance) < _SURE * math.sqrt(total * chance * (1 - chance))
