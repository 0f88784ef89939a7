"""The admin as operators use it: every page, every button."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin as django_admin
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from quotas.access import services as quotas
from quotas.models import ApiKey, Emergency, LimitedModel, Tenant, Usage
from registry import services
from registry.backends import services as backends
from registry.cache import services as cache
from registry.models import (
    CacheRevision,
    HealthTransition,
    Model,
    Node,
    RemoteBackend,
    Replica,
    SharedPrompt,
    Version,
)
from routing import services as routing
from routing.models import RoutingRevision
from tests.gguf_files import write_model
from tests.integration.web.staff import said, staff

pytestmark = pytest.mark.django_db

LISTS = [
    Model, Version, RemoteBackend, Replica, Node, RoutingRevision, CacheRevision, SharedPrompt, Tenant, ApiKey,
    LimitedModel, Emergency, Usage, HealthTransition, User, Group,
]  # fmt: skip


@pytest.fixture
def furnished(models: Path) -> None:
    """At least one row in every list; one of each state that has a colour of its own."""
    tiny = Model.objects.get(name="tiny")
    other = Model.objects.get(name="org/other:F32")
    assert tiny.promoted_id is not None
    assert other.promoted_id is not None
    services.model_set_default(name="tiny")
    services.replica_observe(node="node-1", version_pk=tiny.promoted_id, observed="ready", pid=4)
    services.replica_observe(node="node-1", version_pk=other.promoted_id, observed="failed", reason="out of memory")
    services.usage_add(counts={"tiny": 1247})
    Version.objects.filter(pk=other.promoted_id).update(health="degraded", health_reason="slow")
    Node.objects.create(name="gone")
    quotas.tenant_create(name="acme")
    quotas.key_create(tenant="acme", name="ci", role="admin")
    Usage.objects.create(period="hour", starts_at=timezone.now(), tenant="acme", model="tiny", requests=3)
    Group.objects.create(name="night shift")
    cache.cache_allocation_update(changes={"global_cache_ram_gb": 2, "model_priorities": {"tiny": 7}}, author="root")
    routing.routing_update(changes={"strategy": "round_robin", "fallback_models": ["tiny"]}, author="root")
    backends.backend_register(name="away", url="https://127.0.0.1:9/v1", model="theirs", api_key="sk-1")
    cache.shared_prompt_create(name="support", text="You help. " * 50)


def url(model: Any, page: str, *arguments: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=arguments)


# --- Pages -----------------------------------------------------------------------------------------------------------


def test_the_lists_above_are_all_there_are() -> None:
    assert set(LISTS) == set(django_admin.site._registry)


@pytest.mark.parametrize("model", LISTS)
def test_an_empty_list_renders_and_says_what_to_do(root: Client, model: Any) -> None:
    page = root.get(url(model, "changelist"))
    assert page.status_code == 200
    if hint := getattr(django_admin.site.get_model_admin(model), "empty_hint", ""):
        assert hint in page.content.decode()


@pytest.mark.parametrize("model", LISTS)
def test_a_list_with_rows_renders_and_can_be_searched_and_filtered(root: Client, furnished: None, model: Any) -> None:
    assert root.get(url(model, "changelist")).status_code == 200
    assert root.get(url(model, "changelist"), {"q": "tiny ready"}).status_code == 200
    for position, _ in enumerate(django_admin.site.get_model_admin(model).list_display, start=1):
        assert root.get(url(model, "changelist"), {"o": f"-{position}"}).status_code == 200


@pytest.mark.parametrize("model", LISTS)
def test_every_row_has_a_page(root: Client, furnished: None, model: Any) -> None:
    for row in model.objects.all():
        assert root.get(url(model, "change", row.pk)).status_code == 200
        assert root.get(url(model, "history", row.pk)).status_code == 200


@pytest.mark.parametrize(
    "model", [RoutingRevision, CacheRevision, SharedPrompt, RemoteBackend, Tenant, ApiKey, User, Group]
)
def test_what_can_be_added_has_a_form(root: Client, model: Any) -> None:
    assert root.get(url(model, "add")).status_code == 200


@pytest.mark.parametrize("model", [Model, Version, Replica, Node, Usage, HealthTransition])
def test_what_comes_by_itself_can_not_be_added_by_hand(root: Client, model: Any) -> None:
    assert root.get(url(model, "add")).status_code == 403


def test_the_overview_counts_and_names_what_needs_attention(root: Client, furnished: None) -> None:
    page = root.get("/admin/").content.decode()
    assert "1,247" in page
    assert "out of memory" in page
    assert "gone" in page


def test_the_overview_of_an_empty_installation_is_calm(root: Client) -> None:
    assert "works as it should" in root.get("/admin/").content.decode()


def test_the_list_of_models_asks_the_database_a_fixed_number_of_times(
    root: Client, furnished: None, django_assert_max_num_queries: Any
) -> None:
    for number in range(20):
        Model.objects.create(name=f"m{number}")
    with django_assert_max_num_queries(12):
        assert root.get(url(Model, "changelist")).status_code == 200


def test_the_login_page_is_ours(client: Client) -> None:
    page = client.get("/admin/login/").content.decode()
    assert "nOpenAI Server" in page
    assert "changepassword" in page


def test_who_is_not_signed_in_is_sent_to_the_login(client: Client) -> None:
    assert client.get("/admin/registry/model/").headers["Location"].startswith("/admin/login/")


def test_signing_in_with_a_password_works(root: Client) -> None:
    user = User.objects.get(username="root")
    user.set_password("correct horse")
    user.save()
    client = Client()
    answer = client.post("/admin/login/?next=/admin/", {"username": "root", "password": "correct horse"})
    assert answer.headers["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200


def test_every_static_file_that_a_page_names_is_served(root: Client) -> None:
    named = set(re.findall(r'(?:src|href)="(/static/[^"?]+)', root.get("/admin/").content.decode()))
    assert len(named) > 5
    for path in [*named, "/static/nopenai/post-actions.js"]:
        assert root.get(path).status_code == 200, path


# --- Models ----------------------------------------------------------------------------------------------------------


def test_a_model_is_edited_through_the_service(root: Client, models: Path) -> None:
    pk = Model.objects.get(name="tiny").pk
    form = {"display_name": "Klein", "preload": "on", "replicas": "2", "extra_capabilities": "legal, arabic_nlp"}
    answer = root.post(url(Model, "change", pk), form | management_form())
    assert answer.status_code == 302
    model = Model.objects.get(pk=pk)
    assert (model.display_name, model.preload, model.enabled) == ("Klein", True, False)
    assert model.extra_capabilities == ["arabic_nlp", "legal"]


def test_a_capability_that_is_no_word_is_an_error_of_its_field(root: Client, models: Path) -> None:
    pk = Model.objects.get(name="tiny").pk
    page = root.post(url(Model, "change", pk), {"extra_capabilities": "Not!"} | management_form())
    assert page.status_code == 200
    assert "not a capability" in page.content.decode()


def management_form() -> dict[str, str]:
    counts = ("TOTAL_FORMS", "INITIAL_FORMS")
    return {f"{inline}-{count}": "0" for inline in ("versions", "schedules") for count in counts}


@pytest.mark.parametrize(
    ("button", "desired"), [("load", Replica.Desired.RUNNING), ("unload", Replica.Desired.STOPPED)]
)
def test_load_and_unload_are_buttons_of_a_model(root: Client, models: Path, button: str, desired: str) -> None:
    answer = root.post(url(Model, button, Model.objects.get(name="tiny").pk))
    assert answer.status_code == 302
    assert "tiny" in said(answer)[0]
    assert Replica.objects.get().desired == desired


def test_set_default_is_a_button_of_a_model(root: Client, models: Path) -> None:
    root.post(url(Model, "set_default", Model.objects.get(name="org/other:F32").pk))
    assert Model.objects.get(is_default=True).name == "org/other:F32"


def test_scan_now_tells_what_is_new(root: Client, models: Path) -> None:
    write_model(models / "late.gguf", name="Late", seed=5)
    assert "New: late" in said(root.post(url(Model, "scan_now")))[0]
    assert Model.objects.filter(name="late").exists()


@pytest.mark.parametrize("button", ["scan_now", "load", "set_default"])
def test_the_address_of_a_button_alone_does_nothing(root: Client, models: Path, button: str) -> None:
    pk = Model.objects.get(name="org/other:F32").pk
    before = (Model.objects.filter(is_default=True).first(), Model.objects.count(), Replica.objects.count())
    answer = root.get(url(Model, button, *(() if button == "scan_now" else (pk,))))
    assert answer.status_code == 302
    assert (Model.objects.filter(is_default=True).first(), Model.objects.count(), Replica.objects.count()) == before


def test_a_button_needs_the_csrf_token(models: Path) -> None:
    client = Client(enforce_csrf_checks=True, headers={"Accept": "text/html"})
    client.force_login(User.objects.create_superuser("careful"))
    answer = client.post(url(Model, "load", Model.objects.get(name="tiny").pk))
    assert answer.status_code == 403
    assert "reload the page" in answer.content.decode()
    assert not Replica.objects.exists()


@pytest.mark.parametrize(
    ("action", "holds"),
    [
        ("enable_selected", lambda: Model.objects.filter(enabled=True).count() == 2),
        ("disable_selected", lambda: Model.objects.filter(enabled=False).count() == 2),
        ("load_selected", lambda: Replica.objects.filter(desired="running").count() == 2),
        ("unload_selected", lambda: Replica.objects.filter(desired="stopped").count() == 2),
    ],
)
def test_actions_on_several_models(root: Client, models: Path, action: str, holds: Callable[[], bool]) -> None:
    selected = list(
        Model.objects.filter(alias_of=None, name__in=["tiny", "org/other:F32"]).values_list("pk", flat=True)
    )
    answer = root.post(url(Model, "changelist"), {"action": action, "_selected_action": selected})
    assert answer.status_code == 302
    assert said(answer)[0].startswith("2 ")
    assert holds()


def test_a_refusal_stops_no_other_and_is_told(root: Client, models: Path) -> None:
    Model.objects.create(name="empty")
    selected = list(Model.objects.filter(name__in=["empty", "tiny"]).values_list("pk", flat=True))
    answer = root.post(url(Model, "changelist"), {"action": "load_selected", "_selected_action": selected})
    told = said(answer)
    assert any("'empty' has no promoted version" in message for message in told)
    assert any(message.startswith("1 to be loaded") for message in told)


def test_the_register_dialog_registers(root: Client, models: Path) -> None:
    assert "dialog-form" in root.get(url(Model, "register_model")).content.decode()
    write_model(models / "extra" / "model.gguf", name="Extra", seed=6)
    form = {"id": "extra", "version": "3.0.0", "path": str(models / "extra"), "_form_submitted": "on"}
    answer = root.post(url(Model, "register_model"), form)
    assert answer.headers["HX-Redirect"] == url(Model, "change", Model.objects.get(name="extra").pk)


def test_the_register_dialog_shows_a_refusal_at_its_field(root: Client, models: Path) -> None:
    form = {"id": "extra", "version": "1.0.0", "path": "/etc/passwd", "_form_submitted": "on"}
    page = root.post(url(Model, "register_model"), form)
    assert page.status_code == 200
    assert "errornote" in page.content.decode() or "models director" in page.content.decode()
    assert not Model.objects.filter(name="extra").exists()


def test_a_vanished_model_can_be_forgotten_and_a_present_one_not(root: Client, models: Path) -> None:
    tiny, other = Model.objects.get(name="tiny"), Model.objects.get(name="org/other:F32")
    (models / "tiny.gguf").unlink()
    root.post(url(Model, "scan_now"))
    assert root.post(url(Model, "delete", tiny.pk), {"post": "yes"}).status_code == 302
    assert not Model.objects.filter(pk=tiny.pk).exists()
    assert root.post(url(Model, "delete", other.pk), {"post": "yes"}).status_code == 403


# --- Versions, replicas ----------------------------------------------------------------------------------------------


def test_promote_is_a_button_of_a_version(root: Client, models: Path) -> None:
    write_model(models / "v2" / "model.gguf", name="Tiny", seed=7)
    version = services.model_register(name="tiny", version="2.0.0", path=str(models / "v2"), models_dirs=(models,))
    root.post(url(Version, "promote", version.pk))
    promoted = Model.objects.select_related("promoted").get(name="tiny").promoted
    assert promoted is not None
    assert promoted.number == "2.0.0"


def test_promote_is_an_action_on_versions(root: Client, models: Path) -> None:
    pk = Model.objects.get(name="tiny").promoted_id
    answer = root.post(url(Version, "changelist"), {"action": "promote_selected", "_selected_action": [pk]})
    assert said(answer) == ["1 promoted."]


@pytest.mark.parametrize(("button", "desired"), [("run", "running"), ("release", "on_demand"), ("stop", "stopped")])
def test_a_replica_is_kept_released_or_stopped(root: Client, furnished: None, button: str, desired: str) -> None:
    replica = Replica.objects.get(version__model__name="tiny")
    root.post(url(Replica, button, replica.pk))
    replica.refresh_from_db()
    assert replica.desired == desired
    selected = {"action": f"{button}_selected", "_selected_action": [replica.pk]}
    assert said(root.post(url(Replica, "changelist"), selected))[-1].startswith("1 ")


# --- Permissions -----------------------------------------------------------------------------------------------------


def test_who_may_only_look_sees_no_button_and_can_press_none(furnished: None) -> None:
    client = staff("view_model", "view_version", "view_replica", "view_apikey")
    model, version = Model.objects.get(name="tiny"), Version.objects.first()
    replica, key = Replica.objects.first(), ApiKey.objects.get()
    assert version is not None
    assert replica is not None
    assert "Scan now" not in client.get(url(Model, "changelist")).content.decode()
    for page in (
        url(Model, "scan_now"), url(Model, "register_model"), url(Model, "load", model.pk),
        url(Version, "promote", version.pk), url(Replica, "stop", replica.pk),
        url(ApiKey, "revoke", key.pk), url(ApiKey, "rotate", key.pk),
    ):  # fmt: skip
        assert client.post(page).status_code == 403, page


def test_the_sidebar_shows_only_what_one_may_see(furnished: None) -> None:
    page = staff("view_model").get("/admin/registry/model/").content.decode()
    assert "/admin/registry/model/" in page
    assert "/admin/quotas/apikey/" not in page


def test_who_may_edit_users_can_not_make_themselves_mightier(db: None) -> None:
    client = staff("change_user", "view_user")
    user = User.objects.get(username="staff")
    root = User.objects.create_superuser("root")
    client.post(url(User, "change", user.pk), {"username": "staff", "is_active": "on", "is_superuser": "on"})
    user.refresh_from_db()
    assert not user.is_superuser
    assert client.post(url(User, "change", root.pk), {"username": "mine"}).status_code == 403
    password = {"password1": "long enough 1", "password2": "long enough 1"}
    assert client.post(reverse("admin:auth_user_password_change", args=[root.pk]), password).status_code == 403


# --- Words -----------------------------------------------------------------------------------------------------------


def test_ids_stay_as_they_are_written_in_the_breadcrumbs(root: Client, furnished: None) -> None:
    page = root.get(url(Model, "change", Model.objects.get(name="tiny").pk)).content.decode()
    assert re.search(r"truncate tracking-tight\">\s*tiny\s*</a>", page)
    assert re.search(r"truncate tracking-tight\">\s*Models\s*</a>", page)


def test_a_wrong_login_says_so_once(db: None) -> None:
    page = Client().post("/admin/login/", {"username": "nobody", "password": "wrong"}).content.decode()
    assert page.count("errornote") == 1
    assert "Please enter the correct" in page


def test_times_have_their_zone(root: Client, furnished: None) -> None:
    page = root.get(url(Node, "change", Node.objects.get(name="node-1").pk)).content.decode()
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", page)


def test_the_state_of_a_file_is_written_alike_for_all(root: Client, furnished: None) -> None:
    Version.objects.filter(model__name="tiny").update(file_state="missing", health="unhealthy")
    page = root.get(url(Version, "changelist")).content.decode()
    assert "Vanished" in page and "Present" in page
