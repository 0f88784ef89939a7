"""Sums of causes, each of which adds to a time or does nothing: least squares with no weight below zero.

C. L. Lawson and R. J. Hanson, "Solving Least Squares Problems", 1974, chapter 23. With as few causes as here all sets
of them can be tried; the best one without a negative weight is what their algorithm finds.
"""

from collections.abc import Sequence
from itertools import combinations

_NOTHING = 1e-9
"""Of a cause's square: what is left of it once the others are taken away, if it is a sum of theirs."""


def weights(causes: Sequence[Sequence[float]], times: Sequence[float]) -> list[float]:
    """Of each cause, so that their sums are nearest the times.

    Args:
        causes: a row for each time. There must be one.
    """
    count = len(causes[0])
    products = [[sum(row[i] * row[j] for row in causes) for j in range(count)] for i in range(count)]
    wanted = [sum(row[i] * time for row, time in zip(causes, times, strict=True)) for i in range(count)]
    best, least = [0.0] * count, 0.0
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            found = _solve([[products[i][j] for j in chosen] for i in chosen], [wanted[i] for i in chosen])
            if found is None or min(found) < 0:
                continue
            # The squares of what is left, less those of the times: −w·b where w solves A·w = b.
            left = -sum(weight * wanted[i] for i, weight in zip(chosen, found, strict=True))
            if left < least:
                best, least = [0.0] * count, left
                for i, weight in zip(chosen, found, strict=True):
                    best[i] = weight
    return best


def _solve(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """Of a symmetric system. None: some cause is a sum of others."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = rows[column][column]
        if pivot <= _NOTHING * matrix[column][column]:
            return None
        for below in range(column + 1, size):
            factor = rows[below][column] / pivot
            rows[below] = [own - factor * above for own, above in zip(rows[below], rows[column], strict=True)]
    found = [0.0] * size
    for column in reversed(range(size)):
        known = sum(rows[column][other] * found[other] for other in range(column + 1, size))
        found[column] = (rows[column][size] - known) / rows[column][column]
    return found
