"""The first run's administrator, and what ``prepare`` says of servers that do not answer."""

import dataclasses
import json
import os

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import override_settings

from nopenai_site import logs
from nopenai_site.management.commands import prepare


@pytest.mark.django_db
def test_the_administrators_password_is_drawn_once_and_works() -> None:
    told = prepare.first_administrator()
    assert told["admin_user"] == "admin"
    assert told["admin_password"] is not None
    user = get_user_model().objects.get(username="admin")
    assert user.is_superuser
    assert user.check_password(told["admin_password"])
    assert prepare.first_administrator() == {}


@pytest.mark.django_db
def test_a_chosen_password_is_used_and_not_repeated() -> None:
    chosen = dataclasses.replace(settings.NOPENAI, admin_user="root", admin_password="chosen-by-me")
    with override_settings(NOPENAI=chosen):
        assert prepare.first_administrator() == {"admin_user": "root", "admin_password": None}
    assert get_user_model().objects.get(username="root").check_password("chosen-by-me")


@pytest.mark.django_db
def test_an_operator_who_has_an_administrator_gets_no_second_one() -> None:
    get_user_model().objects.create_superuser(username="someone", password="x")
    assert prepare.first_administrator() == {}


@pytest.mark.django_db(transaction=True)
def test_it_answers_through_the_pipe_and_may_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "configure", lambda *_, **__: None)  # it would be the whole test run's
    answers = []
    for _ in range(2):
        reading, writing = os.pipe()
        call_command("prepare", report_fd=writing)
        with os.fdopen(reading) as pipe:
            answers.append(json.load(pipe))
    assert answers[0]["admin_user"] == settings.NOPENAI.admin_user
    assert answers[1] == {}


@pytest.mark.django_db
def test_a_broker_that_is_not_there_is_named_with_its_setting() -> None:
    assert prepare.unreachable() is None
    with override_settings(REDIS_URL="redis://:hush@127.0.0.1:9/0"):
        fault = prepare.unreachable()
    assert fault is not None
    assert "Check REDIS_URL" in fault
    assert "hush" not in fault
