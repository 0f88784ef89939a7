"""How sure a mean is whose values are not independent."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.replay.bootstrap import Blocks


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.integers(0, 5))
def test_an_interval_lies_within_the_values_and_is_the_same_for_a_seed(values: list[float], seed: int) -> None:
    one, other = (Blocks(len(values), seed, draws=40).estimate(values) for _ in range(2))
    assert one == other
    assert min(values) - 1e-9 <= one.low <= one.high <= max(values) + 1e-9


def covered(follow: float, *, values: int, trials: int) -> float:
    """How often the mean, 0, is within the interval, of series where each value takes so much from the one before."""
    draw = random.Random(5)
    hits = 0
    for trial in range(trials):
        value, series = 0.0, []
        for _ in range(values):
            value = follow * value + draw.gauss(0, 1)
            series.append(value)
        estimate = Blocks(values, trial, draws=200).estimate(series)
        hits += estimate.low <= 0 <= estimate.high
    return hits / trials


@pytest.mark.parametrize("follow", [0.0, 0.7])
def test_the_mean_is_within_the_interval_about_as_often_as_it_says(follow: float) -> None:
    assert covered(follow, values=400, trials=150) > 0.85


def test_values_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="3 values"):
        Blocks(3, 0).means([1.0])
