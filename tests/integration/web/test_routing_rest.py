"""How requests find their model, over REST: what operators send, and what they get."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction
from rest_framework.test import APIClient

from registry.models import Model
from routing import selectors
from routing.models import RoutingRevision

pytestmark = pytest.mark.usefixtures("models", "keys_required")

CONFIG = "/routing/config"
TEST = {"ab_test_enabled": True, "ab_test_model_a": "tiny", "ab_test_model_b": "org/other:F32"}


def error(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = response.json()["error"]
    return found


def posted(operator: APIClient, **changes: Any) -> dict[str, Any]:
    response = operator.post(CONFIG, changes, format="json")
    assert response.status_code == 200, response.json()
    shown: dict[str, Any] = response.json()
    return shown


def test_at_first_the_defaults_are_shown_as_revision_0(operator: APIClient) -> None:
    shown = operator.get(CONFIG).json()
    assert (shown["revision"], shown["strategy"]) == (0, "cache_aware")
    assert (shown["max_load_threshold"], shown["min_cache_hit_rate"], shown["affinity_timeout_sec"]) == (0.9, 0.3, 300)
    assert (shown["max_retries"], shown["retry_delay_ms"], shown["ab_test_split"]) == (3, 100, 0.5)
    assert shown["candidates"] is None and shown["routes"] == {}


@pytest.mark.parametrize("path", [CONFIG, "/api/v1/routing/config"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_change_takes_what_is_named_bare_or_wrapped(operator: APIClient, path: str, wrapped: bool) -> None:
    change = {"strategy": "weighted_random", "model_weights": {"tiny": 3, "org/other:F32": 0.5}}
    shown = operator.post(path, {"routing_config": change} if wrapped else change, format="json").json()
    assert (shown["revision"], shown["strategy"], shown["model_weights"]) == (1, *change.values())
    assert shown["max_retries"] == 3 and shown == operator.get(path).json()


@pytest.mark.parametrize(
    "body",
    [
        {"routing_config": {"strategy": "round_robin"}},
        {"routing_config": {"strategy": "least_loaded", "max_load_threshold": 0.85}},
        {"routing_config": {"strategy": "cache_aware", "min_cache_hit_rate": 0.3}},
        {"routing_config": {"strategy": "quota_aware"}},
        {"routing_config": {"strategy": "random"}},
        {"routing_config": {"strategy": "weighted_random"}},
        {"routing_config": {"strategy": "latency_based"}},
        {"routing_config": {"strategy": "affinity_based", "affinity_timeout_sec": 300}},
        {"strategy": "cache_aware", "enable_health_checks": True, "enable_quota_checks": True,
         "enable_cache_optimization": True},
        {"strategy": "least_loaded", "ab_test_enabled": True, "ab_test_split": 0.7, "ab_test_model_a": "tiny",
         "ab_test_model_b": "org/other:F32"},
    ],
)  # fmt: skip
def test_the_user_guides_examples_are_taken(operator: APIClient, body: dict[str, Any]) -> None:
    shown = operator.post(CONFIG, body, format="json").json()
    assert {name: shown[name] for name in body.get("routing_config", body)} == body.get("routing_config", body)


def test_a_route_is_added_changed_and_removed(operator: APIClient) -> None:
    posted(operator, routes={"fast": {"strategy": "latency_based"}, "other": {}})
    shown = posted(operator, routes={"fast": {"candidates": ["tiny"], "warm_only": True}, "other": None})
    assert set(shown["routes"]) == {"fast"}
    fast = shown["routes"]["fast"]
    assert (fast["strategy"], fast["candidates"], fast["warm_only"]) == ("latency_based", ["tiny"], True)
    assert shown["strategy"] == "cache_aware", "the default route's own"


@pytest.mark.parametrize(
    ("body", "param", "allowed"),
    [
        ({"stratgy": "random"}, "stratgy", "allowed: strategy, max_load_threshold"),
        ({"strategy": "fastest"}, "strategy", "round_robin, least_loaded, cache_aware, quota_aware, random"),
        ({"strategy": "ab_test"}, "strategy", "ab_test_enabled"),
        ({"strategy": 1}, "strategy", "Must be a string"),
        ({"max_load_threshold": 1.1}, "max_load_threshold", "1.1 is too large: give at most 1"),
        ({"min_cache_hit_rate": -0.1}, "min_cache_hit_rate", "-0.1 is too small: give at least 0"),
        ({"affinity_timeout_sec": 0.5}, "affinity_timeout_sec", "give at least 1"),
        ({"ab_test_split": 1.5}, "ab_test_split", "1.5 is too large: give at most 1"),
        ({"ab_test_split": "0.5"}, "ab_test_split", "Must be a number"),
        ({"max_retries": 11}, "max_retries", "11 is too large: give at most 10"),
        ({"max_retries": 1.5}, "max_retries", "Must be a whole number"),
        ({"retry_delay_ms": 10_001}, "retry_delay_ms", "give at most 10000"),
        ({"enable_health_checks": "yes"}, "enable_health_checks", "Must be true or false"),
        ({"model_weights": {"tiny": -1}}, "model_weights.tiny", "-1.0 is too small: give at least 0"),
        ({"model_weights": {"tiny": 0, "org/other:F32": 0}}, "model_weights", "sum to 0"),
        ({"model_weights": {"tinny": 1}}, "model_weights", "Nearest: tiny"),
        ({"candidates": []}, "candidates", "names no model"),
        ({"candidates": ["tinny"]}, "candidates", "Nearest: tiny"),
        ({"candidates": "tiny"}, "candidates", "list"),
        ({"fallback_models": ["nope"]}, "fallback_models", "There is no model 'nope'"),
        ({"ab_test_enabled": True}, "ab_test_model_a", "name a model"),
        ({**TEST, "ab_test_model_b": "tiny"}, "ab_test_model_b", "name another model"),
        ({**TEST, "ab_test_model_b": "nope"}, "ab_test_model_b", "There is no model 'nope'"),
        ({"ab_test_rollout": {}}, "ab_test_rollout", "set 'ab_test_enabled'"),
        ({"routes": {"fast": {"ab_test_rollout": {}}}}, "routes.fast.ab_test_rollout", "'routes.fast.ab_test_enabled'"),
        ({**TEST, "ab_test_rollout": {"steps": [0.5, 0.1]}}, "ab_test_rollout", "must ascend: 0.5, 0.1"),
        ({**TEST, "ab_test_rollout": {"steps": [0, 1]}}, "ab_test_rollout", "above 0"),
        ({**TEST, "ab_test_rollout": {"steps": [0.5, 1.5]}}, "ab_test_rollout.steps[1]", "give at most 1"),
        ({**TEST, "ab_test_rollout": {"steps": []}}, "ab_test_rollout.steps", "at least 1"),
        ({**TEST, "ab_test_rollout": {"step_requests": 0}}, "ab_test_rollout.step_requests", "give at least 1"),
        ({**TEST, "ab_test_rollout": {"pace": 1}}, "ab_test_rollout.pace", "allowed: steps, step_seconds"),
        ({**TEST, "ab_test_rollout": {}, "ab_test_mirror": True}, "ab_test_rollout", "A answers everything"),
        ({"model_fallbacks": {"tiny": ["tiny"]}}, "model_fallbacks", "circle: tiny → tiny"),
        ({"model_fallbacks": {"tiny": ["org/other:F32"], "org/other:F32": ["tiny"]}}, "model_fallbacks", "circle"),
        ({"routes": {"auto": {}}}, "routes.auto", "is not 'auto'"),
        ({"routes": {"a b": {}}}, "routes.a b", "letters, digits"),
        ({"routes": {"tiny": {}}}, "routes.tiny", "is a model's id"),
        ({"routes": {"fast": {"candidates": []}}}, "routes.fast.candidates", "names no model"),
        ({"routes": {"fast": {"strategy": "x"}}}, "routes.fast.strategy", "round_robin"),
        ([], None, "object"),
    ],
)
def test_a_bad_change_is_400_naming_the_field_and_what_is_allowed(
    operator: APIClient, body: object, param: str | None, allowed: str
) -> None:
    response = operator.post(CONFIG, body, format="json")
    assert (response.status_code, error(response)["param"]) == (400, param), response.json()
    assert allowed in error(response)["message"]
    assert not RoutingRevision.objects.exists()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_refused(operator: APIClient, number: str) -> None:
    response = operator.post(CONFIG, f'{{"ab_test_split": {number}}}', content_type="application/json")
    assert response.status_code == 400 and not RoutingRevision.objects.exists()


def test_every_configuration_is_kept_and_can_be_restored(operator: APIClient) -> None:
    posted(operator, strategy="random")
    posted(operator, strategy="quota_aware")
    posted(operator, strategy="quota_aware")  # nothing new
    revisions = operator.get(f"{CONFIG}/revisions").json()
    assert [(each["revision"], each["config"]["strategy"]) for each in revisions] == [
        (2, "quota_aware"), (1, "random"), (0, "cache_aware")
    ]  # fmt: skip
    assert operator.get(f"{CONFIG}/revisions/1").json() == revisions[1]
    shown = operator.post(f"{CONFIG}/revisions/0/restore", format="json").json()
    assert (shown["revision"], shown["strategy"]) == (3, "cache_aware")
    assert operator.get(f"{CONFIG}/revisions").json()[0]["comment"] == "restored from revision 0"
    response = operator.post(f"{CONFIG}/revisions/9/restore", format="json")
    assert response.status_code == 404 and "0 to 3" in error(response)["message"]


def test_what_names_models_that_are_gone_is_left_out(operator: APIClient) -> None:
    posted(operator, **TEST, candidates=["tiny", "org/other:F32"], model_fallbacks={"tiny": ["org/other:F32"]})
    Model.objects.get(name="org/other:F32").delete()
    routing = selectors.routing_load()
    assert (routing.candidates, routing.ab_test_enabled, routing.model_fallbacks) == (("tiny",), False, {})
    shown = posted(operator, max_retries=1)
    assert shown["candidates"] == ["tiny"] and not shown["ab_test_enabled"]


def test_a_revision_never_changes(operator: APIClient) -> None:
    posted(operator, strategy="random")
    with pytest.raises(IntegrityError, match="history"), transaction.atomic():
        RoutingRevision.objects.filter(number=1).update(author="somebody else")
