"""Reads of models' limits, and of how they stand with them."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
import structlog
from django.conf import settings
from django.db.models import QuerySet, Sum
from django.utils import timezone

from quotas.ledger import Account, Unit
from quotas.limits import ModelLimits, ModelQuota, limits_of, of_default
from quotas.models import Emergency, QuotaRevision, Window
from quotas.modes import Level, Mode, level_after, mode_of
from quotas.windows import Window as Span
from quotas.windows import window_at
from registry.cache.selectors import cache_config_load
from registry.errors import NotFound
from registry.models import Model

log = structlog.get_logger(module="quotas")


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in force. Revision 0: the model has none of its own."""

    revision: int
    quota: ModelQuota


class EmergencyState(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool = False
    reason: str = ""
    author: str = ""
    since: datetime | None = None
    """None: nobody ever declared one."""


class WindowUse(msgspec.Struct, frozen=True, kw_only=True):
    """What was used of a limit in the window of now. Gateways tell it every second."""

    name: str
    """``hourly_token_limit``."""
    unit: Unit
    limit: int
    used: int
    """By requests that are over."""
    reserved: int
    """Promised to requests that run: at most so much more will be used by them."""
    remaining: int
    percent: float
    """Used and promised, of the limit."""
    starts_at: datetime
    ends_at: datetime


class QuotaReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a model stands with its limits."""

    model_id: str
    revision: int
    quota: ModelQuota
    windows: list[WindowUse]
    mode: Mode
    percent: float
    """Used and promised of the limit that is nearest its end."""


def limits_load() -> dict[str, ModelLimits]:
    """The limits of every model that has some, by its id; see :func:`quota_find` for where they come from."""
    own = {row.model_id: quota_value(row) for row in _newest_revisions()}
    default = of_default(cache_config_load().per_model_quota)
    models = Model.objects.filter(alias_of=None).values_list("pk", "name")
    limits = {name: limits_of(model_pk=pk, model=name, quota=own.get(pk, default)) for pk, name in models}
    return {name: each for name, each in limits.items() if each.accounts or each.permit or each.burst is not None}


def emergency_load() -> str:
    """Why there is an emergency, by whoever declared it last; empty: there is none."""
    row = emergency_find()
    return (row.reason or "an operator has declared an emergency") if row.enabled else ""


def emergency_find() -> EmergencyState:
    """As whoever declared or ended one last has said."""
    row = Emergency.objects.first()
    if row is None:
        return EmergencyState()
    return EmergencyState(enabled=row.enabled, reason=row.reason, author=row.author, since=row.created_at)


def quota_find(*, model: Model) -> Quota:
    """The limits in force of a model: its own or, where it has none, the default ones of the cache's configuration."""
    row = quota_revisions_list(model=model).first()
    if row is None:
        return Quota(revision=0, quota=of_default(cache_config_load().per_model_quota))
    return Quota(revision=row.number, quota=quota_value(row))


def quota_revisions_list(*, model: Model) -> QuerySet[QuotaRevision]:
    """Newest first."""
    return QuotaRevision.objects.filter(model=model).order_by("-number")


def quota_revision_find(*, model: Model, number: int) -> QuotaRevision:
    """Raises NotFound, naming the revisions there are."""
    row = quota_revisions_list(model=model).filter(number=number).first()
    if row is None:
        newest = quota_revisions_list(model=model).values_list("number", flat=True).first()
        known = "there is none yet" if newest is None else f"they go from 1 to {newest}"
        raise NotFound(f"The limits of '{model.name}' have no revision {number}: {known}.")
    return row


def quota_report(*, model: Model) -> QuotaReport:
    """How a model stands with its limits in the windows of now."""
    found = quota_find(model=model)
    limits = limits_of(model_pk=model.pk, model=model.name, quota=found.quota)
    now = timezone.now()
    zone = ZoneInfo(settings.TIME_ZONE)
    windows = [_window_use(account, window_at(account.period, now.timestamp(), zone)) for account in limits.accounts]
    percent = max((window.percent for window in windows), default=0.0)
    level = level_after(Level.NONE, percent, found.quota.soft_limits, slack=0.0)
    throttling, emergency = found.quota.throttling_enabled, bool(emergency_load())
    return QuotaReport(
        model_id=model.name,
        revision=found.revision,
        quota=found.quota,
        windows=windows,
        mode=mode_of(level, throttling_enabled=throttling, emergency=emergency),
        percent=percent,
    )


def _window_use(account: Account, window: Span) -> WindowUse:
    row = (
        Window.objects.filter(account=account.key, starts_at=_moment(window.starts_at))
        .annotate(spent=Sum("leases__spent", default=0), reserved=Sum("leases__reserved", default=0))
        .first()
    )
    used = row.earlier + row.spent if row else 0
    reserved = row.reserved if row else 0
    return WindowUse(
        name=account.name,
        unit=account.unit,
        limit=account.limit,
        used=used,
        reserved=reserved,
        remaining=max(0, account.limit - used - reserved),
        percent=100.0 * (used + reserved) / account.limit if account.limit else 100.0,
        starts_at=_moment(window.starts_at),
        ends_at=_moment(window.ends_at),
    )


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _newest_revisions() -> QuerySet[QuotaRevision]:
    """Of each model the one in force."""
    return QuotaRevision.objects.select_related("model").order_by("model_id", "-number").distinct("model_id")


def quota_value(row: QuotaRevision) -> ModelQuota:
    """A revision's limits. The services let nothing else into SQL; who writes past them must not take limits away."""
    try:
        return msgspec.convert(row.quota, ModelQuota)
    except msgspec.ValidationError as fault:
        log.error("Limits that can't be read: the model answers nobody", model_id=row.model.name, reason=str(fault))
        return ModelQuota(hourly_request_limit=0)
