"""How all models stand with their limits, as ``/metrics/quotas`` and ``/metrics`` show it. Pure.

What is used is read from PostgreSQL by every gateway every second, so each says the same, on every node; concurrency is
of this node, as the supervisor says.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from inference.gateway.cache_report import timing
from inference.gateway.standings import Standing
from inference.protocol import GatewayCounts, PermitSum
from quotas.ledger import Unit
from quotas.limits import ModelLimits
from quotas.modes import percent_of
from quotas.treasury import Reading
from quotas.windows import Period

_TYPES = {
    (Unit.TOKENS, Period.HOUR): "hourly",
    (Unit.TOKENS, Period.DAY): "daily",
    (Unit.REQUESTS, Period.HOUR): "hourly_requests",
    (Unit.REQUESTS, Period.DAY): "daily_requests",
}
_CONCURRENT = "concurrent"


class LimitUse(msgspec.Struct, frozen=True, kw_only=True):
    """Of one limit of a model."""

    type: str
    """``hourly``, ``daily`` (tokens), ``hourly_requests``, ``daily_requests``, ``concurrent``."""
    name: str
    limit: int
    used: int
    reserved: int
    """Promised to requests that run."""
    remaining: int
    percent: float
    """Used and promised, of the limit."""
    ends_at: str | None
    """When its window ends. None: nothing was asked in it yet, or it has none."""


def limit_uses(
    limits: ModelLimits, readings: Mapping[str, Reading], permits: Sequence[PermitSum], now: float
) -> Iterator[LimitUse]:
    for account in limits.accounts:
        reading = readings.get(account.key)
        if reading is not None and not reading.window.holds(now):
            reading = None
        used, reserved = (reading.used, reading.reserved) if reading is not None else (0, 0)
        ends_at = None if reading is None else datetime.fromtimestamp(reading.window.ends_at, UTC).isoformat()
        yield _use(_TYPES[account.unit, account.period], account.name, account.limit, used, reserved, ends_at)
    if limits.permit is not None:
        running = sum(permit.out for permit in permits if permit.subject == limits.permit.subject)
        yield _use(_CONCURRENT, limits.permit.name, limits.permit.limit, 0, running, None)


def model_report(uses: Sequence[LimitUse], standing: Standing, limits: ModelLimits) -> dict[str, Any]:
    return {
        "mode": standing.mode.value,
        "level": standing.level.name.lower(),
        "percent": max((use.percent for use in uses), default=0.0),
        "remaining_tokens": remaining_tokens(uses),
        "burst_token_limit": limits.burst,
        "limits": [msgspec.to_builtins(use) for use in uses],
    }


def remaining_tokens(uses: Sequence[LimitUse]) -> int | None:
    """Of the tightest limit on tokens. None: there is none."""
    return min((use.remaining for use in uses if use.type in ("hourly", "daily")), default=None)


def counts_report(counts: GatewayCounts) -> dict[str, int]:
    return {"lease_refills": counts.lease_refills, "permit_requests": counts.permit_requests}


def timings_report(counts: GatewayCounts) -> dict[str, Any]:
    return {"reserve": timing([counts.reserve_timing]), "settle": timing([counts.settle_timing])}


def _use(type_: str, name: str, limit: int, used: int, reserved: int, ends_at: str | None) -> LimitUse:
    return LimitUse(
        type=type_,
        name=name,
        limit=limit,
        used=used,
        reserved=reserved,
        remaining=max(0, limit - used - reserved),
        percent=percent_of(limit, used + reserved),
        ends_at=ends_at,
    )
