"""The limits of a model: how they are kept, and the accounts that they come to. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from quotas.ledger import Account, Unit
from quotas.windows import Period
from registry.cache.configuration import PerModelQuota
from registry.errors import InvalidRequest


class OnDatabaseLoss(StrEnum):
    """What becomes of requests when all that was leased is spent and PostgreSQL can't be asked for more."""

    CLOSED = "closed"
    """They are refused (503) until it is back."""
    OPEN = "open"
    """They are served, and charged when it is back."""


class SoftLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From how many percent of a limit on something is done about it: ascending."""

    info: float = 80.0
    """It is logged, as INFO."""
    warn: float = 85.0
    """As WARN."""
    throttle: float = 90.0
    """Requests are slowed down to half of the limit's even pace."""
    aggressive_throttle: float = 95.0
    """To a quarter of it; it is logged as ERROR."""


class AtHardLimit(StrEnum):
    """What becomes of a request that the limit has nothing left for."""

    REJECT = "reject"
    """429 at once."""
    QUEUE = "queue"
    """It waits for others to give back, or for the next window: at most ``queue_seconds``."""


class DegradationPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done to requests beyond a model's soft limits."""

    pace: bool = True
    """Throttled: requests are spaced, so that the limit lasts for its window."""
    max_tokens_cap: int | None = None
    """Throttled: answers are cut at so many tokens. None: they are not."""
    sibling: str | None = None
    """Throttled, or at the hard limit: this model answers instead, as long as it is not throttled itself."""
    at_hard_limit: AtHardLimit = AtHardLimit.REJECT
    queue_seconds: float = 30.0
    """The longest that a request waits for its turn: paced, queued, or for a place among the concurrent ones."""
    queue_length: int = 256
    """So many may wait in one gateway process; who comes then is refused."""
    emergency_priority: int = 8
    """In an emergency only requests of this priority and above are served."""


class ModelQuota(PerModelQuota, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's limits as they are kept. None: no such limit."""

    soft_limits: SoftLimits = SoftLimits()
    throttling_enabled: bool = True
    """False: the soft limits are logged, and nothing else is done about them."""
    degradation_policy: DegradationPolicy = DegradationPolicy()
    on_database_loss: OnDatabaseLoss = OnDatabaseLoss.CLOSED


class PermitLimit(msgspec.Struct, frozen=True):
    """A limit on how many requests run at the same time, over all gateways of a node."""

    subject: str
    """``model:12``, ``key:9f…``, ``tenant:3``."""
    limit: int
    name: str
    """As its owner calls it: ``max_concurrent_requests``."""
    owner: str
    """As a client is told: ``The model 'x'``."""


class ModelLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway holds a model's requests to: prepared when the configuration changes."""

    accounts: tuple[Account, ...] = ()
    permit: PermitLimit | None = None
    burst: int | None = None
    open_without_database: bool = False
    soft_limits: SoftLimits = SoftLimits()
    throttling_enabled: bool = True
    policy: DegradationPolicy = DegradationPolicy()


NO_LIMITS = ModelLimits()

_PARTS = ("soft_limits", "degradation_policy")

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
    """After a partial change: what is not named stays, also within ``soft_limits`` and ``degradation_policy``.

    Args:
        changes: typed values by field, as the API's and the admin's forms have parsed them; None is “no limit”.

    Raises:
        InvalidRequest: the soft limits do not ascend.
    """
    plain: dict[str, Any] = msgspec.to_builtins(quota)
    for name, value in changes.items():
        plain[name] = plain[name] | dict(value) if name in _PARTS else value
    result = msgspec.convert(plain, ModelQuota)
    percentages = [getattr(result.soft_limits, name) for name in SoftLimits.__struct_fields__]
    if percentages != sorted(percentages):
        names = ", ".join(SoftLimits.__struct_fields__)
        shown = ", ".join(f"{each:g}" for each in percentages)
        raise InvalidRequest(f"The soft limits {names} must ascend, not be {shown}.", param="soft_limits")
    return result


class Difference(msgspec.Struct, frozen=True):
    """Between two revisions of a model's limits."""

    name: str
    """``soft_limits.warn``."""
    before: Any
    after: Any


def differences(before: ModelQuota, after: ModelQuota) -> list[Difference]:
    """In the order in which the fields are documented."""
    old, new = flat(before), flat(after)
    return [Difference(name, old[name], value) for name, value in new.items() if value != old[name]]


def flat(quota: ModelQuota) -> dict[str, Any]:
    """Plain values by name; those of a part with its name before theirs: ``soft_limits.warn``."""
    values: dict[str, Any] = {}
    for name, value in msgspec.to_builtins(quota).items():
        if name in _PARTS:
            values |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            values[name] = value
    return values


def limits_of(*, model_pk: int, model: str, quota: ModelQuota) -> ModelLimits:
    owner = f"The model '{model}'"
    concurrent = quota.max_concurrent_requests
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
        permit=None
        if concurrent is None
        else PermitLimit(f"model:{model_pk}", concurrent, "max_concurrent_requests", owner),
        burst=quota.burst_token_limit,
        open_without_database=quota.on_database_loss is OnDatabaseLoss.OPEN,
        soft_limits=quota.soft_limits,
        throttling_enabled=quota.throttling_enabled,
        policy=quota.degradation_policy,
    )
