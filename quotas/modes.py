"""How a limit degrades on its way to its end: levels with hysteresis, the modes they come to, and the pace they set.
Pure.

    percent of the limit   level         log     mode
    below 80               NONE                  normal
    from 80                INFO          INFO    soft_limit
    from 85                WARN          WARN    soft_limit
    from 90                THROTTLE      WARN    throttled: half of the limit's even pace
    from 95                AGGRESSIVE    ERROR   throttled: a quarter of it
    from 100               HARD          ERROR   hard_limit

The percentages are the model's (:class:`quotas.limits.SoftLimits`), and count what requests used and what they were
promised. A promise is an upper bound: when it is settled the percentage falls, so a level is left only well below where
it was entered. ``emergency`` comes from elsewhere, and goes before all of them.
"""

import logging
from enum import IntEnum, StrEnum

from quotas.ledger import PARTS
from quotas.limits import SoftLimits

_MARGIN = 1.0
"""Percentage points beyond the lease error."""


class Level(IntEnum):
    NONE = 0
    INFO = 1
    WARN = 2
    THROTTLE = 3
    AGGRESSIVE = 4
    HARD = 5


class Mode(StrEnum):
    NORMAL = "normal"
    SOFT_LIMIT = "soft_limit"
    THROTTLED = "throttled"
    HARD_LIMIT = "hard_limit"
    EMERGENCY = "emergency"


_PACE = {Level.THROTTLE: 0.5, Level.AGGRESSIVE: 0.25, Level.HARD: 0.25}
_LOG_LEVELS = {Level.INFO: logging.INFO, Level.WARN: logging.WARNING, Level.THROTTLE: logging.WARNING}


def level_after(level: Level, percent: float, soft: SoftLimits, slack: float) -> Level:
    """The level after ``percent`` was read, when ``level`` was the one before.

    It rises as soon as a threshold is reached, and falls only when the percentage is ``slack`` percentage points below
    the threshold of the level that it leaves.
    """
    risen = _reached(percent, soft)
    if risen >= level:
        return risen
    return min(level, _reached(percent + slack, soft))


def slack(gateways: int) -> float:
    """Percentage points by which a level is left later than it was entered: wider than the error of what is known.

    Each gateway may hold two parts of the limit that nobody has used yet.
    """
    return 2 * gateways * 100.0 / PARTS + _MARGIN


def mode_of(level: Level, *, throttling_enabled: bool, emergency: bool) -> Mode:
    if emergency:
        return Mode.EMERGENCY
    if level is Level.HARD:
        return Mode.HARD_LIMIT
    if level >= Level.THROTTLE and throttling_enabled:
        return Mode.THROTTLED
    return Mode.SOFT_LIMIT if level > Level.NONE else Mode.NORMAL


def pace(limit: int, window_seconds: float, level: Level) -> float | None:
    """How much of a limit may go each second, by all gateways together: a part of its even pace. None: as much as is
    wanted."""
    part = _PACE.get(level)
    return None if part is None or limit <= 0 else part * limit / window_seconds


def percent_of(limit: int, amount: int) -> float:
    """How much of a limit an amount is. Of a limit of 0 anything is all."""
    return 100.0 * amount / limit if limit else 100.0


def log_level(level: Level) -> int:
    """Of :mod:`logging`, at which reaching it is said."""
    return _LOG_LEVELS.get(level, logging.ERROR)


def _reached(percent: float, soft: SoftLimits) -> Level:
    if percent >= 100.0:
        return Level.HARD
    thresholds = (soft.aggressive_throttle, soft.throttle, soft.warn, soft.info)
    for level, threshold in zip((Level.AGGRESSIVE, Level.THROTTLE, Level.WARN, Level.INFO), thresholds, strict=True):
        if percent >= threshold:
            return level
    return Level.NONE
