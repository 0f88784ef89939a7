"""What is learned of how long loads take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.protocol import LoadSeconds, LoadTier
from inference.supervisor.load_times import SAMPLES, LoadTimes


def took(reading: float) -> LoadSeconds:
    return LoadSeconds(starting=0.1, reading=reading, warming=0.2)


def test_before_the_first_load_its_bytes_say_how_long_it_takes() -> None:
    times = LoadTimes()
    assert times.expected(1, LoadTier.DISK, 400_000_000).reading == pytest.approx(2.0)
    assert times.expected(1, LoadTier.WARM, 400_000_000).total < times.expected(1, LoadTier.DISK, 400_000_000).total


def test_each_tier_is_learned_by_itself() -> None:
    times = LoadTimes()
    times.learn(1, LoadTier.DISK, took(9.0))
    times.learn(1, LoadTier.WARM, took(0.3))
    assert times.expected(1, LoadTier.DISK, 0).reading == 9.0
    assert times.expected(1, LoadTier.WARM, 0).reading == 0.3


def test_one_slow_load_changes_little_and_many_do() -> None:
    times = LoadTimes()
    for seconds in (1.0, 1.1, 60.0):
        times.learn(1, LoadTier.DISK, took(seconds))
    assert times.expected(1, LoadTier.DISK, 0).reading == 1.1
    for _ in range(SAMPLES):
        samples = times.learn(1, LoadTier.DISK, took(60.0))
    assert times.expected(1, LoadTier.DISK, 0).reading == 60.0
    assert len(samples) == SAMPLES


def test_what_was_learned_since_knows_better_than_sql() -> None:
    times = LoadTimes()
    times.learn(1, LoadTier.DISK, took(1.0))
    times.read({(1, LoadTier.DISK): (took(5.0),), (2, LoadTier.DISK): (took(7.0),)})
    assert times.expected(1, LoadTier.DISK, 0).reading == 1.0
    assert times.expected(2, LoadTier.DISK, 0).reading == 7.0


@given(st.lists(st.floats(0, 1000), min_size=1))
def test_what_is_expected_lies_between_what_was_seen_lately(seconds: list[float]) -> None:
    times = LoadTimes()
    for each in seconds:
        times.learn(1, LoadTier.DISK, took(each))
    lately = seconds[-SAMPLES:]
    assert min(lately) <= times.expected(1, LoadTier.DISK, 0).reading <= max(lately)
