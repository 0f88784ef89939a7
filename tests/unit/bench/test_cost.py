"""How the cost of the cache is told from noise."""

import itertools
import random
import statistics

import pytest

from tests.bench.cost import median_interval
from tests.bench.steady import orders


def test_the_ranks_of_the_interval_are_those_of_the_binomial_tables() -> None:
    assert median_interval(range(1, 11), 0.95) == (2, 9)
    assert median_interval(range(1, 21), 0.95) == (6, 15)
    assert median_interval(range(1, 41), 0.95) == (14, 27)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_too_few_values_give_their_extremes(count: int) -> None:
    assert median_interval(range(count), 0.95) == (0, count - 1)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    chance = random.Random(7)
    held = 0
    for _ in range(1000):
        low, high = median_interval([chance.lognormvariate(0, 1) for _ in range(40)], 0.95)
        held += low <= 1.0 <= high
    assert 950 <= held <= 985


def test_noise_that_grows_favours_neither_side() -> None:
    """A machine that gets 1 % slower with every window: pairs of one order lose 1 % each, both orders none."""
    speeds = iter([0.99**window for window in range(80)])
    ratios = []
    for order in orders(40):
        speed = {on: next(speeds) for on in order}
        ratios.append(speed[True] / speed[False])
    assert statistics.geometric_mean(ratios) == pytest.approx(1.0, abs=1e-9)


def test_between_two_pairs_nothing_is_switched() -> None:
    windows = [on for order in orders(6) for on in order]
    assert sum(before != after for before, after in itertools.pairwise(windows)) == 6
