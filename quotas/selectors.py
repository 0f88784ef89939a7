"""Reads of tenants, API keys, cache partitions and limits."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
import structlog
from django.conf import settings
from django.db.models import Count, Q, QuerySet, Sum
from django.utils import timezone

from quotas import sealing, services
from quotas.callers import CachePartition, Caller, Role
from quotas.ledger import Account, Unit
from quotas.limits import ModelLimits, ModelQuota, limits_of, of_default
from quotas.models import ApiKey, Partition, QuotaRevision, Tenant, Window
from quotas.windows import Window as Span
from quotas.windows import window_at
from registry.cache.selectors import cache_config_load
from registry.errors import InvalidRequest, NotFound
from registry.models import Model

log = structlog.get_logger(module="quotas")


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in force. Revision 0: the model has none of its own."""

    revision: int
    quota: ModelQuota


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


UNOPENED = (
    "Give all nodes the same 'secret_key' file in their data directories; if it is lost, erase the tenant's cache"
)
"""What to do about a partition whose key was sealed under another secret key."""


def callers_load() -> dict[str, Caller]:
    """Every key that was not revoked, by its digest: what the gateway authenticates with, in two queries."""
    partitions = {
        row.tenant_id: _partition(row)
        for row in Partition.objects.filter(tenant__isnull=False).select_related("tenant")
    }
    return {key.digest: _caller(key, partitions.get(key.tenant_id)) for key in _unrevoked()}


def caller_find(digest: str) -> Caller | None:
    """Who presents a secret with this digest, without their partition; None for an unknown or revoked key."""
    key = _unrevoked().filter(digest=digest).first()
    return _caller(key, None) if key else None


def default_partition_load() -> CachePartition | None:
    """The partition of requests without a key, where none is required: the default tenant's, both made on demand.

    None: its key can't be opened here; see :func:`_partition`.
    """
    return _partition(_existing(tenant=services.DEFAULT_TENANT) or services.tenant_default().cache_partition)


def shared_partition_load() -> CachePartition | None:
    """The partition of declared prompts, made on demand. None: as :func:`default_partition_load`."""
    return _partition(_existing(tenant=None) or services.partition_ensure(tenant=None))


def partitions_unopened() -> list[str]:
    """The tenants for whom nothing can be cached here; see :data:`UNOPENED`."""
    return [_owner(row) for row in Partition.objects.select_related("tenant") if _opened(row) is None]


def limits_load() -> dict[str, ModelLimits]:
    """The limits of every model that has some, by its id; see :func:`quota_find` for where they come from."""
    own = {row.model_id: quota_value(row) for row in _newest_revisions()}
    default = of_default(cache_config_load().per_model_quota)
    models = Model.objects.filter(alias_of=None).values_list("pk", "name")
    limits = {name: limits_of(model_pk=pk, model=name, quota=own.get(pk, default)) for pk, name in models}
    return {name: each for name, each in limits.items() if each.accounts or each.burst is not None}


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
    return QuotaReport(
        model_id=model.name,
        revision=found.revision,
        quota=found.quota,
        windows=[_window_use(account, window_at(account.period, now.timestamp(), zone)) for account in limits.accounts],
    )


def keys_list() -> QuerySet[ApiKey]:
    return ApiKey.objects.select_related("tenant")


def key_find(*, key_pk: int) -> ApiKey:
    """Raises NotFound."""
    key = keys_list().filter(pk=key_pk).first()
    if key is None:
        raise NotFound(f"There is no API key {key_pk}.")
    return key


def key_by_name(text: str) -> ApiKey:
    """The key that an operator means by its number or by the first characters of its secret.

    Raises:
        NotFound: none begins so.
        InvalidRequest: several do.
    """
    number = Q(pk=int(text)) if text.isascii() and text.isdigit() else Q()
    # A pasted whole secret is understood too; only its prefix is compared.
    matches = list(keys_list().filter(number or Q(prefix__startswith=text[:12]))[:2])
    if not matches:
        raise NotFound(f"No API key is called '{text[:12]}': `.venv/bin/python manage.py keys list` shows them.")
    if len(matches) > 1:
        raise InvalidRequest(f"Several API keys begin with '{text}': give more of it, or the key's number.")
    return matches[0]


def tenants_list() -> QuerySet[Tenant]:
    """Tenants with ``active_keys``, the number of their keys that are neither revoked nor expired."""
    return Tenant.objects.annotate(active_keys=Count("api_keys", filter=_active("api_keys__")))


def tenant_find(*, name: str) -> Tenant:
    """Raises NotFound."""
    tenant = tenants_list().filter(name=name).first()
    if tenant is None:
        raise NotFound(f"There is no tenant '{name}'.", code="tenant_not_found")
    return tenant


def _window_use(account: Account, window: Span) -> WindowUse:
    row = (
        Window.objects.filter(account=account.key, starts_at=_moment(window.starts_at))
        .annotate(spent=Sum("leases__spent", default=0), reserved=Sum("leases__reserved", default=0))
        .first()
    )
    used = row.spent if row else 0
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


def _active(prefix: str = "") -> Q:
    """A condition on keys reached through ``prefix``: neither revoked nor expired."""
    lives_on = Q(**{f"{prefix}expires_at": None}) | Q(**{f"{prefix}expires_at__gt": timezone.now()})
    return Q(**{f"{prefix}revoked_at": None}) & lives_on


def _unrevoked() -> QuerySet[ApiKey]:
    return keys_list().filter(revoked_at=None)


def _existing(*, tenant: str | None) -> Partition | None:
    rows = Partition.objects.select_related("tenant")
    return rows.filter(tenant=None).first() if tenant is None else rows.filter(tenant__name=tenant).first()


def _partition(row: Partition) -> CachePartition | None:
    """None when its key was sealed under another secret key: of a data directory that was lost, or of another node.

    Caching stops for its tenant; its requests are served.
    """
    opened = _opened(row)
    if opened is None:
        log.warning("Nothing is cached for this tenant: its key can't be opened", tenant=_owner(row), advice=UNOPENED)
    return opened


def _opened(row: Partition) -> CachePartition | None:
    try:
        key = sealing.unseal(bytes(row.sealed_key), name=row.name, secret_key=str(settings.SECRET_KEY))
    except sealing.NotOurs:
        return None
    return CachePartition(name=row.name, key=key)


def _owner(row: Partition) -> str:
    return row.tenant.name if row.tenant else "(shared prompts)"


def _caller(key: ApiKey, partition: CachePartition | None) -> Caller:
    return Caller(
        key_pk=key.pk,
        tenant=key.tenant.name,
        role=Role(key.role),
        prefix=key.prefix,
        expires_at=key.expires_at.timestamp() if key.expires_at else None,
        partition=partition,
    )
