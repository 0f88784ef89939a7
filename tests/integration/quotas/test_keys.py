"""Tenants and API keys on a real PostgreSQL."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from quotas import callers
from quotas.access import selectors, services
from quotas.callers import Role
from quotas.models import ApiKey, Tenant
from registry.errors import Conflict, InvalidRequest, NotFound
from registry.selectors import revision_read

pytestmark = pytest.mark.django_db


def test_only_the_digest_of_a_secret_is_stored() -> None:
    key, secret = services.key_create(name="laptop")
    row = ApiKey.objects.values().get(pk=key.pk)
    assert secret not in str(row)
    assert row["digest"] == callers.digest(secret)
    assert secret.startswith(row["prefix"])


def test_the_default_tenant_is_made_with_its_first_key_and_once() -> None:
    services.key_create()
    services.key_create()
    assert [tenant.name for tenant in Tenant.objects.all()] == ["default"]


def test_a_key_for_an_unknown_tenant_is_refused() -> None:
    with pytest.raises(NotFound, match="acme"):
        services.key_create(tenant="acme")


def test_an_unknown_role_is_refused_and_the_roles_are_named() -> None:
    with pytest.raises(InvalidRequest, match="inference, operator, admin"):
        services.key_create(role="root")


def test_an_expiry_in_the_past_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="past"):
        services.key_create(expires_at=timezone.now() - timedelta(seconds=1))


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "a\x00b", "two\nlines"])
def test_a_bad_tenant_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        services.tenant_create(name=name)


def test_a_tenant_name_is_taken_once() -> None:
    services.tenant_create(name="acme")
    with pytest.raises(Conflict, match="acme"):
        services.tenant_create(name=" acme ")


def test_the_gateway_finds_callers_by_digest() -> None:
    services.tenant_create(name="acme")
    expires = datetime(2099, 1, 1, tzinfo=UTC)
    key, secret = services.key_create(tenant="acme", role=Role.OPERATOR, expires_at=expires)
    expected = callers.Caller(
        key_pk=key.pk, tenant="acme", role=Role.OPERATOR, prefix=key.prefix, expires_at=expires.timestamp()
    )
    (digest, caller), *others = selectors.callers_load().items()
    assert (digest, msgspec.structs.replace(caller, partition=None), others) == (callers.digest(secret), expected, [])
    assert selectors.caller_find(digest) == expected
    assert selectors.caller_find(callers.digest("nok_other")) is None


def test_all_callers_are_two_queries(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    for name in ("a", "b", "c"):
        services.tenant_create(name=name)
        services.key_create(tenant=name)
    with django_assert_num_queries(2):
        assert len(selectors.callers_load()) == 3


def test_a_revoked_key_is_no_caller_and_stays_revoked_at_its_first_moment() -> None:
    key, secret = services.key_create()
    first = services.key_revoke(key_pk=key.pk).revoked_at
    assert services.key_revoke(key_pk=key.pk).revoked_at == first
    assert selectors.callers_load() == {}
    assert selectors.caller_find(callers.digest(secret)) is None


def test_revoking_what_is_not_there_says_so() -> None:
    with pytest.raises(NotFound, match="999"):
        services.key_revoke(key_pk=999)


def test_rotation_makes_a_like_key_and_revokes_the_old_one() -> None:
    services.tenant_create(name="acme")
    old, _ = services.key_create(tenant="acme", name="ci", role=Role.ADMIN)
    new, secret = services.key_rotate(key_pk=old.pk)
    assert (new.tenant.name, new.name, new.role) == ("acme", "ci", "admin")
    assert list(selectors.callers_load()) == [callers.digest(secret)]


def test_a_revoked_key_is_not_rotated() -> None:
    key, _ = services.key_create()
    services.key_revoke(key_pk=key.pk)
    with pytest.raises(Conflict, match="revoked"):
        services.key_rotate(key_pk=key.pk)


def test_a_tenant_counts_the_keys_that_still_work() -> None:
    services.key_create()
    revoked, _ = services.key_create()
    services.key_revoke(key_pk=revoked.pk)
    expired, _ = services.key_create()
    ApiKey.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    assert selectors.tenant_find(name="default").active_keys == 1  # type: ignore[attr-defined]


def test_every_change_of_keys_moves_the_revision() -> None:
    before = revision_read()
    key, _ = services.key_create()
    created = revision_read()
    services.key_revoke(key_pk=key.pk)
    assert before < created < revision_read()


@pytest.mark.parametrize("change", [{"role": "root"}, {"digest": "not a digest"}])
def test_the_database_refuses_what_no_service_would_write(change: dict[str, str]) -> None:
    key, _ = services.key_create()
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.objects.filter(pk=key.pk).update(**change)
