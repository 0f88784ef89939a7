"""Writes of cache partitions: they are made with their tenants, and erased by giving them another name and key.

The name and the key are both random and change together. So nothing that was cached before is ever found again, and
what of it lies on disk can't be read by anybody, before its files have made room for others.
"""

import secrets

import structlog
from django.conf import settings
from django.utils import timezone

from quotas import sealing
from quotas.models import Partition, Tenant
from registry.errors import NotFound

log = structlog.get_logger(module="quotas")


def partition_ensure(*, tenant: Tenant | None) -> Partition:
    """The partition of a tenant, or the shared one for None; made if it is not there yet."""
    return Partition.objects.get_or_create(tenant=tenant, defaults=_new_name_and_key())[0]


def partition_erase(*, tenant: str | None) -> Partition:
    """Forget all that was cached for a tenant, or in the shared partition for None.

    It is out of reach in memory and on disk, on all nodes. Gateways follow within a second; a request that is running
    keeps the partition that it began with.

    Raises:
        NotFound: there is no such tenant.
    """
    owner = None if tenant is None else Tenant.objects.filter(name=tenant).first()
    if tenant is not None and owner is None:
        raise NotFound(f"There is no tenant '{tenant}'.", code="tenant_not_found")
    partition, made = Partition.objects.get_or_create(tenant=owner, defaults=_new_name_and_key())
    if not made:
        Partition.objects.filter(pk=partition.pk).update(**_new_name_and_key(), keyed_at=timezone.now())
        partition.refresh_from_db()
    log.info("Cache erased", tenant=tenant or "(shared prompts)")
    return partition


def _new_name_and_key() -> dict[str, str | bytes]:
    name = secrets.token_hex(16)
    return {
        "name": name,
        "sealed_key": sealing.seal(sealing.key_make(), name=name, secret_key=str(settings.SECRET_KEY)),
    }
