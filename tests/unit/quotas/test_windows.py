"""Windows of time."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas.windows import Period, window_at

BERLIN = ZoneInfo("Europe/Berlin")
MOMENTS = st.floats(min_value=0, max_value=4e9, allow_nan=False)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Pacific/Apia"])


def moment(text: str, zone: ZoneInfo = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@given(period=st.sampled_from(Period), now=MOMENTS, zone=ZONES)
def test_each_moment_is_in_one_window_and_windows_follow_each_other(period: Period, now: float, zone: str) -> None:
    window = window_at(period, now, ZoneInfo(zone))
    assert window.holds(now)
    assert window_at(period, window.starts_at, ZoneInfo(zone)) == window
    assert window_at(period, window.ends_at, ZoneInfo(zone)).starts_at == window.ends_at


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-28", 24), ("2026-03-29", 23), ("2026-03-30", 24), ("2026-10-25", 25)]
)
def test_a_day_ends_at_midnight_also_when_clocks_are_put_forward_or_back(day: str, hours: int) -> None:
    for time in ("00:00", "12:00", "23:59"):
        window = window_at(Period.DAY, moment(f"{day}T{time}"), BERLIN)
        assert window.starts_at == moment(f"{day}T00:00")
        assert window.ends_at - window.starts_at == hours * 3600


def test_the_hour_that_comes_twice_is_two_windows() -> None:
    """On 25 October 2026 it is 02:30 in Berlin at 00:30 and at 01:30 UTC."""
    first, second = (
        window_at(Period.HOUR, datetime(2026, 10, 25, hour, 30, tzinfo=UTC).timestamp(), BERLIN) for hour in (0, 1)
    )
    assert first.ends_at == second.starts_at


@pytest.mark.parametrize(("period", "ends"), [(Period.HOUR, "15:00"), (Period.MINUTE, "14:13")])
def test_hours_and_minutes_end_with_the_clock_on_the_wall(period: Period, ends: str) -> None:
    kolkata = ZoneInfo("Asia/Kolkata")  # 5 h 30 min ahead of UTC
    window = window_at(period, moment("2026-05-05T14:12:59", kolkata), kolkata)
    assert window.ends_at == moment(f"2026-05-05T{ends}", kolkata)


@pytest.mark.parametrize(("month", "days"), [("2026-02", 28), ("2028-02", 29), ("2026-12", 31)])
def test_months_and_leap_days(month: str, days: int) -> None:
    window = window_at(Period.MONTH, moment(f"{month}-15T08:00", ZoneInfo("UTC")), ZoneInfo("UTC"))
    assert timedelta(seconds=window.ends_at - window.starts_at) == timedelta(days=days)
    assert datetime.fromtimestamp(window.starts_at, UTC).day == 1
