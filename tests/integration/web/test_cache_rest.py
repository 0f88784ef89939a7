"""The cache's configuration and shared prompts over REST: what operators send, and what they get."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from registry.models import CacheRevision, CacheShare

pytestmark = pytest.mark.usefixtures("models", "keys_required")

ALLOCATION = "/cache/allocation"
PROMPTS = "/api/v1/shared-prompts"
GB = 1024**3


def error(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = response.json()["error"]
    return found


# --- Allocation ------------------------------------------------------------------------------------------------------


def test_at_first_the_defaults_are_shown_as_revision_0(operator: APIClient) -> None:
    shown = operator.get(ALLOCATION).json()
    assert shown["revision"] == 0
    assert shown["allocation_strategy"] == "fair_share"
    assert shown["global_eviction_policy"] == "lru"
    assert shown["global_cache_size_gb"] is None
    assert set(shown["per_model_quota"].values()) == {None}


def test_the_answer_shows_what_each_model_got_and_why(operator: APIClient) -> None:
    (node,) = operator.get(ALLOCATION).json()["nodes"]
    assert node["node"] == "node-1"
    assert node["ram"] == {"configured_bytes": GB // 4, "effective_bytes": GB // 4}
    assert set(node["per_model"]) == {"tiny", "org/other:F32"}
    assert node["per_model"]["tiny"]["ram_bytes"] == GB // 8
    assert node["per_model"]["tiny"]["why"] == "fair_share: one of 2 equal parts"


@pytest.mark.parametrize("path", [ALLOCATION, "/api/v1/cache/allocation"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_change_takes_what_is_named_bare_or_wrapped(operator: APIClient, path: str, wrapped: bool) -> None:
    change = {"allocation_strategy": "priority_based", "model_priorities": {"tiny": 10, "org/other:F32": 0}}
    shown = operator.post(path, {"cache_allocation": change} if wrapped else change, format="json").json()
    assert shown["revision"] == 1
    assert shown["global_eviction_policy"] == "lru"
    assert shown["model_priorities"] == change["model_priorities"]
    assert shown == operator.get(path).json()
    shares = shown["nodes"][0]["per_model"]
    assert shares["tiny"]["ram_bytes"] > 10 * shares["org/other:F32"]["ram_bytes"] > 0


@pytest.mark.parametrize(
    "body",
    [
        {"global_cache_size_gb": 100, "allocation_strategy": "fair_share",
         "per_model_quota": {"max_ram_mb": 40960, "hourly_token_limit": 500000}},
        {"global_cache_size_gb": 300, "allocation_strategy": "proportional",
         "per_model_quota": {"max_ram_mb": 81920, "hourly_token_limit": 1000000}},
        {"global_cache_size_gb": 500, "allocation_strategy": "dynamic", "global_eviction_policy": "lru",
         "per_model_quota": {"max_ram_mb": 81920, "hourly_token_limit": 2000000}},
    ],
)  # fmt: skip
def test_the_user_guides_examples_are_taken(operator: APIClient, body: dict[str, Any]) -> None:
    shown = operator.post(ALLOCATION, body, format="json").json()
    assert shown["global_cache_size_gb"] == body["global_cache_size_gb"]
    assert shown["per_model_quota"]["hourly_token_limit"] == body["per_model_quota"]["hourly_token_limit"]


def test_more_than_the_machine_has_is_accepted_and_what_is_used_is_shown(operator: APIClient) -> None:
    shown = operator.post(ALLOCATION, {"global_cache_ram_gb": 100}, format="json").json()
    assert shown["global_cache_ram_gb"] == 100
    assert shown["nodes"][0]["ram"] == {"configured_bytes": 100 * GB, "effective_bytes": GB}
    assert sum(share["ram_bytes"] for share in shown["nodes"][0]["per_model"].values()) == GB


def test_a_quota_caps_what_a_model_gets(operator: APIClient) -> None:
    shown = operator.post(ALLOCATION, {"per_model_quota": {"max_ram_mb": 10}}, format="json").json()
    share = shown["nodes"][0]["per_model"]["tiny"]
    assert share["ram_bytes"] == 10 * 1024**2
    assert share["why"].endswith("capped by per_model_quota.max_ram_mb")


@pytest.mark.parametrize(
    ("body", "param", "allowed"),
    [
        ({"strategy": "lru"}, "strategy", "allowed: global_cache_size_gb"),
        ({"allocation_strategy": "fairest"}, "allocation_strategy", "fair_share, proportional, priority_based"),
        ({"allocation_strategy": 1}, "allocation_strategy", "Must be a string"),
        ({"global_eviction_policy": "fifo"}, "global_eviction_policy", "lru, lfu, smallest_model_first, round_robin"),
        ({"global_cache_size_gb": "100"}, "global_cache_size_gb", "Must be a number"),
        ({"global_cache_size_gb": True}, "global_cache_size_gb", "Must be a number"),
        ({"global_cache_ram_gb": -1}, "global_cache_ram_gb", "-1.0 is too small: give at least 0"),
        ({"global_cache_ssd_gb": 1e9}, "global_cache_ssd_gb", "1000000000.0 is too large: give at most 1048576"),
        ({"global_cache_size_gb": 1, "global_cache_ram_gb": 2}, "global_cache_ram_gb", "RAM and SSD together"),
        ({"model_priorities": ["tiny"]}, "model_priorities", "dict"),
        ({"model_priorities": {"tiny": 11}}, "model_priorities.tiny", "11 is too large: give at most 10"),
        ({"model_priorities": {"tiny": 1.5}}, "model_priorities.tiny", "Must be a whole number"),
        ({"model_priorities": {"tinny": 1}}, "model_priorities.tinny", "Nearest: tiny"),
        ({"per_model_quota": {"max_ram_gb": 1}}, "per_model_quota.max_ram_gb", "allowed: max_ram_mb"),
        ({"per_model_quota": {"max_ram_mb": -1}}, "per_model_quota.max_ram_mb", "-1 is too small: give at least 0"),
        ({"per_model_quota": None}, "per_model_quota", "null"),
        ([], None, "object"),
        ({"cache_allocation": []}, None, "object"),
    ],
)
def test_a_bad_change_is_400_naming_the_field_and_what_is_allowed(
    operator: APIClient, body: object, param: str | None, allowed: str
) -> None:
    response = operator.post(ALLOCATION, body, format="json")
    assert (response.status_code, error(response)["param"]) == (400, param)
    assert allowed in error(response)["message"]
    assert not CacheRevision.objects.exists()


def test_a_change_with_two_faults_names_both_and_changes_nothing(operator: APIClient) -> None:
    body = {"global_eviction_policy": "lfu", "allocation_strategy": "x", "global_cache_size_gb": "y"}
    message = error(operator.post(ALLOCATION, body, format="json"))["message"]
    assert "'allocation_strategy'" in message
    assert "'global_cache_size_gb'" in message
    assert operator.get(ALLOCATION).json()["global_eviction_policy"] == "lru"


# --- Revisions -------------------------------------------------------------------------------------------------------


def test_revisions_are_listed_newest_first_with_who_made_them(operator: APIClient) -> None:
    operator.post(ALLOCATION, {"allocation_strategy": "dynamic"}, format="json")
    operator.post(ALLOCATION, {"global_eviction_policy": "lfu"}, format="json")
    rows = operator.get(f"{ALLOCATION}/revisions").json()
    assert [row["revision"] for row in rows] == [2, 1, 0]
    assert [row["config"]["allocation_strategy"] for row in rows] == ["dynamic", "dynamic", "fair_share"]
    assert rows[0]["author"].startswith("nok_")
    assert operator.get(f"{ALLOCATION}/revisions/1").json() == rows[1]


def test_a_revision_is_restored(operator: APIClient) -> None:
    operator.post(ALLOCATION, {"allocation_strategy": "dynamic"}, format="json")
    shown = operator.post(f"{ALLOCATION}/revisions/0/restore").json()
    assert (shown["revision"], shown["allocation_strategy"]) == (2, "fair_share")


@pytest.mark.parametrize(("method", "path"), [("get", "/9"), ("post", "/9/restore"), ("get", f"/{2**40}")])
def test_a_revision_that_is_not_there_is_404(operator: APIClient, method: str, path: str) -> None:
    assert getattr(operator, method)(f"{ALLOCATION}/revisions{path}").status_code == 404


# --- Shared prompts --------------------------------------------------------------------------------------------------


def test_a_shared_prompt_is_created_changed_and_deleted(operator: APIClient) -> None:
    created = operator.post(PROMPTS, {"name": "support/en", "text": " You help.\n"}, format="json")
    assert created.status_code == 201
    assert created.json()["text"] == " You help.\n"
    assert operator.get(PROMPTS).json() == [created.json()]
    changed = operator.patch(f"{PROMPTS}/support/en", {"enabled": False}, format="json").json()
    assert changed == {**created.json(), "enabled": False}
    assert operator.delete(f"{PROMPTS}/support/en").status_code == 204
    assert operator.get(f"{PROMPTS}/support/en").status_code == 404


def test_a_name_is_given_once(operator: APIClient) -> None:
    operator.post(PROMPTS, {"name": "x", "text": "y"}, format="json")
    assert operator.post(PROMPTS, {"name": "x", "text": "z"}, format="json").status_code == 409


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "x"}, "text"),
        ({"name": "x", "text": ""}, "text"),
        ({"name": "x", "text": " "}, "text"),
        ({"name": "x", "text": "a\x00b"}, "text"),
        ({"name": "x" * 101, "text": "y"}, "name"),
        ({"name": "x", "text": "y", "on": True}, "on"),
    ],
)
def test_a_bad_shared_prompt_is_400_naming_the_field(operator: APIClient, body: dict[str, Any], param: str) -> None:
    response = operator.post(PROMPTS, body, format="json")
    assert (response.status_code, error(response)["param"]) == (400, param)


# --- Erasing ---------------------------------------------------------------------------------------------------------


def test_an_admin_erases_what_was_cached_for_a_tenant(admin: APIClient) -> None:
    from quotas.models import Partition

    before = Partition.objects.get(tenant__name="default")
    answer = admin.post("/api/v1/tenants/default/erase-cache")
    assert answer.status_code == 200
    after = Partition.objects.get(tenant__name="default")
    assert after.name != before.name
    assert after.name not in answer.content.decode()


def test_an_admin_erases_what_was_cached_of_shared_prompts(admin: APIClient) -> None:
    from quotas.access import selectors

    before = selectors.shared_partition_load()
    assert admin.post("/api/v1/shared-cache/erase").status_code == 204
    assert selectors.shared_partition_load() != before


def test_the_cache_of_an_unknown_tenant_is_404(admin: APIClient) -> None:
    assert admin.post("/api/v1/tenants/nobody/erase-cache").status_code == 404


def test_reading_the_allocation_gives_shares_to_models_that_are_new(operator: APIClient) -> None:
    CacheShare.objects.all().delete()
    assert operator.get(ALLOCATION).json()["nodes"][0]["per_model"]
