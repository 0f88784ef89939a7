"""Every tenant has a part of the cache of its own, whose key SQL holds sealed."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from pytest_django import Settings

from quotas.access import selectors, services
from quotas.callers import CachePartition, digest
from quotas.models import Partition, Tenant
from registry.errors import NotFound

pytestmark = pytest.mark.django_db


def partition_of(secret: str) -> CachePartition:
    partition = selectors.callers_load()[digest(secret)].partition
    assert partition is not None
    return partition


def test_a_caller_has_the_partition_of_its_tenant() -> None:
    for name in ("ada", "bob"):
        services.tenant_create(name=name)
    (_, ada), (_, ada_too), (_, bob) = (services.key_create(tenant=tenant) for tenant in ("ada", "ada", "bob"))
    assert partition_of(ada) == partition_of(ada_too)
    assert partition_of(ada).name != partition_of(bob).name
    assert partition_of(ada).key != partition_of(bob).key


def test_who_needs_no_key_has_the_default_tenants_partition() -> None:
    anonymous = selectors.default_partition_load()
    _, secret = services.key_create()
    assert anonymous == partition_of(secret)
    assert Tenant.objects.get().name == services.DEFAULT_TENANT


def test_the_shared_partition_is_one_and_nobodys() -> None:
    shared = selectors.shared_partition_load()
    assert shared is not None
    assert shared == selectors.shared_partition_load()
    assert shared != selectors.default_partition_load()
    assert Partition.objects.filter(tenant=None).count() == 1


@pytest.mark.parametrize("tenant", ["ada", None])
def test_an_erased_partition_has_another_name_and_key(tenant: str | None) -> None:
    services.partition_ensure(tenant=services.tenant_create(name="ada") if tenant else None)
    before = Partition.objects.get()
    after = services.partition_erase(tenant=tenant)
    assert after.pk == before.pk
    assert after.name != before.name
    assert bytes(after.sealed_key) != bytes(before.sealed_key)
    assert after.keyed_at > before.keyed_at


def test_the_key_that_was_erased_is_gone_for_callers_too() -> None:
    services.tenant_create(name="ada")
    _, secret = services.key_create(tenant="ada")
    before = partition_of(secret)
    services.partition_erase(tenant="ada")
    assert partition_of(secret).key != before.key


def test_nobody_else_is_touched_by_an_erasure() -> None:
    services.tenant_create(name="ada")
    shared, default = selectors.shared_partition_load(), selectors.default_partition_load()
    services.partition_erase(tenant="ada")
    assert (selectors.shared_partition_load(), selectors.default_partition_load()) == (shared, default)


def test_the_cache_of_an_unknown_tenant_cannot_be_erased() -> None:
    with pytest.raises(NotFound):
        services.partition_erase(tenant="nobody")


def test_sql_holds_no_key_in_the_clear() -> None:
    partition = selectors.default_partition_load()
    assert partition is not None
    with connection.cursor() as cursor:
        cursor.execute("SELECT sealed_key FROM quotas_partition")
        assert all(partition.key not in bytes(sealed) for (sealed,) in cursor.fetchall())


def test_under_another_secret_key_callers_are_known_but_nothing_is_cached(settings: Settings) -> None:
    _, secret = services.key_create()
    settings.SECRET_KEY = "of a data directory that was lost"
    caller = selectors.callers_load()[digest(secret)]
    assert caller.tenant == services.DEFAULT_TENANT
    assert caller.partition is None
    assert selectors.default_partition_load() is None
    assert selectors.partitions_unopened() == [services.DEFAULT_TENANT]


def test_erasing_repairs_what_cannot_be_opened_any_more(settings: Settings) -> None:
    _, secret = services.key_create()
    settings.SECRET_KEY = "of a data directory that was lost"
    services.partition_erase(tenant=services.DEFAULT_TENANT)
    assert partition_of(secret) == selectors.default_partition_load()
    assert selectors.partitions_unopened() == []


@pytest.mark.parametrize(
    "values",
    [
        {"name": "../../etc", "sealed_key": bytes(60)},
        {"name": "0" * 32, "sealed_key": bytes(32)},
    ],
)
def test_sql_refuses_a_name_that_is_no_folder_and_a_key_that_is_not_sealed(values: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Partition.objects.create(tenant=None, **values)


def test_sql_refuses_a_second_shared_partition() -> None:
    Partition.objects.create(tenant=None, name="0" * 32, sealed_key=bytes(60))
    with pytest.raises(IntegrityError), transaction.atomic():
        Partition.objects.create(tenant=None, name="1" * 32, sealed_key=bytes(60))


# --- Announcement ----------------------------------------------------------------------------------------------------


def test_gateways_hear_of_an_erased_cache(heard: Callable[[], list[str]]) -> None:
    services.tenant_create(name="ada")
    heard()
    services.partition_erase(tenant="ada")
    assert heard() == ["keys"]
