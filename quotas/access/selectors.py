"""Reads of tenants, API keys and cache partitions."""

from datetime import datetime

import structlog
from django.conf import settings
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from quotas import sealing
from quotas.access import services
from quotas.caller_limits import LIMIT_FIELDS, CallerLimits, limits_of
from quotas.callers import CachePartition, Caller, Role
from quotas.models import ApiKey, Partition, Tenant
from registry.catalogue import Allowed
from registry.errors import InvalidRequest, NotFound

log = structlog.get_logger(module="quotas")

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
    tenants: dict[int, CallerLimits] = {}
    callers = {}
    for key in _unrevoked():
        held = tenants.get(key.tenant_id)
        if held is None:
            held = tenants[key.tenant_id] = _tenant_limits(key.tenant)
        callers[key.digest] = _caller(key, partitions.get(key.tenant_id), held)
    return callers


def caller_find(digest: str) -> Caller | None:
    """Who presents a secret with this digest, without their partition; None for an unknown or revoked key."""
    key = _unrevoked().filter(digest=digest).first()
    return _caller(key, None, CallerLimits()) if key else None


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


def keys_list() -> QuerySet[ApiKey]:
    return ApiKey.objects.select_related("tenant", "use")


def key_lineage(*, key_pk: int) -> list[int]:
    """The key, and those that it replaced by rotation: to their holder they are one."""
    replaced = dict(ApiKey.objects.filter(tenant__api_keys=key_pk).values_list("pk", "rotated_from"))
    lineage = [key_pk]
    while (older := replaced.get(lineage[-1])) is not None:
        lineage.append(older)
    return lineage


def last_used_at(key: ApiKey) -> datetime | None:
    """None: never."""
    return key.use.used_at if hasattr(key, "use") else None


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
    """By name, with ``active_keys``, the number of their keys that are neither revoked nor expired."""
    counted = Tenant.objects.annotate(active_keys=Count("api_keys", filter=_active("api_keys__")))
    return counted.order_by("name")  # where rows are grouped, Django forgets the table's own order


def tenant_find(*, name: str) -> Tenant:
    """Raises NotFound."""
    tenant = tenants_list().filter(name=name).first()
    if tenant is None:
        raise NotFound(f"There is no tenant '{name}'.", code="tenant_not_found")
    return tenant


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


def _tenant_limits(tenant: Tenant) -> CallerLimits:
    return limits_of(subject=f"tenant:{tenant.pk}", owner=f"The tenant '{tenant.name}'", limits=_limit_values(tenant))


def _limit_values(row: Tenant | ApiKey) -> dict[str, int | None]:
    return {name: getattr(row, name) for name in LIMIT_FIELDS}


def _set(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def _caller(key: ApiKey, partition: CachePartition | None, of_tenant: CallerLimits) -> Caller:
    owner = f"The API key {key.prefix}…"
    own = limits_of(subject=f"key:{key.line.hex}", owner=owner, limits=_limit_values(key))
    return Caller(
        key_pk=key.pk,
        tenant=key.tenant.name,
        role=Role(key.role),
        prefix=key.prefix,
        expires_at=key.expires_at.timestamp() if key.expires_at else None,
        partition=partition,
        accounts=own.accounts + of_tenant.accounts,
        permits=own.permits + of_tenant.permits,
        max_priority=key.max_priority,
        weight=key.tenant.weight,
        allowed=Allowed(models=_set(key.allowed_models), routes=_set(key.allowed_routes)),
    )
