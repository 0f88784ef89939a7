"""The limits of a model: how they are kept, and the accounts that they come to. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from quotas.ledger import Account, Unit
from quotas.windows import Period
from registry.cache.configuration import PerModelQuota


class OnDatabaseLoss(StrEnum):
    """What becomes of requests when all that was leased is spent and PostgreSQL can't be asked for more."""

    CLOSED = "closed"
    """They are refused (503) until it is back."""
    OPEN = "open"
    """They are served, and charged when it is back."""


class ModelQuota(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's limits as they are kept. None: no such limit."""

    max_ram_mb: int | None = None
    max_ssd_gb: float | None = None
    hourly_token_limit: int | None = None
    hourly_request_limit: int | None = None
    daily_token_limit: int | None = None
    daily_request_limit: int | None = None
    burst_token_limit: int | None = None
    """Tokens in one request, prompt and answer together."""
    max_concurrent_requests: int | None = None
    on_database_loss: OnDatabaseLoss = OnDatabaseLoss.CLOSED


class ModelLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway holds a model's requests to: prepared when the configuration changes."""

    accounts: tuple[Account, ...] = ()
    burst: int | None = None
    open_without_database: bool = False


NO_LIMITS = ModelLimits()

_WINDOWS = {
    "hourly_token_limit": (Unit.TOKENS, Period.HOUR),
    "hourly_request_limit": (Unit.REQUESTS, Period.HOUR),
    "daily_token_limit": (Unit.TOKENS, Period.DAY),
    "daily_request_limit": (Unit.REQUESTS, Period.DAY),
}


def of_default(default: PerModelQuota) -> ModelQuota:
    """The limits of a model that has none of its own."""
    return msgspec.convert(msgspec.to_builtins(default), ModelQuota)


def changed(quota: ModelQuota, changes: Mapping[str, Any]) -> ModelQuota:
    """After a partial change: what is not named stays.

    Args:
        changes: typed values by field, as the API's and the admin's forms have parsed them; None is “no limit”.
    """
    return msgspec.convert(msgspec.to_builtins(quota) | dict(changes), ModelQuota)


def limits_of(*, model_pk: int, model: str, quota: ModelQuota) -> ModelLimits:
    owner = f"The model '{model}'"
    return ModelLimits(
        accounts=tuple(
            Account(
                key=f"model:{model_pk}/{unit}/{period}",
                unit=unit,
                period=period,
                limit=limit,
                name=name,
                owner=owner,
            )
            for name, (unit, period) in _WINDOWS.items()
            if (limit := getattr(quota, name)) is not None
        ),
        burst=quota.burst_token_limit,
        open_without_database=quota.on_database_loss is OnDatabaseLoss.OPEN,
    )
