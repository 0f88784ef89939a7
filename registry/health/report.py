"""What the checks of a version have found, as values that both planes share. Pure."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from registry.catalogue import Health, Version


class CheckName(StrEnum):
    FILE_INTEGRITY = "file_integrity"
    MEMORY_ALLOCATION = "memory_allocation"
    RESPONSE_TIME = "response_time"
    ERROR_RATE = "error_rate"
    BACKEND = "backend"
    """Of a backend elsewhere, and the only one of those."""


OF_FILES = (CheckName.FILE_INTEGRITY, CheckName.MEMORY_ALLOCATION, CheckName.RESPONSE_TIME, CheckName.ERROR_RATE)
"""The checks of what is computed here, in their order."""


class Result(StrEnum):
    PASSED = "passed"
    WARNING = "warning"
    """It works, but not as it should."""
    FAILED = "failed"
    PENDING = "pending"
    """It is being loaded."""
    UNKNOWN = "unknown"
    """It failed, and whether it still would has not been tried."""
    SKIPPED = "skipped"
    """There is nothing to say."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    name: CheckName
    result: Result
    reason: str
    checked_at: float
    """Seconds since the epoch."""


Checks = tuple[Check, ...]


class HealthNews(msgspec.Struct, frozen=True, kw_only=True):
    """What the last check has found. Versions that are not deployed are only looked at on disk, and have no row."""

    checked_at: float | None = None
    """When all were looked at last, in seconds since the epoch; None: never yet."""
    checks: Mapping[int, Checks] = {}
    """By the version's primary key."""


def checks_of(version: Version, news: HealthNews) -> Checks:
    """Each check of a version: as it was found, or what is known without having been asked."""
    if version.remote:
        return (_of_backend(version),)
    return news.checks.get(version.pk) or _on_disk(version, news.checked_at)


def _on_disk(version: Version, looked_at: float | None) -> Checks:
    moments = [moment for moment in (looked_at, version.health_checked_at) if moment is not None]
    when = max(moments, default=0.0)
    broken = version.health is Health.UNHEALTHY
    file = Check(
        name=CheckName.FILE_INTEGRITY,
        result=Result.FAILED if broken else Result.PASSED if moments else Result.SKIPPED,
        reason=version.health_reason if broken else "its files are as they were registered" if moments else "",
        checked_at=when,
    )
    rest = (CheckName.MEMORY_ALLOCATION, CheckName.RESPONSE_TIME, CheckName.ERROR_RATE)
    return (file, *(not_loaded(name, when) for name in rest))


_OF_BACKENDS = {
    Health.HEALTHY: Result.PASSED,
    Health.DEGRADED: Result.WARNING,
    Health.UNHEALTHY: Result.FAILED,
}


def _of_backend(version: Version) -> Check:
    return Check(
        name=CheckName.BACKEND,
        result=_OF_BACKENDS.get(version.health, Result.UNKNOWN),
        reason=version.health_reason or ("it answers" if version.health is Health.HEALTHY else ""),
        checked_at=version.health_checked_at or 0.0,
    )


def not_loaded(name: CheckName, now: float) -> Check:
    return Check(name=name, result=Result.SKIPPED, reason="it is not loaded", checked_at=now)
