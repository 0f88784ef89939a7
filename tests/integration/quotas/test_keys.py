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
from registry.catalogue import Allowed
from registry.errors import Conflict, InvalidRequest, NotFound
from registry.models import Model
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


def test_a_key_that_was_rotated_names_its_successor_instead_of_getting_another_one() -> None:
    first, _ = services.key_create()
    second, _ = services.key_rotate(key_pk=first.pk, overlap=timedelta(hours=1))
    with pytest.raises(Conflict, match=rf"number {second.pk}\) has taken its place. Rotate that one"):
        services.key_rotate(key_pk=first.pk)
    third, _ = services.key_rotate(key_pk=second.pk, overlap=timedelta(hours=1))
    for key in (first, second):
        with pytest.raises(Conflict, match=rf"number {third.pk}\)"):
            services.key_rotate(key_pk=key.pk)
    assert ApiKey.objects.count() == 3


def test_where_the_successor_was_revoked_there_is_another_one_which_does_not_end_with_the_overlap() -> None:
    ends = timezone.now() + timedelta(days=90)
    old, _ = services.key_create(expires_at=ends)
    lost, _ = services.key_rotate(key_pk=old.pk, overlap=timedelta(hours=1))
    services.key_revoke(key_pk=lost.pk)
    new, _ = services.key_rotate(key_pk=old.pk)
    assert (new.line, new.expires_at) == (old.line, ends)


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


class TestSettings:
    def test_a_key_has_the_limits_and_rights_that_it_was_given(self) -> None:
        Model.objects.create(name="m")
        settings = {"tokens_per_hour": 5, "max_concurrent_requests": 2, "allowed_models": ["m", "m"], "max_priority": 9}
        key, secret = services.key_create(settings=settings)
        services.tenant_update(name="default", changes={"requests_per_month": 7, "weight": 3.0})
        caller = selectors.callers_load()[callers.digest(secret)]
        assert {account.key: account.limit for account in caller.accounts} == {
            f"key:{key.line.hex}/tokens/hour": 5,
            f"tenant:{key.tenant.pk}/requests/month": 7,
        }
        assert [(permit.subject, permit.limit) for permit in caller.permits] == [(f"key:{key.line.hex}", 2)]
        assert (caller.max_priority, caller.weight) == (9, 3.0)
        assert caller.allowed == Allowed(models=frozenset({"m"}))

    @pytest.mark.parametrize(
        ("settings", "param"),
        [
            ({"tokens_per_hour": -1}, "tokens_per_hour"),
            ({"requests_per_minute": 2**53 + 1}, "requests_per_minute"),
            ({"max_priority": 11}, "max_priority"),
            ({"weight": 2.0}, "weight"),
            ({"allowed_models": ["nope"]}, "allowed_models"),
            ({"allowed_routes": ["nope"]}, "allowed_routes"),
        ],
    )
    def test_what_is_out_of_range_is_refused_by_name(self, settings: dict[str, object], param: str) -> None:
        key, _ = services.key_create()
        for act in (
            lambda: services.key_create(settings=settings),
            lambda: services.key_update(key_pk=key.pk, changes=settings),
        ):
            with pytest.raises(InvalidRequest) as refusal:
                act()
            assert refusal.value.param == param

    def test_zero_lets_nothing_through_and_null_takes_a_limit_away(self) -> None:
        key, secret = services.key_create(settings={"tokens_per_day": 0})
        assert [each.limit for each in selectors.callers_load()[callers.digest(secret)].accounts] == [0]
        services.key_update(key_pk=key.pk, changes={"tokens_per_day": None})
        assert selectors.callers_load()[callers.digest(secret)].accounts == ()

    def test_a_revoked_key_is_not_changed(self) -> None:
        key, _ = services.key_create()
        services.key_revoke(key_pk=key.pk)
        with pytest.raises(Conflict):
            services.key_update(key_pk=key.pk, changes={"name": "x"})


class TestRotation:
    def test_the_new_key_has_the_rights_of_the_old_one_and_shares_its_limits(self) -> None:
        Model.objects.create(name="m")
        settings = {"tokens_per_hour": 5, "allowed_models": ["m"], "max_priority": 7}
        old, _ = services.key_create(role="operator", name="ci", settings=settings)
        Model.objects.all().delete()
        new, _ = services.key_rotate(key_pk=old.pk)
        for field in ("role", "name", "tokens_per_hour", "allowed_models", "max_priority", "line", "tenant_id"):
            assert getattr(new, field) == getattr(old, field), field
        assert new.rotated_from == old

    def test_the_old_one_works_until_the_overlap_ends_or_it_expires(self) -> None:
        for expires_in, works_for in ((None, 60), (30, 30), (90, 60)):
            expires_at = None if expires_in is None else timezone.now() + timedelta(seconds=expires_in)
            old, secret = services.key_create(expires_at=expires_at)
            began = timezone.now()
            services.key_rotate(key_pk=old.pk, overlap=timedelta(seconds=60))
            caller = selectors.callers_load()[callers.digest(secret)]
            assert caller.expires_at is not None
            assert caller.expires_at - began.timestamp() == pytest.approx(works_for, abs=5)

    @pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=31)])
    def test_an_overlap_has_its_bounds(self, overlap: timedelta) -> None:
        key, _ = services.key_create()
        with pytest.raises(InvalidRequest, match="between 0 and 30 days"):
            services.key_rotate(key_pk=key.pk, overlap=overlap)


def test_when_a_key_was_used_last_is_kept_and_announced_to_nobody() -> None:
    key, _ = services.key_create()
    late, early = timezone.now(), timezone.now() - timedelta(hours=1)
    before = revision_read()
    services.keys_used(used_at={key.pk: late, 10**9: late})
    services.keys_used(used_at={key.pk: early})
    assert selectors.last_used_at(selectors.key_find(key_pk=key.pk)) == late
    assert revision_read() == before


def test_a_thousand_keys_are_read_in_a_few_queries(django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
    tenant = services.tenant_create(name="acme", settings={"tokens_per_hour": 5})
    ApiKey.objects.bulk_create(
        ApiKey(tenant=tenant, prefix="nok_x", digest=callers.digest(str(number)), tokens_per_day=1)
        for number in range(1000)
    )
    with django_assert_max_num_queries(2):
        assert len(selectors.callers_load()) == 1000
