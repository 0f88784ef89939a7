"""Tenants and keys in the admin: a secret is shown once, and nobody hands out more than they have."""

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from quotas import callers
from quotas.access import selectors
from quotas.access import services as quotas
from quotas.models import ApiKey, Tenant
from registry.models import Model
from tests.integration.web.staff import said, staff

NEW_KEY = {"name": "x", "role": "inference", "expires_at_0": "", "expires_at_1": "", "max_priority": "5"}

pytestmark = pytest.mark.django_db


def url(model: Any, page: str, *arguments: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=arguments)


def test_a_tenant_is_added_and_stays(root: Client) -> None:
    assert root.post(url(Tenant, "add"), {"name": "acme", "weight": "2.5", "tokens_per_day": "1000"}).status_code == 302
    tenant = Tenant.objects.get(name="acme")
    assert (tenant.weight, tenant.tokens_per_day, tenant.tokens_per_hour) == (2.5, 1000, None)
    assert root.post(url(Tenant, "delete", tenant.pk), {"post": "yes"}).status_code == 403


def test_a_tenant_s_limits_change_and_its_name_stays(root: Client) -> None:
    tenant = quotas.tenant_create(name="acme", settings={"tokens_per_day": 1000})
    form = {"name": "other", "weight": "1.0", "tokens_per_day": "", "requests_per_minute": "60"}
    assert root.post(url(Tenant, "change", tenant.pk), form).status_code == 302
    tenant.refresh_from_db()
    assert (tenant.name, tenant.tokens_per_day, tenant.requests_per_minute) == ("acme", None, 60)
    page = root.post(url(Tenant, "change", tenant.pk), {**form, "requests_per_minute": "-1"})
    assert "-1 is too small: give at least 0, or nothing for no limit." in page.content.decode()


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_a_new_keys_secret_is_shown_once(root: Client, tenant: str | None) -> None:
    form = {**NEW_KEY, "name": "laptop", "role": "operator"}
    if tenant:
        form["tenant"] = str(quotas.tenant_create(name=tenant).pk)
    answer = root.post(url(ApiKey, "add"), form, follow=True)
    (secret,) = set(re.findall(r"nok_[\w-]{43}", answer.content.decode()))
    caller = selectors.caller_find(callers.digest(secret))
    assert caller is not None
    assert (caller.tenant, caller.role) == (tenant or "default", "operator")
    assert secret not in root.get(url(ApiKey, "changelist")).content.decode()


def test_a_secret_never_lies_in_the_database(root: Client) -> None:
    from django.contrib.admin.models import LogEntry
    from django.contrib.sessions.models import Session

    answer = root.post(url(ApiKey, "add"), {**NEW_KEY, "name": "x"}, follow=True)
    (secret,) = set(re.findall(r"nok_[\w-]{43}", answer.content.decode()))
    rows = [*LogEntry.objects.values(), *(session.get_decoded() for session in Session.objects.all())]
    assert secret not in str(rows)


def test_a_bad_expiry_is_told_and_makes_no_key(root: Client) -> None:
    form = {**NEW_KEY, "expires_at_0": "2001-01-01", "expires_at_1": "00:00:00"}
    page = root.post(url(ApiKey, "add"), form, follow=True)
    assert "past" in page.content.decode()
    assert not ApiKey.objects.exists()


def test_a_key_s_limits_and_rights_change_and_its_role_stays(root: Client) -> None:
    for name in ("one", "two"):
        Model.objects.create(name=name)
    key, _ = quotas.key_create(settings={"allowed_models": ["one"], "tokens_per_hour": 5})
    page = root.get(url(ApiKey, "change", key.pk)).content.decode()
    assert ">one</textarea>" in page.replace("\n", "")
    form = {**NEW_KEY, "role": "admin", "allowed_models": "two\r\none", "allowed_routes": "-", "tokens_per_hour": ""}
    assert root.post(url(ApiKey, "change", key.pk), form).status_code == 302
    key.refresh_from_db()
    assert (key.role, key.allowed_models, key.allowed_routes) == ("inference", ["one", "two"], [])
    assert key.tokens_per_hour is None
    for field, text, told in (("allowed_models", "tow", "two"), ("allowed_routes", "nowhere", "auto")):
        page = root.post(url(ApiKey, "change", key.pk), {**form, field: text}).content.decode()
        assert "There is no" in page
        assert told in page


def test_an_admin_s_key_is_changed_by_superusers_only(db: None) -> None:
    key, _ = quotas.key_create(role="admin")
    client = staff("change_apikey", "view_apikey", "view_tenant")
    assert client.post(url(ApiKey, "change", key.pk), NEW_KEY).status_code == 403


def test_a_key_that_is_rotated_slowly_works_for_a_day(root: Client) -> None:
    key, _ = quotas.key_create()
    root.post(url(ApiKey, "rotate_slowly", key.pk))
    key.refresh_from_db()
    assert key.revoked_at is None
    assert key.expires_at is not None
    heir = ApiKey.objects.get(rotated_from=key)
    assert heir.line == key.line
    assert f"(number {heir.pk}) has taken its place" in said(root.post(url(ApiKey, "rotate", key.pk)))[-1]


def test_a_key_is_revoked_and_rotated_and_then_nothing_of_it_changes(root: Client) -> None:
    first, _ = quotas.key_create()
    second, _ = quotas.key_create()
    answer = root.post(url(ApiKey, "rotate", first.pk), follow=True)
    assert re.search(r"nok_[\w-]{43}", answer.content.decode())
    root.post(url(ApiKey, "revoke", second.pk))
    assert ApiKey.objects.filter(revoked_at=None).count() == 1
    assert root.post(url(ApiKey, "change", first.pk), {"role": "admin"}).status_code == 403
    selected = {"action": "revoke_selected", "_selected_action": [key.pk for key in ApiKey.objects.all()]}
    root.post(url(ApiKey, "changelist"), selected)
    assert not ApiKey.objects.filter(revoked_at=None).exists()


def test_a_revoked_key_offers_neither_to_revoke_nor_to_rotate_it(root: Client) -> None:
    key, _ = quotas.key_create()
    buttons = [url(ApiKey, name, key.pk) for name in ("revoke", "rotate", "rotate_slowly")]
    pages = [url(ApiKey, "changelist"), url(ApiKey, "change", key.pk)]
    for page in pages:
        assert all(f'href="{button}"' in root.get(page).content.decode() for button in buttons)
    quotas.key_revoke(key_pk=key.pk)
    for page in pages:
        assert not any(button in root.get(page).content.decode() for button in buttons)


def test_only_a_superuser_makes_a_key_for_an_admin(db: None) -> None:
    client = staff("add_apikey", "view_apikey", "view_tenant")
    page = client.post(url(ApiKey, "add"), {**NEW_KEY, "role": "admin"})
    assert page.status_code == 200
    assert not ApiKey.objects.exists()
    client.post(url(ApiKey, "add"), {**NEW_KEY, "name": "x"})
    assert ApiKey.objects.get().role == "inference"
