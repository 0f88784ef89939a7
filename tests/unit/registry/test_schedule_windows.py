"""Warm hours, over nights, weekends and changes of the clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.schedules.windows import WarmHours, in_window, open_since, problem

BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = WarmHours(opens="0 8 * * mon-fri", closes="0 18 * * mon-fri", time_zone="Europe/Berlin")
NIGHT = WarmHours(opens="0 22 * * *", closes="0 6 * * *", time_zone="Europe/Berlin")


def berlin(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


@pytest.mark.parametrize(
    ("moment", "warm"),
    [
        ("2026-06-15T07:59:59", False),
        ("2026-06-15T08:00:00", True),
        ("2026-06-15T17:59:59", True),
        ("2026-06-15T18:00:00", False),
        ("2026-06-20T12:00:00", False),  # a Saturday
        ("2026-01-15T08:00:00", True),  # in winter the same clock is another hour of UTC
    ],
)
def test_office_hours_are_those_of_the_clock_on_the_wall(moment: str, warm: bool) -> None:
    assert in_window(OFFICE, berlin(moment)) is warm
    assert in_window(OFFICE, berlin(moment).astimezone(UTC)) is warm


@pytest.mark.parametrize(("moment", "warm"), [("23:00", True), ("03:00", True), ("06:00", False), ("21:59", False)])
def test_a_window_may_span_midnight(moment: str, warm: bool) -> None:
    assert in_window(NIGHT, berlin(f"2026-06-15T{moment}")) is warm


def test_a_window_began_when_it_opened_however_often_it_is_looked_at() -> None:
    assert open_since(OFFICE, berlin("2026-06-15T17:59")) == berlin("2026-06-15T08:00")
    assert open_since(NIGHT, berlin("2026-06-16T03:00")) == berlin("2026-06-15T22:00")


def test_openings_in_a_row_are_of_one_window() -> None:
    hours = WarmHours(opens="0 * * * *", closes="30 18 * * *")
    assert open_since(hours, datetime(2026, 6, 15, 15, 10, tzinfo=UTC)) == datetime(2026, 6, 14, 19, tzinfo=UTC)


def test_of_an_opening_and_a_closing_at_once_the_opening_counts() -> None:
    hours = WarmHours(opens="0 8 * * *", closes="0 8,18 * * *")
    assert open_since(hours, datetime(2026, 6, 15, 12, tzinfo=UTC)) == datetime(2026, 6, 15, 8, tzinfo=UTC)


class TestTheClockIsTurned:
    def test_an_opening_that_is_skipped_comes_at_the_jump(self) -> None:
        hours = WarmHours(opens="30 2 * * *", closes="0 4 * * *", time_zone="Europe/Berlin")
        assert not in_window(hours, datetime(2026, 3, 29, 0, 59, tzinfo=UTC))
        assert in_window(hours, datetime(2026, 3, 29, 1, 0, tzinfo=UTC))  # 03:00 in Berlin

    def test_a_closing_that_is_skipped_comes_at_the_jump(self) -> None:
        hours = WarmHours(opens="0 1 * * *", closes="30 2 * * *", time_zone="Europe/Berlin")
        assert in_window(hours, datetime(2026, 3, 29, 0, 59, tzinfo=UTC))
        assert not in_window(hours, datetime(2026, 3, 29, 1, 0, tzinfo=UTC))

    def test_an_opening_that_comes_twice_opens_one_window(self) -> None:
        hours = WarmHours(opens="30 2 * * *", closes="0 4 * * *", time_zone="Europe/Berlin")
        first = berlin("2026-10-25T02:30").astimezone(UTC)
        for moment in (first, berlin("2026-10-25T02:30", fold=1), berlin("2026-10-25T03:30")):
            assert open_since(hours, moment) == first


@given(
    st.sampled_from(["0 8 * * *", "30 2 * * *", "0 */6 * * *", "15 2 * * sun"]),
    st.sampled_from([datetime(2026, 3, 27, tzinfo=UTC), datetime(2026, 10, 23, tzinfo=UTC)]),
    st.integers(0, 4 * 86_400),
)
def test_the_window_of_a_moment_began_before_it_and_holds_all_between(
    opens: str, start: datetime, seconds: int
) -> None:
    hours = WarmHours(opens=opens, closes="45 3,20 * * *", time_zone="Europe/Berlin")
    now = start + timedelta(seconds=seconds)
    since = open_since(hours, now)
    if since is not None:
        assert since <= now
        assert open_since(hours, since) == since
        assert not in_window(hours, since - timedelta(seconds=1))
        assert open_since(hours, since + (now - since) / 2) == since


@pytest.mark.parametrize("bad", ["", "8:00", "0 8 * *", "0 0 8 * * *", "0 25 * * *", "0 8 * * someday", "0 8 30 2 *"])
def test_a_bad_expression_is_refused_with_what_a_good_one_is(bad: str) -> None:
    assert problem(bad)
    assert "five fields" in problem(bad) or "ever" in problem(bad)


@pytest.mark.parametrize("good", ["0 8 * * mon-fri", "*/5 * * * *", "0 8 L * *"])
def test_a_good_expression_is_taken(good: str) -> None:
    assert problem(good) == ""
