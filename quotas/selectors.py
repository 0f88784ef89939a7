"""Reads of models' limits, and of how they stand with them."""

from collections.abc import Sequence
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
from quotas.modes import Level, Mode, level_after, mode_of, percent_of
from quotas.treasury import unopened
from quotas.windows import Period, window_at
from quotas.windows import Window as Span
from registry.cache.selectors import cache_config_load
from registry.errors import NotFound
from registry.models import Model

log = structlog.get_logger(module="quotas")


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in force."""

    revision: int
    """0: nobody ever changed them."""
    quota: ModelQuota
    own: bool
    """False: the model has none of its own, but the default ones."""


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
    period: Period
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
    own: bool
    windows: list[WindowUse]
    mode: Mode
    percent: float
    """Used and promised of the limit that is nearest its end."""


def limits_load() -> dict[str, ModelLimits]:
    """The limits of every model that has some, by its id; see :func:`quota_find` for where they come from."""
    own = {row.model_id: quota_value(row) for row in _newest_revisions()}
    default = quota_default_load()
    models = Model.objects.filter(alias_of=None).values_list("pk", "name")
    limits = {name: limits_of(model_pk=pk, model=name, quota=own.get(pk) or default) for pk, name in models}
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
    return _found(quota_revisions_list(model=model).first(), quota_default_load())


def quota_default_load() -> ModelQuota:
    """The limits of a model that has none of its own."""
    return of_default(cache_config_load().per_model_quota)


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


def quota_value(row: QuotaRevision) -> ModelQuota | None:
    """A revision's limits; None: the model gave up its own.

    The services let nothing else into SQL; who writes past them must not take limits away.
    """
    if row.quota is None:
        return None
    try:
        return msgspec.convert(row.quota, ModelQuota)
    except msgspec.ValidationError as fault:
        log.error("Limits that can't be read: the model answers nobody", model_id=row.model.name, reason=str(fault))
        return ModelQuota(hourly_request_limit=0)


def quota_report(*, model: Model) -> QuotaReport:
    """How a model stands with its limits in the windows of now."""
    return quota_reports(models=[model])[model.pk]


def quota_reports(*, models: Sequence[Model]) -> dict[int, QuotaReport]:
    """Of several models, by their number, with as many queries as for one."""
    newest = {row.model_id: row for row in _newest_revisions().filter(model__in=models)}
    default = quota_default_load()
    quotas = {model.pk: _found(newest.get(model.pk), default) for model in models}
    limits = {
        model.pk: limits_of(model_pk=model.pk, model=model.name, quota=quotas[model.pk].quota) for model in models
    }
    uses = _windows_now([account for each in limits.values() for account in each.accounts])
    emergency = bool(emergency_load())
    return {
        model.pk: _report(
            model, quotas[model.pk], [uses[account.key] for account in limits[model.pk].accounts], emergency
        )
        for model in models
    }


def _found(newest: QuotaRevision | None, default: ModelQuota) -> Quota:
    own = None if newest is None else quota_value(newest)
    return Quota(revision=newest.number if newest else 0, quota=own or default, own=own is not None)


def _report(model: Model, found: Quota, windows: list[WindowUse], emergency: bool) -> QuotaReport:
    percent = max((window.percent for window in windows), default=0.0)
    level = level_after(Level.NONE, percent, found.quota.soft_limits, slack=0.0)
    return QuotaReport(
        model_id=model.name,
        revision=found.revision,
        quota=found.quota,
        own=found.own,
        windows=windows,
        mode=mode_of(level, throttling_enabled=found.quota.throttling_enabled, emergency=emergency),
        percent=percent,
    )


def _windows_now(accounts: Sequence[Account]) -> dict[str, WindowUse]:
    """How the windows that are open stand, by account."""
    now, zone = timezone.now().timestamp(), ZoneInfo(settings.TIME_ZONE)
    spans = {period: window_at(period, now, zone) for period in Period}
    rows = Window.objects.filter(
        account__in=[account.key for account in accounts],
        starts_at__in={_moment(spans[account.period].starts_at) for account in accounts},
    ).annotate(spent=Sum("leases__spent", default=0), reserved=Sum("leases__reserved", default=0))
    opened = {(row.account, row.starts_at): row for row in rows}
    found = {account.key: opened.get((account.key, _moment(spans[account.period].starts_at))) for account in accounts}
    earlier = unopened([(account, spans[account.period]) for account in accounts if found[account.key] is None])
    uses = {}
    for account in accounts:
        row = found[account.key]
        used, reserved = (row.earlier + row.spent, row.reserved) if row else (earlier.get(account.key, 0), 0)
        uses[account.key] = _window_use(account, spans[account.period], used, reserved)
    return uses


def _window_use(account: Account, window: Span, used: int, reserved: int) -> WindowUse:
    return WindowUse(
        name=account.name,
        unit=account.unit,
        period=account.period,
        limit=account.limit,
        used=used,
        reserved=reserved,
        remaining=max(0, account.limit - used - reserved),
        percent=percent_of(account.limit, used + reserved),
        starts_at=_moment(window.starts_at),
        ends_at=_moment(window.ends_at),
    )


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _newest_revisions() -> QuerySet[QuotaRevision]:
    """Of each model the one in force."""
    return QuotaRevision.objects.select_related("model").order_by("model_id", "-number").distinct("model_id")
