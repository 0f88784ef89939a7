"""Who may do what: every endpoint times everybody who could come."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from rest_framework.test import APIClient

from quotas.models import ApiKey

pytestmark = pytest.mark.usefixtures("models")

OPERATORS = [
    ("POST", "/v1/models/register"),
    ("POST", "/v1/models/default"),
    ("POST", "/api/v1/scan"),
    ("GET", "/api/v1/models"),
    ("GET", "/api/v1/models/tiny"),
    ("PATCH", "/api/v1/models/tiny"),
    ("GET", "/api/v1/models/tiny/versions"),
    ("GET", "/api/v1/models/tiny/versions/1.0.0"),
    ("PATCH", "/api/v1/models/tiny/versions/1.0.0"),
    ("DELETE", "/api/v1/models/tiny/versions/1.0.0/tunings"),
    ("GET", "/api/v1/models/tiny/health"),
    ("POST", "/health/check"),
    ("GET", "/api/v1/models/tiny/fit"),
    ("GET", "/api/v1/models/tiny/schedules"),
    ("POST", "/api/v1/models/tiny/schedules"),
    ("DELETE", "/api/v1/models/tiny/schedules/1"),
    ("POST", "/api/v1/models/tiny/promote"),
    ("GET", "/api/v1/backends"),
    ("POST", "/api/v1/backends"),
    ("GET", "/api/v1/models/tiny/versions/1.0.0/backend"),
    ("PATCH", "/api/v1/models/tiny/versions/1.0.0/backend"),
    ("DELETE", "/api/v1/models/tiny/versions/1.0.0/backend"),
    ("POST", "/api/v1/models/tiny/load"),
    ("POST", "/api/v1/models/tiny/unload"),
    ("GET", "/api/v1/nodes"),
    ("GET", "/api/v1/nodes/node-1"),
    ("PATCH", "/api/v1/nodes/node-1"),
    ("DELETE", "/api/v1/nodes/node-1"),
    ("GET", "/api/v1/replicas"),
    *(
        (method, before + path)
        for before in ("", "/api/v1")
        for method, path in (
            ("GET", "/routing/config"),
            ("POST", "/routing/config"),
            ("GET", "/routing/config/revisions"),
            ("GET", "/routing/config/revisions/0"),
            ("POST", "/routing/config/revisions/0/restore"),
            ("POST", "/routing/rollout/restart"),
        )
    ),
    ("GET", "/cache/allocation"),
    ("POST", "/cache/allocation"),
    ("GET", "/cache/allocation/revisions"),
    ("GET", "/cache/allocation/revisions/0"),
    ("POST", "/cache/allocation/revisions/0/restore"),
    ("GET", "/api/v1/cache/allocation"),
    ("POST", "/api/v1/cache/allocation"),
    ("GET", "/api/v1/cache/allocation/revisions"),
    ("GET", "/api/v1/cache/allocation/revisions/0"),
    ("POST", "/api/v1/cache/allocation/revisions/0/restore"),
    *(
        (method, before + path)
        for before in ("", "/api/v1")
        for method, path in (
            ("GET", "/quotas/tiny"),
            ("POST", "/quotas/tiny"),
            ("DELETE", "/quotas/tiny"),
            ("GET", "/quotas/tiny/report"),
            ("GET", "/quotas/tiny/revisions"),
            ("POST", "/quotas/tiny/revisions/1/restore"),
        )
    ),
    ("GET", "/api/v1/shared-prompts"),
    ("POST", "/api/v1/shared-prompts"),
    ("GET", "/api/v1/shared-prompts/support"),
    ("PATCH", "/api/v1/shared-prompts/support"),
    ("DELETE", "/api/v1/shared-prompts/support"),
    ("GET", "/api/v1/usage"),
    ("GET", "/api/v1/emergency"),
    ("POST", "/api/v1/emergency"),
]
ADMINS = [
    ("GET", "/api/v1/tenants"),
    ("POST", "/api/v1/tenants"),
    ("GET", "/api/v1/tenants/default"),
    ("PATCH", "/api/v1/tenants/default"),
    ("POST", "/api/v1/tenants/default/erase-cache"),
    ("POST", "/api/v1/shared-cache/erase"),
    ("GET", "/api/v1/keys"),
    ("POST", "/api/v1/keys"),
    ("GET", "/api/v1/keys/1"),
    ("PATCH", "/api/v1/keys/1"),
    ("POST", "/api/v1/keys/1/revoke"),
    ("POST", "/api/v1/keys/1/rotate"),
]
EVERYBODY = ["/", "/favicon.ico", "/api/schema", "/api/docs"]

Caller = Callable[[str], APIClient]


def status(client: APIClient, method: str, path: str) -> int:
    response = client.generic(method, path, "" if method == "GET" else "{}", content_type="application/json")
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    return int(response.status_code)


@pytest.mark.parametrize("who", ["outsider", "impostor"])
@pytest.mark.parametrize(("method", "path"), OPERATORS + ADMINS)
def test_nobody_without_a_valid_key_gets_in(
    caller: Caller, keys_required: None, who: str, method: str, path: str
) -> None:
    assert status(caller(who), method, path) == 401


@pytest.mark.parametrize(("method", "path"), OPERATORS + ADMINS)
def test_a_member_who_may_infer_may_not_configure(caller: Caller, keys_required: None, method: str, path: str) -> None:
    assert status(caller("inference"), method, path) == 403


@pytest.mark.parametrize(("method", "path"), OPERATORS)
@pytest.mark.parametrize("role", ["operator", "admin"])
def test_operators_and_admins_operate(caller: Caller, keys_required: None, role: str, method: str, path: str) -> None:
    assert status(caller(role), method, path) not in (401, 403, 500)


@pytest.mark.parametrize(("method", "path"), ADMINS)
def test_an_operator_may_not_hand_out_access(caller: Caller, keys_required: None, method: str, path: str) -> None:
    assert status(caller("operator"), method, path) == 403


@pytest.mark.parametrize(("method", "path"), ADMINS)
def test_an_admin_hands_out_access(caller: Caller, keys_required: None, method: str, path: str) -> None:
    assert status(caller("admin"), method, path) not in (401, 403, 500)


@pytest.mark.parametrize(("method", "path"), OPERATORS)
def test_where_no_key_is_required_anybody_on_this_machine_operates(
    caller: Caller, keys_not_required: None, method: str, path: str
) -> None:
    assert status(caller("outsider"), method, path) not in (401, 403, 500)


@pytest.mark.parametrize(("method", "path"), ADMINS)
def test_where_no_key_is_required_handing_out_access_still_needs_an_admin(
    caller: Caller, keys_not_required: None, method: str, path: str
) -> None:
    assert status(caller("outsider"), method, path) == 403


@pytest.mark.parametrize("path", EVERYBODY)
def test_what_describes_the_product_is_open(caller: Caller, keys_required: None, path: str) -> None:
    assert caller("outsider").get(path).status_code in (200, 302)


def test_the_matrix_above_knows_every_endpoint() -> None:
    assert set(_paths(get_resolver().url_patterns)) == {
        "", "favicon.ico", "api/schema", "api/docs",
        "v1/models/register", "v1/models/default", "api/v1/scan", "api/v1/models", "api/v1/models/<name:name>",
        "api/v1/models/<name:name>/versions", "api/v1/models/<name:name>/versions/<str:number>",
        "api/v1/models/<name:name>/versions/<str:number>/tunings",
        "api/v1/models/<name:name>/health", "health/check",
        "api/v1/models/<name:name>/fit",
        "api/v1/models/<name:name>/schedules", "api/v1/models/<name:name>/schedules/<int:key>",
        "api/v1/models/<name:name>/promote", "api/v1/models/<name:name>/load", "api/v1/models/<name:name>/unload",
        "api/v1/nodes", "api/v1/nodes/<name:name>", "api/v1/replicas",
        "cache/allocation", "cache/allocation/revisions", "cache/allocation/revisions/<int:number>",
        "cache/allocation/revisions/<int:number>/restore",
        "api/v1/cache/allocation", "api/v1/cache/allocation/revisions",
        "api/v1/cache/allocation/revisions/<int:number>", "api/v1/cache/allocation/revisions/<int:number>/restore",
        "routing/config", "routing/config/revisions", "routing/config/revisions/<int:number>",
        "routing/config/revisions/<int:number>/restore", "routing/rollout/restart", "api/v1/routing/rollout/restart",
        "api/v1/routing/config", "api/v1/routing/config/revisions", "api/v1/routing/config/revisions/<int:number>",
        "api/v1/routing/config/revisions/<int:number>/restore",
        "quotas/<name:name>", "quotas/<name:name>/report", "quotas/<name:name>/revisions",
        "quotas/<name:name>/revisions/<int:number>/restore",
        "api/v1/quotas/<name:name>", "api/v1/quotas/<name:name>/report", "api/v1/quotas/<name:name>/revisions",
        "api/v1/quotas/<name:name>/revisions/<int:number>/restore",
        "api/v1/shared-prompts", "api/v1/shared-prompts/<name:name>", "api/v1/shared-cache/erase",
        "api/v1/backends", "api/v1/models/<name:name>/versions/<str:number>/backend",
        "api/v1/tenants", "api/v1/tenants/<name:name>", "api/v1/tenants/<name:name>/erase-cache",
        "api/v1/keys", "api/v1/keys/<int:pk>", "api/v1/keys/<int:pk>/revoke", "api/v1/keys/<int:pk>/rotate",
        "api/v1/usage", "api/v1/usage/mine", "api/v1/emergency",
    }  # fmt: skip


def _paths(patterns: list[URLPattern | URLResolver], before: str = "") -> list[str]:
    """All paths but the admin's, which has tests of its own."""
    paths: list[str] = []
    for pattern in patterns:
        here = before + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            paths.append(here)
        elif not here.startswith("admin/"):
            paths += _paths(pattern.url_patterns, here)
    return paths


# --- Keys ------------------------------------------------------------------------------------------------------------


def test_a_401_says_how_to_come_back(caller: Caller, keys_required: None) -> None:
    response = caller("outsider").get("/api/v1/models")
    assert response["WWW-Authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert "keys create" in response.json()["error"]["message"]


def test_an_expired_key_is_told_so(caller: Caller, keys_required: None) -> None:
    client = caller("operator")
    ApiKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    response = client.get("/api/v1/models")
    assert response.status_code == 401
    assert "expired" in response.json()["error"]["message"]


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "bearer nok_x", "Bearer nok_x y", "Bearer \u00e9"])
def test_a_mangled_key_is_401_also_where_none_is_required(keys_not_required: None, header: str) -> None:
    assert APIClient().get("/api/v1/models", HTTP_AUTHORIZATION=header).status_code == 401


def test_an_inference_key_is_no_operator_where_none_is_required(caller: Caller, keys_not_required: None) -> None:
    assert caller("inference").get("/api/v1/models").status_code == 403


# --- The admin's session ---------------------------------------------------------------------------------------------


def signed_in(user: User, *, csrf: bool = False) -> Client:
    client = Client(enforce_csrf_checks=csrf)
    client.force_login(user)
    return client


def test_a_superusers_session_is_an_admin(keys_required: None) -> None:
    client = signed_in(User.objects.create_superuser("root"))
    assert client.get("/api/v1/keys").status_code == 200


def test_staff_who_may_change_models_and_replicas_are_operators(keys_required: None) -> None:
    user = User.objects.create_user("op", is_staff=True)
    assert signed_in(user).get("/api/v1/models").status_code == 403
    user.user_permissions.set(Permission.objects.filter(codename__in=["change_model", "change_replica"]))
    assert signed_in(user).get("/api/v1/models").status_code == 200
    assert signed_in(user).get("/api/v1/keys").status_code == 403


def test_a_user_who_is_not_staff_is_nobody_here(keys_required: None) -> None:
    assert signed_in(User.objects.create_user("visitor")).get("/api/v1/models").status_code == 401


def test_a_session_writes_only_with_its_csrf_token(keys_not_required: None) -> None:
    client = signed_in(User.objects.create_superuser("root"), csrf=True)
    response = client.post("/v1/models/default", {"model_id": "tiny"}, content_type="application/json")
    assert response.status_code == 403
    assert "CSRF" in response.json()["error"]["message"]


# --- Web pages that a loopback operator visits -----------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000"])
def test_another_pages_script_can_not_drive_a_server_without_keys(keys_not_required: None, origin: str) -> None:
    response = APIClient().post("/api/v1/scan", HTTP_ORIGIN=origin, HTTP_HOST="localhost:8080")
    assert response.status_code == 403
    assert origin in response.json()["error"]["message"]


def test_our_own_page_can(keys_not_required: None) -> None:
    client = APIClient()
    response = client.post("/api/v1/scan", HTTP_ORIGIN="http://localhost:8080", HTTP_HOST="localhost:8080")
    assert response.status_code == 200


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_form_can_not_even_without_a_body_or_an_origin(keys_not_required: None, media_type: str) -> None:
    for body in ("", "{}"):
        response = APIClient().generic("POST", "/api/v1/scan", body, content_type=media_type)
        assert response.status_code == 415


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "10.0.0.1", "localhost.evil.example"])
def test_another_name_for_this_machine_is_refused_where_no_key_is_required(keys_not_required: None, host: str) -> None:
    for path in ("/api/v1/models", "/admin/login/", "/", "/nosuch"):
        response = APIClient().get(path, HTTP_HOST=host)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080"])
def test_every_loopback_name_is_served(keys_not_required: None, host: str) -> None:
    assert APIClient().get("/api/v1/models", HTTP_HOST=host).status_code == 200


def test_any_name_is_served_where_keys_are_required(operator: APIClient, keys_required: None) -> None:
    assert operator.get("/api/v1/models", HTTP_HOST="llm.example.org").status_code == 200
