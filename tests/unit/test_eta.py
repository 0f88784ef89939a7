"""How long a load still takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.eta import remaining_seconds
from inference.protocol import LoadSeconds, LoadStage, LoadTier, LoadView

EXPECTED = LoadSeconds(starting=1.0, reading=10.0, warming=2.0)


def a_load(stage: LoadStage, *, ahead_seconds: float = 0.0, expected: LoadSeconds = EXPECTED) -> LoadView:
    return LoadView(stage=stage, since=100.0, tier=LoadTier.DISK, expected=expected, ahead_seconds=ahead_seconds)


def test_who_waits_for_memory_waits_for_the_loads_before_it_and_for_its_own() -> None:
    assert remaining_seconds(a_load(LoadStage.WAITING, ahead_seconds=7.0), 0.0, 150.0) == 20.0


@pytest.mark.parametrize(("now", "seconds"), [(100.0, 13.0), (100.5, 12.5), (105.0, 12.0)])
def test_a_start_that_takes_longer_than_expected_is_about_to_end(now: float, seconds: float) -> None:
    assert remaining_seconds(a_load(LoadStage.STARTING), 0.0, now) == seconds


def test_reading_as_fast_as_expected_ends_as_expected() -> None:
    assert remaining_seconds(a_load(LoadStage.READING), 0.5, 105.0) == pytest.approx(7.0)


def test_a_disk_that_is_slower_today_is_noticed() -> None:
    slow = remaining_seconds(a_load(LoadStage.READING), 0.5, 125.0)
    assert slow > remaining_seconds(a_load(LoadStage.READING), 0.5, 105.0) + 9.0


def test_once_all_is_read_the_rest_is_left() -> None:
    assert remaining_seconds(a_load(LoadStage.READING), 1.0, 130.0) == 2.0
    assert remaining_seconds(a_load(LoadStage.WARMING), 1.0, 101.5) == 0.5


@given(
    st.sampled_from(LoadStage),
    st.floats(-1, 2),
    st.floats(0, 1e6),
    st.floats(0, 1e4),
)
def test_it_is_never_negative_whatever_the_clock_says(
    stage: LoadStage, progress: float, now: float, reading: float
) -> None:
    expected = LoadSeconds(starting=0.1, reading=reading, warming=0.1)
    assert remaining_seconds(a_load(stage, expected=expected), progress, now) >= 0.0
