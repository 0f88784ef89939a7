"""Routing's pages: what is in force, the form of a route, and the history."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from routing import selectors, services
from routing.config import Rollout, Routing, Rules, Strategy
from routing.models import ExperimentRollout, RoutingRevision
from tests.integration.web.staff import said, staff

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("models")]

REVISIONS = "admin:routing_routingrevision"

FORM = {
    "strategy": "weighted_random",
    "max_load_threshold": "0.5",
    "min_cache_hit_rate": "0.3",
    "affinity_timeout_sec": "300",
    "candidates": ["tiny", "org/other:F32"],
    "fallback_models": "org/other:F32\n",
    "model_weights": "tiny 3\norg/other:F32 = 0.5\n",
    "enable_health_checks": "on",
    "enable_quota_checks": "on",
    "enable_cache_optimization": "on",
    "max_retries": "2",
    "retry_delay_ms": "50",
    "hedge_delay_ms": "",
    "ab_test_split": "0.5",
    "ab_test_sticky_by": "session",
    "model_fallbacks": "tiny: org/other:F32\n",
    "comment": "a try",
}


def add(route: str = "auto") -> str:
    return reverse(f"{REVISIONS}_add", query={"route": route})


def posted(root: Client, of: str = "auto", **changes: Any) -> Any:
    return root.post(add(of), {**FORM, **changes})


def test_the_form_makes_a_revision_of_the_default_route(root: Client) -> None:
    assert posted(root).status_code == 302
    row = RoutingRevision.objects.first()
    assert row is not None
    config = selectors.config_value(row)
    assert (row.number, row.author, row.comment) == (1, "root", "a try")
    assert (config.strategy, config.max_load_threshold, config.max_retries) == (Strategy.WEIGHTED_RANDOM, 0.5, 2)
    assert config.model_weights == {"tiny": 3.0, "org/other:F32": 0.5}
    assert config.candidates == ("tiny", "org/other:F32") and config.fallback_models == ("org/other:F32",)
    assert config.hedge_delay_ms is None
    assert config.model_fallbacks == {"tiny": ("org/other:F32",)} and not config.warm_only


def test_the_form_begins_with_what_is_in_force(root: Client) -> None:
    posted(root)
    form = root.get(add()).context["adminform"].form
    assert form.initial["strategy"] == "weighted_random"
    assert form.initial["model_weights"] == "org/other:F32 0.5\ntiny 3"
    assert form.initial["model_fallbacks"] == "tiny: org/other:F32"


def test_a_route_is_added_and_changed_by_itself(root: Client) -> None:
    assert posted(root, "", route="drafts").status_code == 302
    assert posted(root, "drafts", strategy="random", model_weights="").status_code == 302
    config = selectors.routing_find().config
    assert config.strategy is Strategy.CACHE_AWARE
    assert config.routes["drafts"].strategy is Strategy.RANDOM
    assert config.routes["drafts"].candidates == ("tiny", "org/other:F32")


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"max_load_threshold": "2"}, "max_load_threshold", "2.0 is too large: give at most 1."),
        ({"model_weights": "tinny 3"}, "model_weights", "Nearest: tiny"),
        ({"model_weights": "tiny"}, "model_weights", "a space"),
        ({"model_weights": "tiny nan"}, "model_weights", "a number from 0"),
        ({"fallback_models": "nope"}, "fallback_models", "There is no model 'nope'"),
        ({"model_fallbacks": "tiny: tiny"}, "model_fallbacks", "circle"),
        ({"model_fallbacks": "tiny"}, "model_fallbacks", "a colon and a space"),
        ({"ab_test_enabled": "on"}, "ab_test_model_a", "name a model"),
        (
            {"ab_test_enabled": "on", "ab_test_model_a": "tiny", "ab_test_model_b": "tiny"},
            "ab_test_model_b",
            "name another model",
        ),
        ({"strategy": "x"}, "strategy", "not one of the available choices"),
    ],
)
def test_what_cannot_be_is_told_beside_its_field(root: Client, change: dict[str, str], field: str, told: str) -> None:
    page = posted(root, **change)
    assert told in page.context["adminform"].form.errors[field][0]
    assert not RoutingRevision.objects.exists()


def test_a_form_that_changes_nothing_says_so(root: Client) -> None:
    posted(root)
    assert "Nothing is different" in posted(root).content.decode()


def test_the_page_shows_every_route_and_what_each_revision_changed(root: Client) -> None:
    services.routing_update(
        changes={
            "ab_test_enabled": True,
            "ab_test_model_a": "tiny",
            "ab_test_model_b": "org/other:F32",
            "ab_test_split": 0.7,
        },
        author="ada",
    )
    services.routing_update(changes={"routes": {"drafts": {"strategy": "random"}}}, author="ada")
    page = root.get(reverse(f"{REVISIONS}_changelist")).content.decode()
    for told in ("tiny 70%", "org/other:F32 30%", "Random: anyone", "drafts added", "ab_test_enabled, ab_test_split"):
        assert told in page, told


def test_an_earlier_revision_is_restored_by_its_button(root: Client) -> None:
    services.routing_update(changes={"strategy": "random"}, author="ada")
    answer = root.post(reverse(f"{REVISIONS}_restore", args=["0"]), follow=True)
    assert any("as revision 2" in message for message in said(answer))
    assert selectors.routing_find().config == Routing()


def test_a_revision_is_shown_as_it_was(root: Client) -> None:
    services.routing_update(changes={"routes": {"drafts": {"strategy": "random"}}}, author="ada")
    page = root.get(reverse(f"{REVISIONS}_change", args=["1"])).content.decode()
    assert "&quot;drafts&quot;" in page and "name=&quot;strategy" not in page


def test_who_may_only_look_finds_no_buttons() -> None:
    client = staff("view_routingrevision")
    page = client.get(reverse(f"{REVISIONS}_changelist")).content.decode()
    assert "Cache aware" in page and "Change auto" not in page and ">Change</a>" not in page
    assert client.get(add()).status_code == 403


def test_the_rules_of_a_new_route_are_the_defaults(root: Client) -> None:
    form = root.get(add("")).context["adminform"].form
    assert form.initial["max_load_threshold"] == Rules().max_load_threshold and "route" in form.fields


TEST = {
    "ab_test_enabled": "on",
    "ab_test_model_a": "tiny",
    "ab_test_model_b": "org/other:F32",
    "ab_test_rollout": "on",
    "rollout_steps": "0.1, 0.5 1",
    "rollout_step_seconds": "60",
}


def test_a_roll_out_is_set_in_the_form_and_its_progress_is_on_the_page(root: Client) -> None:
    assert posted(root, **TEST).status_code == 302
    rollout = selectors.routing_find().config.ab_test_rollout
    assert rollout == Rollout(steps=(0.1, 0.5, 1.0), step_seconds=60)
    form = root.get(add()).context["adminform"].form
    assert (form.initial["ab_test_rollout"], form.initial["rollout_steps"]) == (True, "0.1 0.5 1")
    page = root.get(reverse(f"{REVISIONS}_changelist")).content.decode()
    assert "org/other:F32 10%" in page and "Step 1 of 3: B has 10 % of the requests." in page


def test_a_roll_out_stays_as_it_is_while_its_test_is_off(root: Client) -> None:
    posted(root, **TEST)
    shown = root.get(add()).context["adminform"].form.initial
    rollout = {name: str(value) for name, value in shown.items() if name.startswith("rollout_")}
    assert posted(root, **{**TEST, **rollout, "ab_test_enabled": ""}).status_code == 302
    config = selectors.routing_find().config
    assert config.ab_test_rollout is not None and config.rollout_running is None
    assert posted(root, **{**TEST, "ab_test_rollout": ""}).status_code == 302
    assert selectors.routing_find().config.ab_test_rollout is None


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"rollout_steps": "0.5 0.1"}, "ab_test_rollout", "must ascend"),
        ({"rollout_steps": "a half"}, "rollout_steps", "shares from 0 to 1"),
        ({"rollout_max_latency_ratio": "0.5"}, "rollout_max_latency_ratio", "give at least 1"),
        ({"rollout_step_requests": "0"}, "rollout_step_requests", "give at least 1"),
        ({"ab_test_mirror": "on"}, "ab_test_rollout", "A answers everything"),
        ({"ab_test_enabled": ""}, "ab_test_rollout", "there is none"),
    ],
)
def test_a_roll_out_that_cannot_be_is_told_beside_its_field(
    root: Client, change: dict[str, str], field: str, told: str
) -> None:
    page = posted(root, **{**TEST, **change})
    assert told in page.context["adminform"].form.errors[field][0]


def test_a_roll_out_is_begun_anew_by_its_button(root: Client) -> None:
    posted(root, **TEST)
    ExperimentRollout.objects.update(state="rolled_back", share_of_b=0)
    url = reverse("admin:routing_rollout_restart", args=["auto"])
    assert url in root.get(reverse(f"{REVISIONS}_changelist")).content.decode()
    assert any("needs the button itself" in message for message in said(root.get(url, follow=True)))
    assert ExperimentRollout.objects.get().state == "rolled_back"
    assert any("begins anew" in message for message in said(root.post(url, follow=True)))
    assert ExperimentRollout.objects.get().state == "running"


def test_who_may_only_look_begins_nothing_anew(root: Client) -> None:
    posted(root, **TEST)
    ExperimentRollout.objects.update(state="rolled_back", share_of_b=0)
    looker, url = staff("view_routingrevision"), reverse("admin:routing_rollout_restart", args=["auto"])
    assert url not in looker.get(reverse(f"{REVISIONS}_changelist")).content.decode()
    looker.post(url)
    assert ExperimentRollout.objects.get().state == "rolled_back"
