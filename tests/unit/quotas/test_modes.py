"""Levels of a limit, with hysteresis; modes and paces."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas.limits import SoftLimits
from quotas.modes import Level, Mode, level_after, log_level, mode_of, pace, slack

GUIDE = SoftLimits()
percents = st.floats(0, 130)
softs = st.lists(st.floats(0.1, 100), min_size=4, max_size=4).map(
    lambda four: SoftLimits(**dict(zip(("info", "warn", "throttle", "aggressive_throttle"), sorted(four), strict=True)))
)


@pytest.mark.parametrize(
    ("percent", "level", "logged", "mode"),
    [
        (0.0, Level.NONE, None, Mode.NORMAL),
        (79.99, Level.NONE, None, Mode.NORMAL),
        (80.0, Level.INFO, logging.INFO, Mode.SOFT_LIMIT),
        (85.0, Level.WARN, logging.WARNING, Mode.SOFT_LIMIT),
        (90.0, Level.THROTTLE, logging.WARNING, Mode.THROTTLED),
        (95.0, Level.AGGRESSIVE, logging.ERROR, Mode.THROTTLED),
        (100.0, Level.HARD, logging.ERROR, Mode.HARD_LIMIT),
        (250.0, Level.HARD, logging.ERROR, Mode.HARD_LIMIT),
    ],
)
def test_each_percentage_means_what_the_guide_says(
    percent: float, level: Level, logged: int | None, mode: Mode
) -> None:
    assert level_after(Level.NONE, percent, GUIDE, slack(2)) is level
    assert mode_of(level, throttling_enabled=True, emergency=False) is mode
    if logged is not None:
        assert log_level(level) == logged


def test_without_throttling_the_levels_are_only_logged() -> None:
    modes = [mode_of(level, throttling_enabled=False, emergency=False) for level in Level]
    assert modes == [Mode.NORMAL, *[Mode.SOFT_LIMIT] * 4, Mode.HARD_LIMIT]


@pytest.mark.parametrize("level", list(Level))
def test_an_emergency_goes_before_all(level: Level) -> None:
    assert mode_of(level, throttling_enabled=True, emergency=True) is Mode.EMERGENCY


@given(softs, st.sampled_from(Level), percents, st.floats(0, 10))
def test_a_level_is_never_below_what_is_reached(soft: SoftLimits, before: Level, percent: float, width: float) -> None:
    assert level_after(before, percent, soft, width) >= level_after(Level.NONE, percent, soft, width)


@given(softs, percents, st.lists(st.floats(-0.999, 0), max_size=20), st.floats(0.1, 10))
def test_within_the_slack_nothing_flaps(soft: SoftLimits, top: float, falls: list[float], width: float) -> None:
    level = entered = level_after(Level.NONE, top, soft, width)
    threshold = _threshold(entered, soft)
    for fall in falls:
        level = level_after(level, max(threshold + fall * width, 0.0) if threshold else top, soft, width)
        assert level >= entered


@given(softs, st.sampled_from(Level), percents, percents, st.floats(0, 10))
def test_more_use_never_means_a_lower_level(
    soft: SoftLimits, before: Level, one: float, other: float, width: float
) -> None:
    low, high = sorted((one, other))
    assert level_after(before, low, soft, width) <= level_after(before, high, soft, width)


def test_well_below_its_threshold_a_level_is_left() -> None:
    level = level_after(Level.NONE, 91.0, GUIDE, slack=3.0)
    assert level is Level.THROTTLE
    assert level_after(level, 87.1, GUIDE, slack=3.0) is Level.THROTTLE
    assert level_after(level, 86.9, GUIDE, slack=3.0) is Level.WARN
    assert level_after(level, 10.0, GUIDE, slack=3.0) is Level.NONE


def test_the_slack_is_wider_than_what_gateways_hold_idle() -> None:
    for gateways in (1, 2, 4, 16):
        assert slack(gateways) > gateways * 2 * 0.5


def test_throttled_requests_go_at_half_and_a_quarter_of_the_even_pace() -> None:
    assert [pace(3600, 3600.0, level) for level in Level] == [None, None, None, 0.5, 0.25, 0.25]
    assert pace(0, 3600.0, Level.HARD) is None, "there is no pace at which nothing goes"


def _threshold(level: Level, soft: SoftLimits) -> float:
    return [0.0, soft.info, soft.warn, soft.throttle, soft.aggressive_throttle, 100.0][level]
