"""Limits over REST: what operators send, what they get, and what is refused."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from quotas.models import Emergency, Lease, QuotaRevision, Usage, Window
from quotas.selectors import emergency_load, limits_load
from registry.models import Model

pytestmark = pytest.mark.usefixtures("models", "keys_required")

TINY = "/quotas/tiny"
LIMITS = ("hourly_token_limit", "hourly_request_limit", "daily_token_limit", "daily_request_limit")
GUIDES = {
    "model_id": "org/other:F32",
    "quotas": {
        "max_ram_mb": 81920,
        "max_ssd_gb": 200,
        "hourly_token_limit": 1000000,
        "hourly_request_limit": 10000,
        "daily_token_limit": 20000000,
        "daily_request_limit": 200000,
        "burst_token_limit": 50000,
        "max_concurrent_requests": 50,
    },
}
"""The user guide's example, of a model that there is here."""


DEFAULTS = {
    "on_database_loss": "closed",
    "throttling_enabled": True,
    "soft_limits": {"info": 80, "warn": 85, "throttle": 90, "aggressive_throttle": 95},
    "degradation_policy": {
        "pace": True,
        "max_tokens_cap": None,
        "sibling": None,
        "at_hard_limit": "reject",
        "queue_seconds": 30,
        "queue_length": 256,
        "emergency_priority": 8,
    },
}


def error(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = response.json()["error"]
    return found


def test_at_first_a_model_has_the_default_limits_as_revision_0(operator: APIClient) -> None:
    default = {"hourly_token_limit": 500_000}
    operator.post("/cache/allocation", {"per_model_quota": default}, format="json")
    shown = operator.get(TINY).json()
    assert (shown["model_id"], shown["revision"], shown["own"]) == ("tiny", 0, False)
    assert [shown[name] for name in LIMITS] == [500_000, None, None, None]
    assert shown["on_database_loss"] == "closed"


@pytest.mark.parametrize("path", ["/quotas/org/other:F32", "/api/v1/quotas/org/other:F32"])
def test_the_user_guides_example_is_taken(operator: APIClient, path: str) -> None:
    shown = operator.post(path, GUIDES, format="json").json()
    assert shown == GUIDES["quotas"] | {  # type: ignore[operator]
        "model_id": "org/other:F32",
        "revision": 1,
        "own": True,
        **DEFAULTS,
    }
    assert shown == operator.get(path).json()


def test_what_is_not_named_stays_and_null_takes_a_limit_away(operator: APIClient) -> None:
    operator.post(TINY, {"hourly_token_limit": 10, "daily_token_limit": 20}, format="json")
    shown = operator.post(TINY, {"hourly_token_limit": None}, format="json").json()
    assert (shown["revision"], shown["hourly_token_limit"], shown["daily_token_limit"]) == (2, None, 20)


def test_limits_that_are_a_models_own_no_longer_follow_the_default(operator: APIClient) -> None:
    operator.post(TINY, {"hourly_request_limit": None}, format="json")
    operator.post("/cache/allocation", {"per_model_quota": {"hourly_token_limit": 7}}, format="json")
    assert operator.get(TINY).json()["hourly_token_limit"] is None
    assert operator.get("/quotas/org/other:F32").json()["hourly_token_limit"] == 7


def test_the_same_limits_again_are_no_new_revision(operator: APIClient) -> None:
    for _ in range(2):
        assert operator.post(TINY, {"hourly_token_limit": 10}, format="json").json()["revision"] == 1


def test_limits_on_the_cache_reach_its_division(operator: APIClient) -> None:
    operator.post(TINY, {"max_ram_mb": 3, "max_ssd_gb": 0}, format="json")
    (node,) = operator.get("/cache/allocation").json()["nodes"]
    tiny, other = node["per_model"]["tiny"], node["per_model"]["org/other:F32"]
    assert (tiny["ram_bytes"], tiny["ssd_bytes"]) == (3 << 20, 0)
    assert tiny["why"].endswith("; capped by its own max_ram_mb; capped by its own max_ssd_gb")
    assert tiny["ram_bytes"] + other["ram_bytes"] == node["ram"]["effective_bytes"]
    operator.post(TINY, {"max_ram_mb": None}, format="json")
    (node,) = operator.get("/cache/allocation").json()["nodes"]
    assert node["per_model"]["tiny"]["ram_bytes"] == node["ram"]["effective_bytes"] // 2


@pytest.mark.parametrize("value", [0, 2**53])
def test_zero_and_huge_limits_are_taken(operator: APIClient, value: int) -> None:
    assert operator.post(TINY, dict.fromkeys(LIMITS, value), format="json").json()["hourly_token_limit"] == value


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"hourly_token_limit": -1}, "hourly_token_limit", "-1 is too small: give at least 0, or null for no limit."),
        (
            {"daily_token_limit": 2**53 + 1},
            "daily_token_limit",
            "is too large: give at most 9007199254740992, or null for no limit.",
        ),
        ({"hourly_token_limit": "10"}, "hourly_token_limit", "a whole number, not a string"),
        ({"hourly_token_limit": 1.5}, "hourly_token_limit", "a whole number, not a number"),
        ({"hourly_token_limit": True}, "hourly_token_limit", "a whole number, not a boolean"),
        ({"hourly_tokens": 1}, "hourly_tokens", "allowed: max_ram_mb"),
        ({"on_database_loss": "ajar"}, "on_database_loss", "one of closed, open"),
        ({"model_id": "other", "quotas": {}}, "model_id", "The path says 'tiny'"),
        ([], None, "must be a JSON object"),
    ],
)
def test_what_is_wrong_is_named(operator: APIClient, body: Any, param: str | None, told: str) -> None:
    response = operator.post(TINY, body, format="json")
    assert response.status_code == 400
    assert error(response)["param"] == param
    assert told in error(response)["message"]
    assert QuotaRevision.objects.count() == 0


@pytest.mark.parametrize("path", ["/quotas/tini", "/quotas/tini/report", "/quotas/tini/revisions"])
def test_an_unknown_model_is_told_with_those_that_are_near(operator: APIClient, path: str) -> None:
    response = operator.get(path)
    assert response.status_code == 404
    assert "tiny" in error(response)["message"]


def test_earlier_limits_can_be_listed_and_restored(operator: APIClient) -> None:
    for limit in (10, 20):
        operator.post(TINY, {"hourly_token_limit": limit}, format="json")
    shown = operator.post(f"{TINY}/revisions/1/restore").json()
    assert (shown["revision"], shown["hourly_token_limit"]) == (3, 10)
    listed = operator.get(f"{TINY}/revisions").json()
    assert [(each["revision"], each["quotas"]["hourly_token_limit"]) for each in listed] == [(3, 10), (2, 20), (1, 10)]
    assert listed[0]["comment"] == "restored from revision 1"
    missing = operator.post(f"{TINY}/revisions/9/restore")
    assert missing.status_code == 404 and "from 1 to 3" in error(missing)["message"]


def test_a_model_gives_up_its_own_limits_and_follows_the_default_ones_again(operator: APIClient) -> None:
    operator.post("/cache/allocation", {"per_model_quota": {"hourly_token_limit": 7, "max_ram_mb": 3}}, format="json")
    operator.post(TINY, {"hourly_token_limit": 10, "max_ram_mb": None}, format="json")
    for _ in range(2):  # again changes nothing
        shown = operator.delete(TINY).json()
        assert (shown["revision"], shown["own"], shown["hourly_token_limit"]) == (2, False, 7)
    assert limits_load()["tiny"].accounts[0].limit == 7
    (node,) = operator.get("/cache/allocation").json()["nodes"]
    assert node["per_model"]["tiny"]["ram_bytes"] == 3 << 20
    operator.post("/cache/allocation", {"per_model_quota": {"hourly_token_limit": 8}}, format="json")
    assert operator.get(TINY).json() == shown | {"hourly_token_limit": 8, "max_ram_mb": None}
    assert operator.get(f"{TINY}/report").json()["windows"][0]["limit"] == 8
    listed = operator.get(f"{TINY}/revisions").json()
    assert [(each["revision"], each["quotas"] is None) for each in listed] == [(2, True), (1, False)]
    assert operator.post(TINY, {"daily_token_limit": 9}, format="json").json()["revision"] == 3


def test_that_a_model_had_the_default_limits_can_be_restored(operator: APIClient) -> None:
    operator.post(TINY, {"hourly_token_limit": 10}, format="json")
    operator.delete(TINY)
    for number, revision in ((2, 4), (0, 6)):
        operator.post(f"{TINY}/revisions/1/restore")
        assert limits_load()["tiny"].accounts[0].limit == 10
        shown = operator.post(f"{TINY}/revisions/{number}/restore").json()
        assert (shown["revision"], shown["own"], shown["hourly_token_limit"]) == (revision, False, None)
        assert "tiny" not in limits_load()


def test_a_model_without_limits_of_its_own_has_none_to_give_up(operator: APIClient) -> None:
    assert operator.delete(TINY).json()["revision"] == 0
    assert error(operator.delete("/quotas/tini"))["code"] == "model_not_found"
    assert QuotaRevision.objects.count() == 0


def test_the_report_says_what_is_used_promised_and_left(operator: APIClient) -> None:
    operator.post(TINY, {"hourly_token_limit": 1000, "daily_request_limit": 0}, format="json")
    before = operator.get(f"{TINY}/report").json()
    assert [window["used"] for window in before["windows"]] == [0, 0]
    hour = before["windows"][0]
    window = Window.objects.create(
        account=f"model:{QuotaRevision.objects.get().model_id}/tokens/hour",
        unit="tokens",
        period="hour",
        starts_at=hour["starts_at"],
        ends_at=hour["ends_at"],
        taken=700,
    )
    for gateway, spent, reserved in (("a", 400, 100), ("b", 50, 0)):
        Lease.objects.create(window=window, gateway=gateway, granted=350, spent=spent, reserved=reserved)
    tokens, requests = operator.get(f"{TINY}/report").json()["windows"]
    assert tokens == hour | {"used": 450, "reserved": 100, "remaining": 450, "percent": 55.0}
    assert (requests["name"], requests["limit"], requests["percent"]) == ("daily_request_limit", 0, 100.0)


def test_what_was_used_before_the_limit_was_set_is_told_before_any_request_comes(operator: APIClient) -> None:
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    for model, start, tokens in (
        ("tiny", hour, 60),
        ("tiny", hour - timedelta(hours=25), 7),
        ("org/other:F32", hour, 5),
    ):
        Usage.objects.create(
            period="hour",
            starts_at=start,
            tenant="t",
            model=model,
            requests=2,
            prompt_tokens=tokens,
            completion_tokens=30,
        )
    operator.post(TINY, {"hourly_token_limit": 100, "daily_request_limit": 50}, format="json")
    report = operator.get(f"{TINY}/report").json()
    assert [window["used"] for window in report["windows"]] == [90, 2]
    assert (report["mode"], report["percent"]) == ("throttled", 90.0)


def test_parts_of_soft_limits_and_of_the_policy_change_and_the_others_stay(operator: APIClient) -> None:
    operator.post(TINY, {"soft_limits": {"info": 50}, "degradation_policy": {"max_tokens_cap": 64}}, format="json")
    body = {
        "soft_limits": {"warn": 60},
        "degradation_policy": {"sibling": "org/other:F32"},
        "throttling_enabled": False,
    }
    shown = operator.post(TINY, body, format="json").json()
    assert shown["soft_limits"] == {"info": 50, "warn": 60, "throttle": 90, "aggressive_throttle": 95}
    policy = shown["degradation_policy"]
    assert (policy["max_tokens_cap"], policy["sibling"], shown["throttling_enabled"]) == (64, "org/other:F32", False)
    for model, limits in limits_load().items():
        assert limits.policy.sibling in (None, "org/other:F32"), model


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"soft_limits": {"info": 86}}, "soft_limits"),
        ({"soft_limits": {"info": 90, "warn": 80}}, "soft_limits"),
        ({"soft_limits": {"info": 0}}, "soft_limits.info"),
        ({"soft_limits": {"warn": 101}}, "soft_limits.warn"),
        ({"soft_limits": {"warn": None}}, "soft_limits.warn"),
        ({"soft_limits": {"panic": 99}}, "soft_limits.panic"),
        ({"soft_limits": [80, 85, 90, 95]}, "soft_limits"),
        ({"throttling_enabled": "yes"}, "throttling_enabled"),
        ({"degradation_policy": {"sibling": "tiny"}}, "degradation_policy.sibling"),
        ({"degradation_policy": {"sibling": "tyni"}}, "degradation_policy.sibling"),
        ({"degradation_policy": {"max_tokens_cap": 0}}, "degradation_policy.max_tokens_cap"),
        ({"degradation_policy": {"at_hard_limit": "cry"}}, "degradation_policy.at_hard_limit"),
        ({"degradation_policy": {"queue_seconds": 601}}, "degradation_policy.queue_seconds"),
        ({"degradation_policy": {"queue_length": -1}}, "degradation_policy.queue_length"),
        ({"degradation_policy": {"emergency_priority": 11}}, "degradation_policy.emergency_priority"),
        ({"degradation_policy": {"prayer": True}}, "degradation_policy.prayer"),
    ],
)
def test_a_bad_policy_is_refused_naming_the_field(operator: APIClient, body: dict[str, Any], param: str) -> None:
    response = operator.post(TINY, body, format="json")
    assert (response.status_code, error(response)["param"]) == (400, param), response.json()


def test_a_limit_below_what_is_used_is_taken_and_told(operator: APIClient) -> None:
    operator.post(TINY, {"hourly_token_limit": 1000}, format="json")
    lease(Model.objects.get(name="tiny").pk, spent=600)
    operator.post(TINY, {"hourly_token_limit": 500}, format="json")
    report = operator.get(f"{TINY}/report").json()
    assert (report["mode"], report["percent"]) == ("hard_limit", 120.0)
    assert (report["windows"][0]["remaining"], report["windows"][0]["used"]) == (0, 600)


def lease(pk: int, spent: int) -> None:
    now = timezone.now()
    starts_at = now.replace(minute=0, second=0, microsecond=0)
    window = Window.objects.create(
        account=f"model:{pk}/tokens/hour",
        unit="tokens",
        period="hour",
        starts_at=starts_at,
        ends_at=starts_at + timedelta(hours=1),
        taken=spent,
    )
    Lease.objects.create(window=window, gateway="g", granted=spent, spent=spent)


def test_limits_whose_sibling_is_gone_are_not_restored(operator: APIClient) -> None:
    operator.post(TINY, {"degradation_policy": {"sibling": "org/other:F32"}}, format="json")
    operator.post(TINY, {"degradation_policy": {"sibling": None}}, format="json")
    Model.objects.filter(name="org/other:F32").update(name="renamed")
    response = operator.post(f"{TINY}/revisions/1/restore", {}, format="json")
    assert (response.status_code, error(response)["param"]) == (400, "degradation_policy.sibling")


def test_an_emergency_is_declared_and_ended_and_both_are_kept(operator: APIClient) -> None:
    assert operator.get("/api/v1/emergency").json()["enabled"] is False
    declared = operator.post("/api/v1/emergency", {"enabled": True, "reason": "the cooling failed"}, format="json")
    assert declared.json()["author"].startswith("nok_")
    assert emergency_load() == "the cooling failed"
    assert operator.get(f"{TINY}/report").json()["mode"] == "emergency"
    assert operator.post("/api/v1/emergency", {"enabled": False}, format="json").json()["enabled"] is False
    assert (emergency_load(), Emergency.objects.count()) == ("", 2)
    assert error(operator.post("/api/v1/emergency", {"enabled": "yes"}, format="json"))["param"] == "enabled"
    assert error(operator.post("/api/v1/emergency", {}, format="json"))["param"] == "enabled"
