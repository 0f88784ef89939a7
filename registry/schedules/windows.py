"""When warm hours begin and end. Pure."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

_FIELDS = 5
_EXAMPLE = "such as '0 8 * * mon-fri': minute, hour, day of the month, month, day of the week"


class WarmHours(msgspec.Struct, frozen=True, kw_only=True):
    opens: str
    closes: str
    """Cron expressions of five fields, of the clock in :attr:`time_zone`. Where that is turned, they are taken as
    Debian's cron takes them: a time that is skipped comes at the jump, one that comes twice counts once."""
    time_zone: str = "UTC"


def open_since(hours: WarmHours, now: datetime) -> datetime | None:
    """When the window began that holds ``now``, or None outside of all windows.

    It is open from each opening to the next closing; of an opening and a closing at one moment the opening counts.
    Nothing is remembered between two calls: a missed minute and a clock that was set cost nothing.
    """
    zone = ZoneInfo(hours.time_zone)
    opened, closed = _last(hours.opens, zone, now), _last(hours.closes, zone, now)
    if opened is None or (closed is not None and closed > opened):
        return None
    if closed is None:
        return opened
    # Openings in a row, without a closing between them, are of one window: the first began it.
    before = closed - timedelta(seconds=1)
    return next((each.astimezone(UTC) for each in CronSim(hours.opens, before.astimezone(zone))), opened)


def in_window(hours: WarmHours, now: datetime) -> bool:
    return open_since(hours, now) is not None


def problem(expression: str) -> str:
    """Why a cron expression can't be taken, and what could; empty where it can."""
    fields = len(expression.split())
    if fields != _FIELDS:
        return f"A cron expression has five fields, {_EXAMPLE}; this one has {fields}."
    try:
        moment = next(CronSim(expression, datetime.now(UTC)), None)
    except CronSimError as fault:
        return f"{fault}; a cron expression has five fields, {_EXAMPLE}."
    return "" if moment is not None else "No such moment ever comes."


def _last(expression: str, zone: ZoneInfo, now: datetime) -> datetime | None:
    """The last moment that an expression means, ``now`` included."""
    after = (now.replace(microsecond=0) + timedelta(seconds=1)).astimezone(zone)
    moment = next(CronSim(expression, after, reverse=True), None)
    return None if moment is None else moment.astimezone(UTC)
