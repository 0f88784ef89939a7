"""The cache's pages: the form that divides it, its history, shared prompts, and the button that erases."""

import pytest
from django.test import Client
from django.urls import reverse

from quotas.access import selectors as quotas
from registry.admin import cache
from registry.cache import selectors, services
from registry.models import CacheRevision, SharedPrompt
from tests.integration.web.staff import said, staff

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("models")]

REVISIONS = "admin:registry_cacherevision"
PROMPTS = "admin:registry_sharedprompt"

FORM = {
    "allocation_strategy": "priority_based",
    "global_eviction_policy": "lfu",
    "global_cache_size_gb": "10",
    "model_priorities": "tiny 9\norg/other:F32 = 0\n",
    "max_ram_mb": "512",
    "comment": "tiny matters",
}


# --- Dividing --------------------------------------------------------------------------------------------------------


def test_the_form_makes_a_revision_and_divides_anew(root: Client) -> None:
    services.cache_allocation_update(changes={"per_model_quota": {"hourly_token_limit": 7}}, author="ada")
    assert root.post(reverse(f"{REVISIONS}_add"), FORM).status_code == 302
    row = CacheRevision.objects.first()
    assert row is not None
    config = selectors.config_value(row)
    assert (row.number, row.author, row.comment) == (2, "root", "tiny matters")
    assert config.model_priorities == {"tiny": 9, "org/other:F32": 0}
    assert config.global_cache_size_gb == 10
    assert (config.per_model_quota.max_ram_mb, config.per_model_quota.hourly_token_limit) == (512, 7)
    shares = selectors.cache_shares_load(node="node-1")
    assert shares["tiny"].ram_bytes > shares["org/other:F32"].ram_bytes


def test_the_form_begins_with_what_is_in_force(root: Client) -> None:
    root.post(reverse(f"{REVISIONS}_add"), FORM)
    form = root.get(reverse(f"{REVISIONS}_add")).context["adminform"].form
    assert form.initial["allocation_strategy"] == "priority_based"
    assert form.initial["model_priorities"] == "org/other:F32 0\ntiny 9"


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"global_cache_ram_gb": "20"}, "global_cache_ram_gb", "RAM and SSD together"),
        ({"global_cache_size_gb": "-1"}, "global_cache_size_gb", "-1.0 is too small: give at least 0."),
        ({"model_priorities": "tinny 3"}, "model_priorities", "Nearest: tiny"),
        ({"model_priorities": "tiny 11"}, "model_priorities", "up to 10"),
        ({"model_priorities": "tiny"}, "model_priorities", "a space"),
        ({"allocation_strategy": "x"}, "allocation_strategy", "not one of the available choices"),
    ],
)
def test_what_cannot_be_is_told_beside_its_field(root: Client, change: dict[str, str], field: str, told: str) -> None:
    page = root.post(reverse(f"{REVISIONS}_add"), {**FORM, **change})
    assert told in page.context["adminform"].form.errors[field][0]
    assert not CacheRevision.objects.exists()


def test_the_button_above_the_history_leads_to_the_form(root: Client) -> None:
    answer = root.get(reverse("admin:registry_cacherevision_change_division"))
    assert answer.headers["Location"] == reverse(f"{REVISIONS}_add")


def test_a_form_that_changes_nothing_says_so(root: Client) -> None:
    page = root.post(
        reverse(f"{REVISIONS}_add"), {"allocation_strategy": "fair_share", "global_eviction_policy": "lru"}
    )
    assert "Nothing is different" in page.content.decode()


def test_the_page_shows_what_each_model_got(root: Client) -> None:
    services.cache_allocation_update(changes={"global_cache_ram_gb": 100}, author="ada")
    page = root.get(reverse(f"{REVISIONS}_changelist")).content.decode()
    assert "RAM of node-1" in page
    assert "of 100.0\u00a0GiB that are configured" in page
    assert "512.0\u00a0MiB" in page
    assert "width: 50.00%" in page
    assert "fair_share: one of 2 equal parts" in page


def test_the_button_restores_a_revision(root: Client) -> None:
    services.cache_allocation_update(changes={"allocation_strategy": "dynamic"}, author="ada")
    answer = root.post(reverse("admin:registry_cacherevision_restore", args=[0]))
    assert said(answer) == ["What revision 0 said is in force, as revision 2."]
    assert selectors.cache_config_load().allocation_strategy == "fair_share"


def test_who_may_only_look_can_neither_change_nor_restore() -> None:
    services.cache_allocation_update(changes={"allocation_strategy": "dynamic"}, author="ada")
    client = staff("view_cacherevision")
    assert client.get(reverse(f"{REVISIONS}_changelist")).status_code == 200
    assert client.post(reverse(f"{REVISIONS}_add"), FORM).status_code == 403
    client.post(reverse("admin:registry_cacherevision_restore", args=[0]))
    assert selectors.cache_configured_load().revision == 1


# --- Shared prompts --------------------------------------------------------------------------------------------------


def test_a_shared_prompt_is_kept_to_the_letter(root: Client) -> None:
    root.post(reverse(f"{PROMPTS}_add"), {"name": "support", "text": " You help. ", "enabled": "on"})
    assert selectors.shared_prompts_load() == {" You help. "}
    pk = SharedPrompt.objects.get().pk
    root.post(reverse(f"{PROMPTS}_change", args=[pk]), {"text": "You help.\r\nAlways.\r\n"})
    prompt = SharedPrompt.objects.get()
    assert (prompt.name, prompt.text, prompt.enabled) == ("support", "You help.\nAlways.\n", False)


# --- Erasing ---------------------------------------------------------------------------------------------------------


def test_the_button_erases_what_was_cached_for_a_tenant(root: Client) -> None:
    before = quotas.default_partition_load()
    answer = root.post(reverse("admin:quotas_tenant_erase_cache", args=[quotas.tenants_list().get().pk]))
    assert "What was cached for default" in said(answer)[0]
    assert quotas.default_partition_load() != before


def test_who_may_only_look_at_tenants_erases_nothing() -> None:
    before = quotas.default_partition_load()
    pk = quotas.tenants_list().get().pk
    staff("view_tenant").post(reverse("admin:quotas_tenant_erase_cache", args=[pk]))
    assert quotas.default_partition_load() == before


def test_of_many_models_those_with_most_are_shown_and_the_rest_is_added_up(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SHOWN_BARS", 1)
    page = root.get(reverse(f"{REVISIONS}_changelist")).content.decode()
    assert "1 more models have" in page and page.count("fair_share: one of 2") == 2  # one of RAM, one of SSD
