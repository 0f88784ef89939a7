"""Statistics that are looked at after each request. The seeds are fixed: a run either holds or not."""

import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from routing.experiments.results import Moments, Trials
from routing.experiments.sequential import (
    ALPHA,
    log_difference,
    log_growth,
    log_half_width,
    rate_difference,
    rate_exceeds,
    rate_growth,
    rate_p_value,
)
from tests.unit.routing.experiments.arms import SPREAD, logs

EXPERIMENTS = 400
REQUESTS = 2000

Draw = Callable[[random.Random], float]

trials = st.integers(0, 2000).flatmap(lambda count: st.builds(Trials, st.just(count), st.integers(0, count)))
arms = st.builds(logs, st.integers(1, 5000), st.floats(-5, 5), st.floats(0, 2))


def may_be_false(experiments: int) -> float:
    """How many false alarms an honest test may give: its mean, and three standard deviations."""
    return experiments * ALPHA + 3 * math.sqrt(experiments * ALPHA * (1 - ALPHA))


def rates_alarm_at(chance: random.Random, rate_a: float, rate_b: float, share_of_b: float, most: int) -> int | None:
    """The request after which an operator who looks after each one sees a difference."""
    count, failures, rates = [0, 0], [0, 0], (rate_a, rate_b)
    for request in range(most):
        arm = chance.random() < share_of_b
        count[arm] += 1
        failures[arm] += chance.random() < rates[arm]
        if rate_p_value(Trials(count[0], failures[0]), Trials(count[1], failures[1])) <= ALPHA:
            return request
    return None


def logs_alarm_at(chance: random.Random, draw: Draw, shift_of_b: float, share_of_b: float, most: int) -> int | None:
    count, total, squares = [0, 0], [0.0, 0.0], [0.0, 0.0]
    for request in range(most):
        arm = chance.random() < share_of_b
        log = draw(chance) + shift_of_b * arm
        count[arm] += 1
        total[arm] += log
        squares[arm] += log * log
        a, b = (Moments(count[each], total[each], squares[each]) for each in (0, 1))
        if a.count and b.count and abs(b.mean - a.mean) > log_half_width(a, b):
            return request
    return None


@pytest.mark.parametrize(("rate", "share_of_b"), [(0.02, 0.5), (0.3, 0.5), (0.02, 0.05)])
def test_looking_at_equal_error_rates_after_each_request_gives_few_false_alarms(rate: float, share_of_b: float) -> None:
    chance = random.Random(7)
    alarms = [rates_alarm_at(chance, rate, rate, share_of_b, REQUESTS) for _ in range(EXPERIMENTS)]
    assert sum(alarm is not None for alarm in alarms) <= may_be_false(EXPERIMENTS)


def normal(chance: random.Random) -> float:
    return chance.gauss(-1.0, SPREAD)


def cached_or_not(chance: random.Random) -> float:
    return chance.gauss(-3.0, 0.2) if chance.random() < 0.8 else chance.gauss(0.0, 0.3)


def rarely_cold(chance: random.Random) -> float:
    """Nearly always the same, but for one in twenty that takes twenty times as long."""
    return chance.gauss(-1.0, 0.05) if chance.random() < 0.95 else 2.0


@pytest.mark.parametrize(
    ("draw", "share_of_b", "experiments"),
    [(normal, 0.5, EXPERIMENTS), (cached_or_not, 0.5, 100), (rarely_cold, 0.5, 100), (rarely_cold, 0.05, 100)],
)
def test_looking_at_equal_durations_after_each_request_gives_few_false_alarms(
    draw: Draw, share_of_b: float, experiments: int
) -> None:
    chance = random.Random(11)
    alarms = [logs_alarm_at(chance, draw, 0.0, share_of_b, REQUESTS) for _ in range(experiments)]
    assert sum(alarm is not None for alarm in alarms) <= may_be_false(experiments)


def median(found: list[int | None]) -> int:
    """Of experiments that must all have found something."""
    assert None not in found
    return sorted(each for each in found if each is not None)[len(found) // 2]


@pytest.mark.parametrize(("rate_b", "typical"), [(0.03, 3500), (0.1, 300)])
def test_a_higher_error_rate_is_found(rate_b: float, typical: int) -> None:
    chance = random.Random(3)
    found = [rates_alarm_at(chance, 0.01, rate_b, 0.5, 10 * typical) for _ in range(15)]
    assert median(found) < typical


@pytest.mark.parametrize(("ratio", "typical"), [(0.9, 1500), (0.8, 500), (1.5, 200)])
def test_a_shorter_or_longer_duration_is_found(ratio: float, typical: int) -> None:
    chance = random.Random(5)
    found = [logs_alarm_at(chance, normal, math.log(ratio), 0.5, 10 * typical) for _ in range(15)]
    assert median(found) < typical


def test_an_interval_that_is_looked_at_all_the_time_keeps_the_true_difference_of_rates() -> None:
    chance = random.Random(13)
    assert sum(_leaves_out(chance, 0.05, 0.15) for _ in range(40)) <= may_be_false(40)


def _leaves_out(chance: random.Random, rate_a: float, rate_b: float) -> bool:
    count, failures, rates = [0, 0], [0, 0], (rate_a, rate_b)
    for request in range(600):
        arm = request % 2
        count[arm] += 1
        failures[arm] += chance.random() < rates[arm]
        if request % 30 == 0:
            found = rate_difference(Trials(count[0], failures[0]), Trials(count[1], failures[1]))
            if not found.lower <= rate_b - rate_a <= found.upper:
                return True
    return False


@given(trials, trials)
def test_an_interval_of_rates_holds_the_estimate_and_agrees_with_the_p_value(a: Trials, b: Trials) -> None:
    found = rate_difference(a, b)
    assert -1 <= found.lower <= found.estimate + 1e-9 and found.estimate - 1e-9 <= found.upper <= 1
    assert 0 <= found.p_value == rate_p_value(a, b) <= 1
    if abs(found.p_value - ALPHA) > 1e-6:
        assert (found.sign != 0) == (found.p_value < ALPHA)


@given(trials, trials, st.floats(-1, 1))
def test_exceeding_agrees_with_the_interval(a: Trials, b: Trials, by: float) -> None:
    lower = rate_difference(a, b).lower
    if abs(lower - by) > 1e-6:
        assert rate_exceeds(a, b, by) == (lower > by)


@given(trials, trials)
def test_differences_of_rates_are_the_same_from_either_side(a: Trials, b: Trials) -> None:
    one, other = rate_difference(a, b), rate_difference(b, a)
    assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower), abs=1e-6)
    assert one.p_value == pytest.approx(other.p_value)


@example(logs(16, 0.0, 0.0), logs(16, 1.0, 0.0))
@given(arms, arms)
def test_an_interval_of_durations_is_around_the_estimate_and_agrees_with_the_p_value(a: Moments, b: Moments) -> None:
    found, mirrored = log_difference(a, b), log_difference(b, a)
    assert found.lower <= found.estimate <= found.upper
    assert (found.lower, found.p_value) == pytest.approx((-mirrored.upper, mirrored.p_value))
    if abs(found.p_value - ALPHA) > 1e-6:
        assert (found.sign != 0) == (found.p_value < ALPHA)


def log_martingale(arm: Moments, distance: float) -> float:
    """As the literature writes it, for a mean that is so far away."""
    growth, far = 1 + arm.count * 0.01, arm.count * distance**2
    ratio = (arm.scatter + far) / (arm.scatter + far / growth)
    return -0.5 * math.log(growth) + 0.5 * arm.count * math.log(ratio)


@given(
    st.builds(logs, st.integers(40, 5000), st.floats(-5, 5), st.floats(0.1, 2)),
    st.builds(logs, st.integers(40, 5000), st.floats(-5, 5), st.floats(0.1, 2)),
    st.floats(0, 1),
)
def test_no_pair_of_means_that_is_left_out_was_within_the_set(a: Moments, b: Moments, part: float) -> None:
    width = log_half_width(a, b)
    if math.isfinite(width):
        evidence = log_martingale(a, part * width) + log_martingale(b, (1 - part) * width)
        assert evidence >= -math.log(ALPHA) - 1e-9


@given(trials, trials, st.floats(0, 1), st.floats(0, 1))
def test_no_pair_of_rates_that_is_left_out_was_within_the_set(
    a: Trials, b: Trials, rate_a: float, rate_b: float
) -> None:
    found = rate_difference(a, b)
    if not found.lower - 1e-9 <= rate_b - rate_a <= found.upper + 1e-9:
        evidence = log_beta_mixture(a, rate_a) + log_beta_mixture(b, rate_b)
        assert evidence >= -math.log(ALPHA) - 1e-6


def log_beta_mixture(arm: Trials, rate: float) -> float:
    """As the literature writes it."""
    failed, served = arm.failures, arm.count - arm.failures
    if (failed and not rate) or (served and rate == 1):
        return math.inf
    likelihood = (failed * math.log(rate) if failed else 0) + (served * math.log1p(-rate) if served else 0)
    return log_beta(0.5 + failed, 5 + served) - log_beta(0.5, 5) - likelihood


def log_beta(x: float, y: float) -> float:
    return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)


@given(trials, trials)
def test_the_surer_the_wider(a: Trials, b: Trials) -> None:
    found = [rate_difference(a, b, alpha) for alpha in (0.5, 0.05, 0.001)]
    assert all(wide.lower <= tight.lower and tight.upper <= wide.upper for tight, wide in pairwise(found))


def test_of_nothing_everything_may_be_true() -> None:
    rates = rate_difference(Trials(0, 0), Trials(0, 0))
    assert (rates.lower, rates.upper, rates.p_value, rates.sign) == (-1, 1, 1, 0)
    for a, b in [(Moments(), Moments()), (logs(1000, 0.0), Moments()), (logs(20, 0.0), logs(20, 9.0))]:
        assert (log_difference(a, b).lower, log_difference(a, b).sign) == (-math.inf, 0)


def test_a_variant_that_always_fails_is_told_after_a_few_requests() -> None:
    assert rate_difference(Trials(1000, 5), Trials(8, 8)).lower > 0.01


def test_very_many_requests_do_no_harm() -> None:
    rates = rate_difference(Trials(10**9, 10**7), Trials(10**9, 10**7 + 10**6))
    assert 0 < rates.lower < 0.001 < rates.upper < 0.0011
    assert log_difference(logs(10**9, 1.0), logs(10**9, 1.001)).sign == 1


@pytest.mark.parametrize(("a", "b"), [(Trials(500, 5), Trials(500, 5)), (Trials(900, 0), Trials(100, 3))])
def test_as_many_more_requests_as_were_forecast_tell_a_rate(a: Trials, b: Trials) -> None:
    times = rate_growth(a, b, 0.01)
    assert times and times > 1
    rate = (a.failures + b.failures) / (a.count + b.count)
    more_a, more_b = (Trials(arm.count * times, arm.count * times * rate) for arm in (a, b))
    found = rate_difference(more_a, more_b)
    assert max(-found.lower, found.upper) == pytest.approx(0.01, rel=0.05)


def test_as_many_more_requests_as_were_forecast_tell_a_duration() -> None:
    times = log_growth(logs(100, 0.0), logs(100, 0.0), 0.1)
    assert times
    more = logs(round(100 * times), 0.0)
    assert log_half_width(more, more) == pytest.approx(0.1, rel=0.05)


def test_what_has_been_told_needs_no_more_and_what_was_never_asked_has_no_forecast() -> None:
    assert rate_growth(Trials(10**6, 10), Trials(10**6, 10), 0.01) == 1
    assert log_growth(logs(10**6, 0.0), logs(10**6, 0.0), 0.1) == 1
    assert rate_growth(Trials(0, 0), Trials(100, 0), 0.01) is None
    assert log_growth(Moments(), logs(100, 0.0), 0.1) is None
