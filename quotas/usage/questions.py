"""What is asked about usage, from a URL's query: a span of time, and what its sums are told apart by. Pure."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import TypeVar
from zoneinfo import ZoneInfo

import msgspec

from quotas.windows import Period
from registry.errors import InvalidRequest

DEFAULT_SPAN = timedelta(days=30)

_LONGEST_DAYS = {Period.HOUR: 100, Period.DAY: 1100, Period.MONTH: 11_000, None: 11_000}
"""By what rows are told apart by: so many days a question may span."""

_YEARS = range(2000, 2200)
"""Far enough from where calendars end to count days on and back."""

W = TypeVar("W", bound=StrEnum)

_PARAMETERS = ("from", "to", "by", "period", "format")


class Dimension(StrEnum):
    """What sums may be told apart by, and kept to, beside time."""

    MODEL = "model"
    TENANT = "tenant"
    KEY = "key"


class Format(StrEnum):
    JSON = "json"
    CSV = "csv"


class Question(msgspec.Struct, frozen=True, kw_only=True):
    start: datetime
    end: datetime
    """Not part of the span any more. Both have a zone."""
    by: tuple[Dimension, ...] = ()
    only: Mapping[Dimension, str | int] = {}
    """Of this model, tenant or key (its number) only."""
    period: Period | None = None
    """Hours, days or months; None: the whole span at once."""
    format: Format = Format.JSON


def question(
    parameters: Mapping[str, Sequence[str]],
    *,
    now: datetime,
    zone: ZoneInfo,
    dimensions: Collection[Dimension] = tuple(Dimension),
) -> Question:
    """What a query asks.

    Args:
        parameters: each with all its values, as written in the URL.
        zone: of dates, and of times that name none.
        dimensions: those that may be asked for, and filtered by.

    Raises:
        InvalidRequest: naming the parameter and what is allowed.
    """
    known = (*_PARAMETERS, *dimensions)
    for name in parameters:
        if name not in known:
            raise InvalidRequest(f"Unknown parameter '{name}'; allowed: {', '.join(known)}.", param=name)
    period = _word(Period, _single(parameters, "period"), "period", (Period.HOUR, Period.DAY, Period.MONTH))
    end = _moment(parameters, "to", zone, whole_days=1) or now
    start = _moment(parameters, "from", zone) or _midnight(end.astimezone(zone).date() - DEFAULT_SPAN, zone)
    _refuse_span(start, end, period)
    return Question(
        start=start,
        end=end,
        by=_dimensions(parameters.get("by", ()), dimensions),
        only={each: _wanted(each, text) for each in dimensions if (text := _single(parameters, each))},
        period=period,
        format=_word(Format, _single(parameters, "format"), "format", tuple(Format)) or Format.JSON,
    )


def _single(parameters: Mapping[str, Sequence[str]], name: str) -> str:
    """Empty: it is not given, or says nothing."""
    values = parameters.get(name, ())
    if len(values) > 1:
        raise InvalidRequest(f"'{name}' is given {len(values)} times: give it once.", param=name)
    return values[0].strip() if values else ""


def _word(kind: type[W], text: str, name: str, allowed: Collection[W]) -> W | None:
    """None: it is not given."""
    if not text:
        return None
    if text not in allowed:
        raise _not_one_of(text, name, allowed)
    return kind(text)


def _dimensions(values: Sequence[str], allowed: Collection[Dimension]) -> tuple[Dimension, ...]:
    words = [word.strip() for value in values for word in value.split(",") if word.strip()]
    for word in words:
        if word not in allowed:
            raise _not_one_of(word, "by", allowed)
    return tuple(Dimension(word) for word in dict.fromkeys(words))


def _wanted(dimension: Dimension, text: str) -> str | int:
    if dimension is not Dimension.KEY:
        return text.replace("\0", "\ufffd")  # PostgreSQL takes none
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InvalidRequest(
            f"'key' is '{text[:40]}': give the key's number, as GET /api/v1/keys tells it.", param="key"
        )
    return int(text)


def _not_one_of(text: str, name: str, allowed: Collection[str]) -> InvalidRequest:
    return InvalidRequest(f"'{name}' is '{text[:40]}'; allowed: {', '.join(allowed)}.", param=name)


def _moment(
    parameters: Mapping[str, Sequence[str]], name: str, zone: ZoneInfo, *, whole_days: int = 0
) -> datetime | None:
    """None: it is not given. A date is the midnight that it begins with, or so many days later."""
    # A plus sign that is not written as %2B arrives as a space; the first one may stand for the T.
    text = _single(parameters, name)
    text = text[:11] + text[11:].replace(" ", "+")
    if not text:
        return None
    try:
        return _read(text, zone, whole_days)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"'{name}' is '{text[:40]}': write a date (2026-11-01) or a time (2026-11-01T12:00:00Z), as ISO 8601 has "
            f"them, of the years {_YEARS.start} to {_YEARS.stop - 1}.",
            param=name,
        ) from None


def _read(text: str, zone: ZoneInfo, whole_days: int) -> datetime:
    """Raises ValueError or OverflowError."""
    try:
        moment = _midnight(date.fromisoformat(text) + timedelta(days=whole_days), zone)
    except ValueError:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    if moment.year not in _YEARS:
        raise ValueError
    return moment


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone)


def _refuse_span(start: datetime, end: datetime, period: Period | None) -> None:
    if start >= end:
        raise InvalidRequest(
            f"The span is empty: 'from' is {start.isoformat()} and 'to' {end.isoformat()}. Name an earlier 'from'.",
            param="from",
        )
    longest = _LONGEST_DAYS[period]
    if end - start > timedelta(days=longest):
        wider = "" if period in (None, Period.MONTH) else ", or a longer 'period'"
        told = f" by the {period.value}" if period else ""
        raise InvalidRequest(
            f"The span has {(end - start).days} days; usage{told} is told of at most {longest} at a time. Name a later "
            f"'from' or an earlier 'to'{wider}.",
            param="from",
        )
