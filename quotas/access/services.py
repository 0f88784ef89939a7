"""Writes of tenants and API keys. Those of cache partitions, in :mod:`quotas.partitions`, are offered here too."""

import shlex
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import structlog
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from quotas import callers
from quotas.caller_limits import HIGHEST_LIMIT, HIGHEST_WEIGHT, LIMIT_FIELDS, LOWEST_WEIGHT
from quotas.callers import HIGHEST_PRIORITY, Role
from quotas.models import ApiKey, Tenant
from quotas.partitions import partition_ensure, partition_erase
from registry.errors import Conflict, InvalidRequest, NotFound
from registry.services import model_named

__all__ = [
    "key_create",
    "key_revoke",
    "key_rotate",
    "key_settings_checked",
    "key_update",
    "keys_used",
    "partition_ensure",
    "partition_erase",
    "tenant_create",
    "tenant_default",
    "tenant_update",
]

log = structlog.get_logger(module="quotas")

_ALLOWED = ("allowed_models", "allowed_routes")
_LONGEST_NAME = 100

TENANT_SETTINGS = ("weight", *LIMIT_FIELDS)
"""What may be set of a tenant beside its name."""
KEY_SETTINGS = ("max_priority", *_ALLOWED, *LIMIT_FIELDS)
"""What may be set of a key beside its name and expiry."""

ROUTES = ("auto",)
"""Those that there are."""

LONGEST_OVERLAP = timedelta(days=30)

_NOTHING: Mapping[str, Any] = MappingProxyType({})

DEFAULT_TENANT = "default"
"""Owns the keys of installations that know one tenant only, and what is done without a key. Made on demand."""


def tenant_create(*, name: str, settings: Mapping[str, Any] = _NOTHING) -> Tenant:
    """A new tenant.

    Args:
        settings: ``weight`` and limits (:data:`TENANT_SETTINGS`) that are not the default ones.

    Raises:
        InvalidRequest: the name is empty or too long, or a setting is out of range.
        Conflict: the name is taken.
    """
    name = _name_checked(name)
    if not name:
        raise InvalidRequest("A tenant needs a name.", param="name")
    checked = _settings_checked(settings, TENANT_SETTINGS)
    try:
        with transaction.atomic():
            tenant = Tenant.objects.create(name=name, **checked)
            partition_ensure(tenant=tenant)
            return tenant
    except IntegrityError as fault:
        raise Conflict(f"There is a tenant named '{name}' already.", param="name") from fault


def tenant_update(*, name: str, changes: Mapping[str, Any]) -> Tenant:
    """Change what is named of :data:`TENANT_SETTINGS`; the rest stays. What was used of a window counts.

    Raises:
        NotFound: there is no such tenant.
        InvalidRequest: a setting is out of range.
    """
    checked = _settings_checked(changes, TENANT_SETTINGS)
    with transaction.atomic():
        tenant = Tenant.objects.select_for_update().filter(name=name).first()
        if tenant is None:
            raise NotFound(f"There is no tenant '{name}'.", code="tenant_not_found")
        _change(tenant, checked)
    log.info("Tenant changed", tenant=name, changed=sorted(checked))
    return tenant


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
    settings: Mapping[str, Any] = _NOTHING,
) -> tuple[ApiKey, str]:
    """A new key and its secret, which is not kept: show it now or never.

    Args:
        settings: what it may ask for, and its limits (:data:`KEY_SETTINGS`), where they are not the default ones.

    Raises:
        InvalidRequest: an unknown role or model, a name that is too long, an expiry that has passed, or a setting that
            is out of range.
        NotFound: there is no such tenant (``default`` is made on demand).
    """
    if role not in list(Role):
        raise InvalidRequest(f"There is no role '{role}': use one of {', '.join(Role)}.", param="role")
    _refuse_past(expires_at)
    secret = callers.secret_make()
    key = ApiKey.objects.create(
        tenant=_tenant_for_key(tenant),
        name=_name_checked(name),
        prefix=callers.prefix(secret),
        digest=callers.digest(secret),
        role=role,
        expires_at=expires_at,
        **key_settings_checked(settings),
    )
    log.info("API key created", key=key.prefix, role=key.role, tenant=tenant)
    return key, secret


def key_settings_checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`key_create` and :func:`key_update` would keep of these. Raises InvalidRequest, naming the field and
    what is allowed."""
    return _settings_checked(settings, KEY_SETTINGS)


def key_update(*, key_pk: int, changes: Mapping[str, Any]) -> ApiKey:
    """Change what is named of ``name``, ``expires_at`` and :data:`KEY_SETTINGS`; the rest stays. Gateways follow within
    a second; what was used of a window counts.

    Raises:
        NotFound: there is no such key.
        Conflict: it was revoked.
        InvalidRequest: as :func:`key_create`.
    """
    plain = {name: changes[name] for name in ("name", "expires_at") if name in changes}
    checked = key_settings_checked({name: changes[name] for name in changes if name not in plain})
    if "name" in plain:
        plain["name"] = _name_checked(plain["name"])
    _refuse_past(plain.get("expires_at"))
    with transaction.atomic():
        key = _unrevoked_for_update(key_pk)
        _change(key, plain | checked)
    log.info("API key changed", key=key.prefix, tenant=key.tenant.name, changed=sorted(plain | checked))
    return key


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
def key_rotate(*, key_pk: int, overlap: timedelta = timedelta(0)) -> tuple[ApiKey, str]:
    """A new key in the place of an old one: with its rights and limits, of which both together have what one had.

    Args:
        overlap: so long the old one goes on working; without, it is revoked at once.

    Raises:
        NotFound: there is no such key.
        Conflict: it was revoked already; or rotated, and works on beside its successor.
        InvalidRequest: it has expired, or the overlap is negative or too long.
    """
    if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
        raise InvalidRequest(
            f"The overlap must be between 0 and {LONGEST_OVERLAP.days} days ({LONGEST_OVERLAP.days * 86_400} s).",
            param="overlap_seconds",
        )
    old = _unrevoked_for_update(key_pk)
    heir = _heir(old)
    if heir is not None and heir.revoked_at is None:
        raise Conflict(
            f"The key {old.prefix}… (number {old.pk}) was rotated already: {heir.prefix}… (number {heir.pk}) has taken "
            "its place. Rotate that one; if its secret is lost, revoke it first, then rotate this one again.",
            code="already_rotated",
        )
    key, secret = key_create(
        tenant=old.tenant.name,
        name=old.name,
        role=old.role,
        expires_at=(heir or old).expires_at,  # that of the old one may be the end of its overlap
        settings={name: getattr(old, name) for name in KEY_SETTINGS if name not in _ALLOWED},
    )
    inherited = {name: getattr(old, name) for name in (*_ALLOWED, "line")}  # models that are gone stay allowed
    _change(key, {**inherited, "rotated_from": old})
    if overlap:
        ends = timezone.now() + overlap
        _change(old, {"expires_at": ends if old.expires_at is None else min(ends, old.expires_at)})
    else:
        key_revoke(key_pk=key_pk)
    return key, secret


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


def _name_checked(name: str) -> str:
    name = name.strip()
    if len(name) > _LONGEST_NAME:
        raise InvalidRequest(f"At most {_LONGEST_NAME} characters are allowed here.", param="name")
    if not name.isprintable():
        raise InvalidRequest("Control characters are not allowed here.", param="name")
    return name


def _unrevoked_for_update(key_pk: int) -> ApiKey:
    """Raises NotFound or Conflict."""
    key = ApiKey.objects.select_for_update(of=("self",)).select_related("tenant").filter(pk=key_pk).first()
    if key is None:
        raise NotFound(f"There is no API key {key_pk}.")
    if key.revoked_at is not None:
        raise Conflict(f"The key {key.prefix}… was revoked: create a new one.")
    return key


def _heir(key: ApiKey) -> ApiKey | None:
    """Who took its place last, revoked or not."""
    return ApiKey.objects.filter(line=key.line, pk__gt=key.pk).order_by("-pk").first()


def _change(row: ApiKey | Tenant, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        setattr(row, name, value)
    if changes:
        row.save(update_fields=list(changes))


def _settings_checked(settings: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Raises InvalidRequest, naming the field and what is allowed."""
    for name, value in settings.items():
        if name not in known:
            raise InvalidRequest(f"There is no setting '{name}': there are {', '.join(known)}.", param=name)
        if name in LIMIT_FIELDS and value is not None and not 0 <= value <= HIGHEST_LIMIT:
            raise InvalidRequest(
                f"'{name}' is {value}: it must be between 0 and {HIGHEST_LIMIT}, or none at all.", param=name
            )
    _refuse_outside(settings, "max_priority", 0, HIGHEST_PRIORITY)
    _refuse_outside(settings, "weight", LOWEST_WEIGHT, HIGHEST_WEIGHT)
    return {**settings, **_allowed_checked(settings)}


def _refuse_outside(settings: Mapping[str, Any], name: str, least: float, most: float) -> None:
    if not least <= settings.get(name, least) <= most:
        raise InvalidRequest(f"'{name}' is {settings[name]}: it must be between {least:g} and {most:g}.", param=name)


def _allowed_checked(settings: Mapping[str, Any]) -> dict[str, list[str] | None]:
    """Lists without repetition, in order; None: all."""
    checked: dict[str, list[str] | None] = {}
    for name in _ALLOWED:
        if name in settings:
            names = settings[name]
            checked[name] = None if names is None else sorted(set(names))
    for model in checked.get("allowed_models") or ():
        try:
            model_named(name=model)
        except NotFound as unknown:
            raise InvalidRequest(unknown.message, param="allowed_models", code="model_not_found") from unknown
    for route in checked.get("allowed_routes") or ():
        if route not in ROUTES:
            raise InvalidRequest(f"There is no route '{route}': there is {', '.join(ROUTES)}.", param="allowed_routes")
    return checked


def _refuse_past(expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidRequest("The expiry lies in the past.", param="expires_at")
