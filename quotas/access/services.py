"""Writes of tenants and API keys. Those of cache partitions, in :mod:`quotas.partitions`, are offered here too."""

import shlex
from collections.abc import Mapping
from datetime import datetime

import structlog
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from quotas import callers
from quotas.callers import Role
from quotas.models import ApiKey, Tenant
from quotas.partitions import partition_ensure, partition_erase
from registry.errors import Conflict, InvalidRequest, NotFound

__all__ = [
    "key_create",
    "key_revoke",
    "key_rotate",
    "keys_used",
    "partition_ensure",
    "partition_erase",
    "tenant_create",
    "tenant_default",
]

log = structlog.get_logger(module="quotas")

DEFAULT_TENANT = "default"
"""Owns the keys of installations that know one tenant only, and what is done without a key. Made on demand."""


def tenant_create(*, name: str) -> Tenant:
    """A new tenant.

    Raises:
        InvalidRequest: the name is empty or too long.
        Conflict: the name is taken.
    """
    name = _name_checked(name, param="name", longest=100)
    if not name:
        raise InvalidRequest("A tenant needs a name.", param="name")
    try:
        with transaction.atomic():
            tenant = Tenant.objects.create(name=name)
            partition_ensure(tenant=tenant)
            return tenant
    except IntegrityError as fault:
        raise Conflict(f"There is a tenant named '{name}' already.", param="name") from fault


@transaction.atomic
def tenant_default() -> Tenant:
    """The tenant of whoever needs no key or names no other; made if it is not there yet."""
    tenant, _ = Tenant.objects.get_or_create(name=DEFAULT_TENANT)
    partition_ensure(tenant=tenant)
    return tenant


def key_create(
    *,
    tenant: str = DEFAULT_TENANT,
    name: str = "",
    role: str = Role.INFERENCE,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its secret, which is not kept: show it now or never.

    Raises:
        InvalidRequest: an unknown role, a name that is too long, or an expiry that has passed.
        NotFound: there is no such tenant (``default`` is made on demand).
    """
    if role not in list(Role):
        raise InvalidRequest(f"There is no role '{role}': use one of {', '.join(Role)}.", param="role")
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidRequest("The expiry lies in the past.", param="expires_at")
    secret = callers.secret_make()
    key = ApiKey.objects.create(
        tenant=_tenant_for_key(tenant),
        name=_name_checked(name, param="name", longest=100),
        prefix=callers.prefix(secret),
        digest=callers.digest(secret),
        role=role,
        expires_at=expires_at,
    )
    log.info("API key created", key=key.prefix, role=key.role, tenant=tenant)
    return key, secret


def key_revoke(*, key_pk: int) -> ApiKey:
    """Make a key useless for good. Again is no error; the first time of it is kept.

    Raises:
        NotFound: there is no such key.
    """
    revoked = ApiKey.objects.filter(pk=key_pk, revoked_at=None).update(revoked_at=timezone.now())
    key = ApiKey.objects.select_related("tenant").filter(pk=key_pk).first()
    if key is None:
        raise NotFound(f"There is no API key {key_pk}.")
    if revoked:
        log.info("API key revoked", key=key.prefix, role=key.role, tenant=key.tenant.name)
    return key


@transaction.atomic
def key_rotate(*, key_pk: int) -> tuple[ApiKey, str]:
    """A new key in the place of an old one, which is revoked.

    Raises:
        NotFound: there is no such key.
        Conflict: it was revoked already.
        InvalidRequest: it has expired.
    """
    old = ApiKey.objects.select_for_update().filter(pk=key_pk).first()
    if old is None:
        raise NotFound(f"There is no API key {key_pk}.")
    if old.revoked_at is not None:
        raise Conflict(f"The key {old.prefix}… was revoked: create a new one.")
    new = key_create(tenant=old.tenant.name, name=old.name, role=old.role, expires_at=old.expires_at)
    key_revoke(key_pk=key_pk)
    return new


def keys_used(*, used_at: Mapping[int, datetime]) -> None:
    """When keys were used last, by their numbers: the latest counts. Those that are gone are left out."""
    if not used_at:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO quotas_keyuse (key_id, used_at) "
            "SELECT id, used.at FROM unnest(%(keys)s::bigint[], %(times)s::timestamptz[]) AS used (key, at) "
            "JOIN quotas_apikey ON id = used.key ORDER BY id "
            "ON CONFLICT (key_id) DO UPDATE SET used_at = greatest(quotas_keyuse.used_at, excluded.used_at)",
            {"keys": list(used_at), "times": list(used_at.values())},
        )


def _tenant_for_key(name: str) -> Tenant:
    if name == DEFAULT_TENANT:
        return tenant_default()
    tenant = Tenant.objects.filter(name=name).first()
    if tenant is None:
        raise NotFound(
            f"There is no tenant '{name}'. Create it first: POST /api/v1/tenants, the admin, or "
            f".venv/bin/python manage.py keys tenant-create {shlex.quote(name)}",
            param="tenant",
            code="tenant_not_found",
        )
    return tenant


def _name_checked(name: str, *, param: str, longest: int) -> str:
    name = name.strip()
    if len(name) > longest:
        raise InvalidRequest(f"At most {longest} characters are allowed here.", param=param)
    if not name.isprintable():
        raise InvalidRequest("Control characters are not allowed here.", param=param)
    return name
