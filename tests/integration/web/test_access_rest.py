"""Tenants and API keys over REST, as an admin."""

import time

import pytest
from rest_framework.test import APIClient

from quotas import callers
from quotas.access import selectors

pytestmark = pytest.mark.django_db


def test_a_tenant_is_created_once(admin: APIClient) -> None:
    response = admin.post("/api/v1/tenants", {"name": "acme"}, format="json")
    assert response.status_code == 201
    assert response.json()["active_keys"] == 0
    assert admin.post("/api/v1/tenants", {"name": "acme"}, format="json").status_code == 409
    assert admin.get("/api/v1/tenants/acme").json()["name"] == "acme"
    assert admin.get("/api/v1/tenants/nobody").status_code == 404


def test_a_key_shows_its_secret_when_it_is_made_and_never_again(admin: APIClient) -> None:
    admin.post("/api/v1/tenants", {"name": "acme"}, format="json")
    made = admin.post("/api/v1/keys", {"tenant": "acme", "name": "ci", "role": "operator"}, format="json")
    assert made.status_code == 201
    assert made["Cache-Control"] == "no-store"
    secret = made.json()["secret"]
    assert selectors.caller_find(callers.digest(secret)) is not None
    for path in ("/api/v1/keys", f"/api/v1/keys/{made.json()['id']}"):
        assert secret not in admin.get(path).content.decode()
        assert callers.digest(secret) not in admin.get(path).content.decode()


def test_a_revoked_key_lets_nobody_in(admin: APIClient, keys_required: None) -> None:
    made = admin.post("/api/v1/keys", {"role": "operator"}, format="json").json()
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {made['secret']}")
    assert client.get("/api/v1/models").status_code == 200
    assert admin.post(f"/api/v1/keys/{made['id']}/revoke").json()["revoked_at"] is not None
    assert client.get("/api/v1/models").status_code == 401


def test_rotation_revokes_the_old_secret_and_shows_a_new_one(admin: APIClient) -> None:
    old = admin.post("/api/v1/keys", {}, format="json").json()
    new = admin.post(f"/api/v1/keys/{old['id']}/rotate")
    assert new.status_code == 201
    assert selectors.caller_find(callers.digest(old["secret"])) is None
    assert selectors.caller_find(callers.digest(new.json()["secret"])) is not None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"role": "root"}, "role"),
        ({"tenant": "nobody"}, "tenant"),
        ({"expires_at": "yesterday"}, "expires_at"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": 5}, "expires_at"),
        ({"name": "a\nb"}, "name"),
        ({"digest": "0" * 64}, "digest"),
    ],
)
def test_a_bad_key_is_refused_naming_the_field(admin: APIClient, body: dict[str, object], param: str) -> None:
    response = admin.post("/api/v1/keys", body, format="json")
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("path", ["/api/v1/keys/999999", "/api/v1/keys/99999999999999999999999"])
def test_an_unknown_key_is_404(admin: APIClient, path: str) -> None:
    assert admin.get(path).status_code == 404
    assert admin.post(f"{path}/revoke").status_code == 404
    assert admin.post(f"{path}/rotate").status_code == 404


def test_a_key_s_limits_are_changed_in_part(admin: APIClient) -> None:
    body = {"tokens_per_hour": 100, "requests_per_minute": 6, "max_priority": 8, "allowed_routes": ["auto"]}
    made = admin.post("/api/v1/keys", body, format="json").json()
    assert {name: made[name] for name in body} == body
    changed = admin.patch(f"/api/v1/keys/{made['id']}", {"tokens_per_hour": None}, format="json").json()
    assert (changed["tokens_per_hour"], changed["requests_per_minute"], changed["last_used_at"]) == (None, 6, None)
    assert "secret" not in changed


def test_a_tenant_s_share_and_limits_are_changed_in_part(admin: APIClient) -> None:
    admin.post("/api/v1/tenants", {"name": "acme", "weight": 2, "tokens_per_month": 10}, format="json")
    changed = admin.patch("/api/v1/tenants/acme", {"tokens_per_month": 20}, format="json").json()
    assert (changed["weight"], changed["tokens_per_month"], changed["tokens_per_day"]) == (2.0, 20, None)
    assert admin.patch("/api/v1/tenants/nobody", {}, format="json").status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tokens_per_hour": -1}, "tokens_per_hour"),
        ({"tokens_per_hour": 2**53 + 1}, "tokens_per_hour"),
        ({"tokens_per_hour": "5"}, "tokens_per_hour"),
        ({"tokens_per_hour": 1.5}, "tokens_per_hour"),
        ({"requests_per_minute": True}, "requests_per_minute"),
        ({"max_concurrent_requests": -3}, "max_concurrent_requests"),
        ({"max_priority": 11}, "max_priority"),
        ({"max_priority": None}, "max_priority"),
        ({"allowed_models": "one"}, "allowed_models"),
        ({"allowed_models": ["nope"]}, "allowed_models"),
        ({"allowed_routes": ["nope"]}, "allowed_routes"),
        ({"role": "admin"}, "role"),
        ({"tenant": "other"}, "tenant"),
        ({"tokens_per_century": 1}, "tokens_per_century"),
    ],
)
def test_a_bad_change_of_a_key_is_refused_naming_the_field(
    admin: APIClient, body: dict[str, object], param: str
) -> None:
    key = admin.post("/api/v1/keys", {}, format="json").json()
    response = admin.patch(f"/api/v1/keys/{key['id']}", body, format="json")
    assert response.status_code == 400, response.json()
    assert response.json()["error"]["param"].partition(".")[0] == param


@pytest.mark.parametrize("weight", [0, -1, 1001, "2", None])
def test_a_weight_has_its_bounds(admin: APIClient, weight: object) -> None:
    response = admin.post("/api/v1/tenants", {"name": "acme", "weight": weight}, format="json")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "weight")


def test_a_rotated_key_works_beside_the_new_one_for_a_while(admin: APIClient) -> None:
    old = admin.post("/api/v1/keys", {}, format="json").json()
    new = admin.post(f"/api/v1/keys/{old['id']}/rotate", {"overlap_seconds": 60}, format="json").json()
    for key in (old, new):
        caller = selectors.caller_find(callers.digest(key["secret"]))
        assert caller is not None and not caller.expired(time.time())
    assert new["rotated_from"] == old["id"]
    again = admin.post(f"/api/v1/keys/{old['id']}/rotate")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "already_rotated")
    assert f"{new['prefix']}… (number {new['id']})" in again.json()["error"]["message"]
    bad = admin.post(f"/api/v1/keys/{new['id']}/rotate", {"overlap_seconds": 31 * 86_400}, format="json")
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "overlap_seconds")
