"""Causes that add up to a time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.replay.regression import weights

_ROWS = st.lists(
    st.tuples(st.just(1.0), st.floats(0, 1e4), st.floats(0, 20), st.floats(0, 100)), min_size=1, max_size=40
)


@given(_ROWS, st.data())
def test_no_weight_is_below_zero_and_no_other_would_be_nearer(
    rows: list[tuple[float, ...]], data: st.DataObject
) -> None:
    times = data.draw(st.lists(st.floats(0, 1e3), min_size=len(rows), max_size=len(rows)))
    found = weights(rows, times)
    assert min(found) >= 0
    least = _left(rows, times, found)
    for place in range(4):
        for factor in (0.5, 0.99, 1.01):
            other = [weight * factor if place == at else weight for at, weight in enumerate(found)]
            assert _left(rows, times, other) >= least * (1 - 1e-6) - 1e-6


def _left(rows: list[tuple[float, ...]], times: list[float], found: list[float]) -> float:
    return sum(
        (time - sum(weight * cause for weight, cause in zip(found, row, strict=True))) ** 2
        for row, time in zip(rows, times, strict=True)
    )


def test_the_weights_of_sums_are_found() -> None:
    rows = [(1.0, float(number), float(number % 5)) for number in range(50)]
    times = [2.0 + 0.5 * row[1] + 3.0 * row[2] for row in rows]
    assert weights(rows, times) == pytest.approx([2.0, 0.5, 3.0])


def test_a_cause_that_never_comes_and_one_that_would_shorten_count_for_nothing() -> None:
    rows = [(1.0, 0.0, float(number)) for number in range(20)]
    found = weights(rows, [30.0 - row[2] for row in rows])
    assert found[1] == found[2] == 0.0 and found[0] == pytest.approx(20.5)
