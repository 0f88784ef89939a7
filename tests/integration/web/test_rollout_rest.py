"""Roll-outs of A/B tests over REST. What nodes count is added as their supervisors add it."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from routing import rollout_services, selectors
from routing.config import AUTO
from routing.experiments.results import ExperimentCounts
from routing.models import ExperimentRollout
from tests.unit.routing.experiments.arms import counts

pytestmark = pytest.mark.usefixtures("models", "keys_required")

CONFIG, RESTART = "/routing/config", "/routing/rollout/restart"
NAME = "auto: tiny / org/other:F32"
TEST = {
    "ab_test_enabled": True,
    "ab_test_model_a": "tiny",
    "ab_test_model_b": "org/other:F32",
    "ab_test_rollout": {"steps": [0.1, 0.5, 1], "step_seconds": 60, "step_requests": 100},
}


def posted(operator: APIClient, **changes: Any) -> dict[str, Any]:
    response = operator.post(CONFIG, changes, format="json")
    assert response.status_code == 200, response.json()
    shown: dict[str, Any] = response.json()
    return shown


def standing(operator: APIClient) -> dict[str, Any]:
    shown: dict[str, Any] = operator.get(CONFIG).json()["rollouts"][AUTO]
    return shown


def counted(letter: int, *, b_errors: int = 0) -> None:
    """A node has counted 100 requests of B and 900 of A."""
    more = ExperimentCounts(a=counts(900), b=counts(100, errors=b_errors))
    rollout_services.experiment_counts_add(node="node-1", run="run", letter=letter, counts={NAME: more})


def decided(*, after: float = 0.0) -> None:
    """So many seconds after the step began."""
    progress = selectors.progress_value(ExperimentRollout.objects.get())
    rollout_services.rollouts_advance(now=progress.since + after)


def split() -> float:
    """What gateways use."""
    return selectors.routing_load().ab_test_split


def test_a_rollout_begins_with_its_first_step(operator: APIClient) -> None:
    shown = posted(operator, **TEST)
    assert shown["ab_test_rollout"]["steps"] == [0.1, 0.5, 1] and shown["ab_test_rollout"]["max_latency_ratio"] == 1.2
    assert shown["ab_test_split"] == 0.5, "as it was set"
    assert split() == 0.9
    rollout = shown["rollouts"][AUTO]
    assert (rollout["state"], rollout["step"], rollout["steps"], rollout["share_of_b"]) == ("running", 1, 3, 0.1)
    assert rollout["words"].startswith("Step 1 of 3: B has 10 % of the requests. It has answered 0 of the 100 ")
    assert rollout["since"].endswith("Z")


def test_what_a_step_has_seen_is_shown(operator: APIClient) -> None:
    posted(operator, **TEST)
    counted(1, b_errors=2)
    b = standing(operator)["b"]
    assert (b["requests"], b["answered"], b["errors"], b["unavailable"]) == (100, 98, 2, 0)


def test_what_was_counted_before_it_began_is_not_its(operator: APIClient) -> None:
    counted(1, b_errors=100)
    posted(operator, **TEST)
    decided(after=60)
    assert standing(operator)["state"] == "running" and standing(operator)["b"]["requests"] == 0


def test_a_rollout_is_rolled_back_with_the_reason_and_begun_anew_on_demand(operator: APIClient) -> None:
    posted(operator, **TEST)
    counted(1, b_errors=90)
    decided()
    shown = standing(operator)
    assert (shown["state"], shown["share_of_b"], split()) == ("rolled_back", 0, 1)
    assert shown["words"].startswith("Rolled back in step 1 of 3 (10 % for B): B failed 90 of 100 requests")
    posted(operator, strategy="round_robin")
    assert standing(operator)["state"] == "rolled_back", "another change is none of it"

    response = operator.post(RESTART, {"route": AUTO}, format="json")

    assert response.status_code == 200
    shown = response.json()["rollouts"][AUTO]
    assert (shown["state"], shown["share_of_b"], shown["b"]["requests"], split()) == ("running", 0.1, 0, 0.9)


@pytest.mark.parametrize(
    "change",
    [
        {"ab_test_split": 0.7},
        {"ab_test_rollout": {"step_requests": 50}},
        {"ab_test_model_a": "org/other:F32", "ab_test_model_b": "tiny"},
    ],
)
def test_a_change_of_the_test_begins_it_anew(operator: APIClient, change: dict[str, Any]) -> None:
    posted(operator, **TEST)
    counted(1)
    decided(after=60)
    assert (standing(operator)["step"], split()) == (2, 0.5)
    posted(operator, **change)
    assert (standing(operator)["step"], split()) == (1, 0.9)


@pytest.mark.parametrize("change", [{"ab_test_enabled": False}, {"ab_test_rollout": None}])
def test_it_ends_with_its_test_or_when_it_is_taken_away(operator: APIClient, change: dict[str, Any]) -> None:
    posted(operator, **TEST)
    counted(1)
    decided(after=60)
    assert posted(operator, **change)["rollouts"] == {}
    assert not ExperimentRollout.objects.exists() and split() == 0.5


def test_a_rollout_waits_while_its_test_is_off(operator: APIClient) -> None:
    posted(operator, **TEST)
    assert posted(operator, ab_test_enabled=False)["ab_test_rollout"]["steps"] == [0.1, 0.5, 1]
    assert posted(operator, ab_test_enabled=True)["rollouts"][AUTO]["step"] == 1


def test_other_routes_have_rollouts_of_their_own(operator: APIClient) -> None:
    shown = posted(operator, routes={"fast": TEST})
    assert set(shown["rollouts"]) == {"fast"}
    assert selectors.routing_load().routes["fast"].ab_test_split == 0.9 and split() == 0.5
    assert operator.post(RESTART, {"route": "fast"}, format="json").status_code == 200
    assert posted(operator, routes={"fast": None})["rollouts"] == {}


@pytest.mark.parametrize("route", [AUTO, "none"])
def test_what_has_no_rollout_can_not_be_begun_anew(operator: APIClient, route: str) -> None:
    response = operator.post(RESTART, {"route": route}, format="json")
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "route")
    assert f"The route '{route}' has no roll-out" in error["message"]


def test_a_restored_revision_begins_its_rollout(operator: APIClient) -> None:
    posted(operator, **TEST)
    posted(operator, ab_test_rollout=None)
    shown = operator.post(f"{CONFIG}/revisions/1/restore").json()
    assert shown["rollouts"][AUTO]["share_of_b"] == 0.1


def test_gateways_hear_of_a_share_and_of_nothing_else(operator: APIClient, heard: Any) -> None:
    posted(operator, **TEST)
    heard()
    counted(1)
    assert heard() == []
    rollout = ExperimentRollout.objects.get()
    progress = {**rollout.progress, "since": rollout.progress["since"] - 1}
    ExperimentRollout.objects.update(progress=progress)
    assert heard() == []
    decided(after=60)
    assert heard() == ["routing"]
