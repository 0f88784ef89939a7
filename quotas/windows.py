"""Windows of time that limits are counted in. Pure: the time is given, in seconds since the epoch.

Minutes and hours turn with the clock on the wall, days and months at midnight in the configured time zone, where a day
has 23 or 25 hours twice a year. Each moment is in exactly one window of each period.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

import msgspec


class Period(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


_SECONDS = {Period.MINUTE: 60, Period.HOUR: 3600}


class Window(msgspec.Struct, frozen=True):
    """``starts_at`` ≤ moment < ``ends_at``, in whole seconds since the epoch."""

    starts_at: int
    ends_at: int

    def holds(self, now: float) -> bool:
        return self.starts_at <= now < self.ends_at


def window_at(period: Period, now: float, zone: ZoneInfo) -> Window:
    """The window that a moment is in."""
    local = datetime.fromtimestamp(now, zone)
    if seconds := _SECONDS.get(period):
        # Where clocks are off by half an hour from UTC, an hour begins when theirs says so.
        offset = int(_offset(local).total_seconds()) % seconds
        start = int((now + offset) // seconds) * seconds - offset
        return Window(start, start + seconds)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period is Period.DAY:
        return Window(_moment(midnight), _moment(midnight + timedelta(days=1)))
    first = midnight.replace(day=1)
    return Window(_moment(first), _moment((first + timedelta(days=32)).replace(day=1)))


def _moment(local: datetime) -> int:
    """Of a time on the wall. Adding days to one with a zone moves the hands only, so a day may have 23 hours."""
    return int(local.timestamp())


def _offset(local: datetime) -> timedelta:
    offset = local.utcoffset()
    assert offset is not None, "it has a zone"
    return offset
