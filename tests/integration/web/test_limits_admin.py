"""The pages of limits: what is used of them, the form, the history, and emergencies."""

from datetime import UTC, datetime

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from quotas import selectors
from quotas.models import Emergency, QuotaRevision, Window
from quotas.services import emergency_set, quota_update
from registry.models import Model
from registry.services import model_named
from tests.integration.web.staff import said, staff

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("models")]

LIMITS = "admin:quotas_limitedmodel"
EMERGENCIES = "admin:quotas_emergency"


@pytest.fixture
def tiny() -> Model:
    return model_named(name="tiny")


def form(client: Client, model: Model, **changes: str) -> dict[str, str]:
    """What a browser would send: the form as it is, and what was typed over it."""
    fields = client.get(reverse(f"{LIMITS}_change", args=[model.pk])).context["adminform"].form
    shown = {bound.html_name: bound.value() for bound in fields}
    sent = {name: "on" if value is True else str(value) for name, value in shown.items() if value not in (None, False)}
    return sent | changes


def use(model: Model, account: str, used: int, hours: int = 0) -> None:
    """So much was used of a window, by requests that are over."""
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    if "day" in account:
        start = start.replace(hour=0)
    Window.objects.create(
        account=f"model:{model.pk}/{account}",
        unit=account.partition("/")[0],
        period=account.partition("/")[2],
        starts_at=start,
        ends_at=timezone.now(),
        taken=used,
        earlier=used,
    )


def test_the_list_shows_what_is_used_of_each_limit_and_the_mode(root: Client, tiny: Model) -> None:
    quota_update(model="tiny", changes={"hourly_token_limit": 2000, "daily_request_limit": 40}, author="ada")
    use(tiny, "tokens/hour", 1820)
    page = root.get(reverse(f"{LIMITS}_changelist")).content.decode()
    assert "Tokens this hour" in page and "1,820 of 2,000" in page and "width: 91.00%" in page
    assert "Requests today" in page and "0 of 40" in page
    assert "throttled" in page and "own, revision 1" in page
    assert "no limit" in page and "the default ones" in page, "of the other model"


def test_the_list_asks_as_often_for_many_models_as_for_one(
    root: Client, tiny: Model, django_assert_max_num_queries: pytest.FixtureRequest
) -> None:
    for name in Model.objects.values_list("name", flat=True):
        quota_update(model=name, changes={"hourly_token_limit": 2000}, author="ada")
    with django_assert_max_num_queries(12):  # type: ignore[operator]
        root.get(reverse(f"{LIMITS}_changelist"))


def test_the_form_sets_what_was_changed_and_keeps_who_and_why(root: Client, tiny: Model) -> None:
    quota_update(model="tiny", changes={"daily_token_limit": 9}, author="ada")
    sent = form(
        root,
        tiny,
        hourly_token_limit="1000",
        soft_limits__warn="83",
        degradation_policy__sibling="org/other:F32",
        degradation_policy__at_hard_limit="queue",
        comment="too hungry",
    )
    del sent["throttling_enabled"]
    answer = root.post(reverse(f"{LIMITS}_change", args=[tiny.pk]), sent)
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    quota = selectors.quota_find(model=tiny).quota
    assert (quota.hourly_token_limit, quota.daily_token_limit, quota.soft_limits.warn) == (1000, 9, 83.0)
    assert (quota.throttling_enabled, quota.degradation_policy.sibling) == (False, "org/other:F32")
    row = QuotaRevision.objects.get(model=tiny, number=2)
    assert (row.author, row.comment) == ("root", "too hungry")


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        (
            {"hourly_token_limit": "-1"},
            "hourly_token_limit",
            "-1 is too small: give at least 0, or nothing for no limit",
        ),
        ({"hourly_token_limit": str(2**60)}, "hourly_token_limit", "too large: give at most 9007199254740992"),
        ({"hourly_token_limit": "many"}, "hourly_token_limit", "whole number"),
        ({"soft_limits__warn": "79"}, "__all__", "must ascend"),
        ({"soft_limits__warn": ""}, "soft_limits__warn", "required"),
        ({"degradation_policy__sibling": "tini"}, "degradation_policy__sibling", "tiny"),
        ({"degradation_policy__sibling": "tiny"}, "degradation_policy__sibling", "its own sibling"),
        (
            {"degradation_policy__emergency_priority": "11"},
            "degradation_policy__emergency_priority",
            "11 is too large: give at most 10.",
        ),
        ({}, "__all__", "Nothing is different"),
    ],
)
def test_what_cannot_be_is_told_beside_its_field(
    root: Client, tiny: Model, change: dict[str, str], field: str, told: str
) -> None:
    page = root.post(reverse(f"{LIMITS}_change", args=[tiny.pk]), form(root, tiny, **change))
    assert told in page.context["adminform"].form.errors[field][0]
    assert not QuotaRevision.objects.exists()


def test_the_history_says_what_each_revision_changed_and_restores_it(root: Client, tiny: Model) -> None:
    quota_update(model="tiny", changes={"hourly_token_limit": 1000}, author="ada", comment="first")
    quota_update(model="tiny", changes={"hourly_token_limit": 5000, "soft_limits": {"info": 50.0}}, author="bob")
    page = root.get(reverse(f"{LIMITS}_change", args=[tiny.pk])).content.decode()
    assert "hourly_token_limit: no limit → 1,000" in page
    assert "hourly_token_limit: 1,000 → 5,000" in page and "soft_limits.info: 80.0 → 50.0" in page
    assert "by ada" in page and "first" in page
    restore = reverse(f"{LIMITS}_restore", args=[tiny.pk, 1])
    assert page.count(restore) == 1 and reverse(f"{LIMITS}_restore", args=[tiny.pk, 2]) not in page
    root.get(restore)
    assert selectors.quota_find(model=tiny).revision == 2, "its address alone does nothing"
    assert said(root.post(restore))[-1] == "What revision 1 said is in force, as revision 3."
    assert selectors.quota_find(model=tiny).quota.hourly_token_limit == 1000
    assert "no revision 9" in said(root.post(reverse(f"{LIMITS}_restore", args=[tiny.pk, 9])))[-1]


def test_a_model_gives_up_its_own_limits_on_its_page(root: Client, tiny: Model) -> None:
    page, give_up = reverse(f"{LIMITS}_change", args=[tiny.pk]), reverse(f"{LIMITS}_give_up", args=[tiny.pk])
    assert give_up not in root.get(page).content.decode(), "it has none"
    quota_update(model="tiny", changes={"hourly_token_limit": 1000}, author="ada")
    assert give_up in root.get(page).content.decode()
    root.get(give_up)
    assert selectors.quota_find(model=tiny).own, "its address alone does nothing"
    assert said(root.post(give_up))[-1] == "tiny has the default limits again."
    assert not selectors.quota_find(model=tiny).own
    shown = root.get(page).content.decode()
    assert give_up not in shown and "hourly_token_limit: 1,000 → no limit" in shown
    assert (
        "gave up its own limits" in shown
        and "the default ones" in root.get(reverse(f"{LIMITS}_changelist")).content.decode()
    )
    assert staff("view_limitedmodel").post(give_up).status_code == 403


def test_who_may_only_look_can_neither_change_nor_restore(tiny: Model) -> None:
    quota_update(model="tiny", changes={"hourly_token_limit": 1000}, author="ada")
    quota_update(model="tiny", changes={"hourly_token_limit": 5000}, author="ada")
    client = staff("view_limitedmodel")
    page = client.get(reverse(f"{LIMITS}_change", args=[tiny.pk])).content.decode()
    assert "1,000 → 5,000" in page and "restore/1" not in page
    assert client.post(reverse(f"{LIMITS}_change", args=[tiny.pk]), {"hourly_token_limit": "1"}).status_code == 403
    client.post(reverse(f"{LIMITS}_restore", args=[tiny.pk, 1]))
    assert selectors.quota_find(model=tiny).revision == 2


# --- Emergencies -----------------------------------------------------------------------------------------------------


def test_an_emergency_is_declared_with_a_reason_and_ended(root: Client, tiny: Model) -> None:
    declare = root.get(reverse(f"{EMERGENCIES}_declare"))
    assert declare.headers["Location"] == reverse(f"{EMERGENCIES}_add")
    assert root.post(reverse(f"{EMERGENCIES}_add"), {"reason": "the roof burns"}).status_code == 302
    assert selectors.emergency_load() == "the roof burns"
    for listed in (LIMITS, EMERGENCIES):
        page = root.get(reverse(f"{listed}_changelist")).content.decode()
        assert "There is an emergency" in page and "the roof burns" in page
    assert "emergency" in root.get(reverse(f"{LIMITS}_change", args=[tiny.pk])).context["mode"]
    end = reverse(f"{EMERGENCIES}_end")
    assert said(root.post(end)) == ["The emergency is over: all requests are served again."]
    assert selectors.emergency_load() == ""
    assert said(root.post(end))[-1] == "There is no emergency."
    assert list(Emergency.objects.values_list("enabled", "author")) == [(False, "root"), (True, "root")]


def test_who_may_only_look_can_neither_declare_nor_end() -> None:
    emergency_set(enabled=True, reason="x", author="ada")
    client = staff("view_emergency")
    assert client.get(reverse(f"{EMERGENCIES}_changelist")).status_code == 200
    assert client.post(reverse(f"{EMERGENCIES}_add"), {"reason": "y"}).status_code == 403
    client.post(reverse(f"{EMERGENCIES}_end"))
    assert selectors.emergency_find().enabled
