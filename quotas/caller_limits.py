"""The limits of API keys and tenants, and the accounts and permits that they come to. Pure."""

from collections.abc import Mapping

import msgspec

from quotas.ledger import Account, Unit
from quotas.limits import PermitLimit
from quotas.windows import Period

HIGHEST_LIMIT = 2**53
"""JSON numbers are exact up to here."""
LOWEST_WEIGHT, HIGHEST_WEIGHT = 0.001, 1000.0

WINDOWS = {f"{unit}_per_{period}": (unit, period) for unit in (Unit.REQUESTS, Unit.TOKENS) for period in Period}
"""The fields of limits on what may be used in a window."""
CONCURRENT = "max_concurrent_requests"
LIMIT_FIELDS = (*WINDOWS, CONCURRENT)


class CallerLimits(msgspec.Struct, frozen=True):
    """What the gateway holds requests of a key or of a tenant to."""

    accounts: tuple[Account, ...] = ()
    permits: tuple[PermitLimit, ...] = ()


def limits_of(*, subject: str, owner: str, limits: Mapping[str, int | None]) -> CallerLimits:
    """
    Args:
        subject: ``key:9f…`` or ``tenant:3``: what stays when a limit changes.
        owner: as a client is told: ``The tenant 'acme'``.
        limits: by field.
    """
    concurrent = limits.get(CONCURRENT)
    return CallerLimits(
        accounts=tuple(
            Account(key=f"{subject}/{unit}/{period}", unit=unit, period=period, limit=limit, name=name, owner=owner)
            for name, (unit, period) in WINDOWS.items()
            if (limit := limits.get(name)) is not None
        ),
        permits=() if concurrent is None else (PermitLimit(subject, concurrent, CONCURRENT, owner),),
    )
