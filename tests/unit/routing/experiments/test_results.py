"""What is counted of a variant can be merged in any order, and what is told from it."""

import math
from functools import reduce
from itertools import pairwise
from operator import add
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.experiments.results import Histogram, Moments, Trials, VariantCounts

BOUNDS = (0.1, 0.2, 0.4)

whole = st.integers(0, 10**6)
exact = st.integers(-(2**20), 2**20).map(lambda number: number / 1024)
"""Floats whose sums are exact, so that their order can't be told from a fault."""
moments = st.builds(Moments, whole, exact, exact)
histograms = st.builds(Histogram, st.lists(whole, max_size=4).map(tuple), exact)
variants = st.builds(
    VariantCounts,
    requests=whole,
    errors=whole,
    unavailable=whole,
    prompt_tokens=whole,
    cached_tokens=whole,
    completion_tokens=whole,
    generation_seconds=exact,
    first_token=histograms,
    first_token_logs=moments,
    token_logs=moments,
)


@given(st.lists(variants, max_size=6), st.randoms())
def test_counts_are_the_same_in_whatever_order_they_are_merged(parts: list[VariantCounts], chance: Random) -> None:
    expected = reduce(add, parts, VariantCounts())
    shuffled = list(parts)
    chance.shuffle(shuffled)
    while len(shuffled) > 1:
        one, other = shuffled.pop(chance.randrange(len(shuffled))), shuffled.pop()
        shuffled.append(other + one)
    assert reduce(add, shuffled, VariantCounts()) == expected


@given(variants, variants)
def test_what_was_counted_since_is_what_was_added(before: VariantCounts, since: VariantCounts) -> None:
    now = before + since
    assert now.contains(before)
    assert (now - before) + before == now


@given(variants)
def test_counting_that_began_anew_is_noticed(before: VariantCounts) -> None:
    assert before.contains(before)
    assert not VariantCounts().contains(before + VariantCounts(requests=1))
    assert not VariantCounts(requests=10**7).contains(before + VariantCounts(first_token=Histogram((1,), 0.1)))


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=50))
def test_moments_know_the_typical_duration_and_its_scatter(seconds: list[float]) -> None:
    found = reduce(add, map(Moments.of, seconds), Moments())
    logs = [math.log(each) for each in seconds]
    mean = math.fsum(logs) / len(logs)
    assert found.typical_seconds == pytest.approx(math.exp(mean))
    assert found.scatter == pytest.approx(sum((each - mean) ** 2 for each in logs), abs=1e-9)
    assert found.scatter >= 0


def test_a_duration_that_a_clock_took_for_nothing_has_a_logarithm() -> None:
    assert Moments.of(0.0).typical_seconds == pytest.approx(1e-6)


def test_rates_and_speeds_are_told_from_sums() -> None:
    counts = VariantCounts(
        requests=200,
        errors=3,
        unavailable=1,
        completion_tokens=1060,
        generation_seconds=20.0,
        first_token=Histogram((50, 10), 6.0),
    )
    assert (counts.failures, counts.answered, counts.error_rate) == (4, 196, 0.02)
    assert counts.trials == Trials(200, 4)
    assert counts.tokens_per_second == 50.0  # The first tokens of 60 answers took none of the 20 s.
    assert counts.mean_first_token_seconds == 0.1


def test_of_nothing_nothing_is_told() -> None:
    nothing = VariantCounts()
    assert nothing.error_rate is nothing.tokens_per_second is nothing.mean_first_token_seconds is None
    assert nothing.first_token_quantiles(BOUNDS) is None
    assert nothing.first_token_logs.typical_seconds is None


@pytest.mark.parametrize(
    ("counts", "q", "seconds"),
    [
        ((10,), 0.5, 0.05),
        ((0, 10), 0.5, 0.15),
        ((5, 5), 0.75, 0.15),
        ((5, 0, 5), 0.5, 0.1),
        ((0, 0, 4), 1.0, 0.4),
        ((0, 0, 0, 9), 0.5, 0.4),
        ((98, 1, 0, 1), 0.99, 0.2),
    ],
)
def test_quantiles_are_interpolated_within_a_bucket(counts: tuple[int, ...], q: float, seconds: float) -> None:
    assert Histogram(counts).quantile(q, BOUNDS) == pytest.approx(seconds)


def test_the_three_quantiles_come_together() -> None:
    counts = VariantCounts(first_token=Histogram((50, 50)))
    found = counts.first_token_quantiles(BOUNDS)
    assert found and (found.p50, found.p95, found.p99) == pytest.approx((0.1, 0.19, 0.198))


@given(st.lists(whole, min_size=1, max_size=4).filter(any))
def test_quantiles_rise(buckets: list[int]) -> None:
    histogram = Histogram(tuple(buckets))
    found = [histogram.quantile(step / 20, BOUNDS) or 0.0 for step in range(21)]
    assert all(one <= other for one, other in pairwise(found)) and found[-1] <= BOUNDS[-1]


def test_a_histogram_of_other_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="5 buckets"):
        Histogram((1, 1, 1, 1, 1)).quantile(0.5, BOUNDS)
