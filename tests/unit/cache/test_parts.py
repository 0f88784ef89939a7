"""Bytes divided by weights: none lost, none invented."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from registry.cache.parts import divided

WEIGHTS = st.lists(st.integers(0, 10**9), min_size=1, max_size=20)


@given(st.integers(0, 10**13), WEIGHTS)
def test_the_parts_sum_to_the_whole(total: int, weights: list[int]) -> None:
    assert sum(divided(total, weights)) == total


@given(st.integers(0, 10**13), WEIGHTS)
def test_no_part_is_off_by_a_whole_byte(total: int, weights: list[int]) -> None:
    if any(weights):
        for part, weight in zip(divided(total, weights), weights, strict=True):
            assert abs(part * sum(weights) - total * weight) < sum(weights)


@given(st.integers(0, 10**13), WEIGHTS)
def test_a_greater_weight_never_gets_less(total: int, weights: list[int]) -> None:
    by_weight = sorted(zip(weights, divided(total, weights), strict=True))
    for (light, less), (heavy, more) in itertools.pairwise(by_weight):
        assert light == heavy or less <= more


def test_without_any_weight_the_parts_are_equal() -> None:
    assert divided(10, [0, 0, 0]) == [4, 3, 3]


def test_nobody_gets_nothing() -> None:
    assert divided(10, []) == []
