"""Warm hours over REST and in the admin."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from registry.models import Model, WarmSchedule

PATH = "/api/v1/models/tiny/schedules"
OFFICE = {"opens": "0 8 * * mon-fri", "closes": "0 18 * * mon-fri", "time_zone": "Europe/Berlin"}
ALWAYS = {"opens": "* * * * *", "closes": "0 0 29 2 *"}

pytestmark = pytest.mark.usefixtures("models")


def test_hours_are_set_shown_and_removed(operator: APIClient) -> None:
    made = operator.post(PATH, OFFICE, format="json")
    assert made.status_code == 201
    assert made.json() | OFFICE == made.json()
    assert (made.json()["model"], made.json()["version"]) == ("tiny", None)
    assert operator.get(PATH).json() == [made.json()]
    assert operator.delete(f"{PATH}/{made.json()['id']}").status_code == 204
    assert operator.get(PATH).json() == []


def test_hours_that_last_now_say_since_when(operator: APIClient) -> None:
    assert operator.post(PATH, {**ALWAYS, "version": "1.0.0"}, format="json").json()["open_since"]


@pytest.mark.parametrize(
    ("change", "field", "taught"),
    [
        ({"opens": "8:00"}, "opens", "five fields, such as '0 8 * * mon-fri'"),
        ({"closes": "0 25 * * *"}, "closes", "five fields"),
        ({"closes": "0 8 30 2 *"}, "closes", "five fields"),
        ({"time_zone": "Berlin"}, "time_zone", "Europe/Berlin"),
        ({"until": "18:00"}, "until", "allowed: opens, closes, time_zone, version"),
        ({"opens": 8}, "opens", "a string"),
    ],
)
def test_bad_hours_are_refused_with_what_good_ones_are(
    operator: APIClient, change: dict[str, Any], field: str, taught: str
) -> None:
    response = operator.post(PATH, {**OFFICE, **change}, format="json")
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == field
    assert taught in error["message"]
    assert not WarmSchedule.objects.exists()


def test_what_is_not_there_is_not_found(operator: APIClient) -> None:
    assert operator.delete(f"{PATH}/1").status_code == 404
    assert operator.get("/api/v1/models/huge/schedules").status_code == 404
    assert operator.post(PATH, {**OFFICE, "version": "9.0.0"}, format="json").status_code == 404


def test_the_schema_describes_them(operator: APIClient) -> None:
    schema = operator.get("/api/schema", HTTP_ACCEPT="application/json").json()
    assert {"get", "post"} <= set(schema["paths"]["/api/v1/models/{name}/schedules"])


class TestAdmin:
    def save(self, root: Client, **fields: str) -> Any:
        model = Model.objects.get(name="tiny")
        form = {
            "display_name": "Tiny", "enabled": "on", "replicas": "1", "extra_capabilities": "",
            "versions-TOTAL_FORMS": "0", "versions-INITIAL_FORMS": "0",
            "schedules-TOTAL_FORMS": "1", "schedules-INITIAL_FORMS": "0", "schedules-0-time_zone": "UTC",
            **{f"schedules-0-{name}": value for name, value in fields.items()},
        }  # fmt: skip
        return root.post(reverse("admin:registry_model_change", args=[model.pk]), form)

    def test_hours_are_set_on_their_models_page(self, root: Client) -> None:
        assert self.save(root, **ALWAYS).status_code == 302
        schedule = WarmSchedule.objects.get()
        assert schedule.model.name == "tiny"
        assert schedule.open_since is not None

    def test_bad_hours_are_refused_there_with_what_good_ones_are(self, root: Client) -> None:
        page = self.save(root, opens="8:00", closes="0 18 * * *")
        assert page.status_code == 200
        assert "five fields" in page.content.decode()
        assert not WarmSchedule.objects.exists()
