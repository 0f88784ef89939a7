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
from tests.integration.web.staff import staff

pytestmark = pytest.mark.django_db


def url(model: Any, page: str, *arguments: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=arguments)


def test_a_tenant_is_added_and_stays(root: Client) -> None:
    assert root.post(url(Tenant, "add"), {"name": "acme"}).status_code == 302
    tenant = Tenant.objects.get(name="acme")
    assert root.post(url(Tenant, "delete", tenant.pk), {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_a_new_keys_secret_is_shown_once(root: Client, tenant: str | None) -> None:
    form = {"name": "laptop", "role": "operator", "expires_at_0": "", "expires_at_1": ""}
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

    answer = root.post(url(ApiKey, "add"), {"name": "x", "role": "inference"}, follow=True)
    (secret,) = set(re.findall(r"nok_[\w-]{43}", answer.content.decode()))
    rows = [*LogEntry.objects.values(), *(session.get_decoded() for session in Session.objects.all())]
    assert secret not in str(rows)


def test_a_bad_expiry_is_told_and_makes_no_key(root: Client) -> None:
    form = {"name": "x", "role": "inference", "expires_at_0": "2001-01-01", "expires_at_1": "00:00:00"}
    page = root.post(url(ApiKey, "add"), form, follow=True)
    assert "past" in page.content.decode()
    assert not ApiKey.objects.exists()


def test_a_key_is_revoked_rotated_and_never_edited(root: Client) -> None:
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


def test_only_a_superuser_makes_a_key_for_an_admin(db: None) -> None:
    client = staff("add_apikey", "view_apikey", "view_tenant")
    page = client.post(url(ApiKey, "add"), {"name": "x", "role": "admin"})
    assert page.status_code == 200
    assert not ApiKey.objects.exists()
    client.post(url(ApiKey, "add"), {"name": "x", "role": "inference"})
    assert ApiKey.objects.get().role == "inference"
