"""Health over REST and in the admin: check now, and what it was."""

import os
from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from registry import services
from registry.health.services import vitals_record
from registry.health.vitals import Vitals
from registry.models import Model, Version
from tests.integration.web.staff import said

pytestmark = pytest.mark.usefixtures("models")


def page_of(name: str) -> str:
    return reverse("admin:registry_model_change", args=[Model.objects.get(name=name).pk])


def cut(models: Path) -> Path:
    path = models / "tiny.gguf"
    os.truncate(path, path.stat().st_size // 2)
    return path


def test_a_check_of_all_models_tells_each_with_its_checks(operator: APIClient) -> None:
    response = operator.post("/health/check")
    assert response.status_code == 200
    found = response.json()["models"]
    assert [each["model_id"] for each in found] == ["org/other:F32", "tiny"]
    assert {each["health_status"] for each in found} == {"healthy"}
    for check in found[0]["checks"]:
        assert set(check) == {"name", "result", "reason", "checked_at"} and check["checked_at"]


def test_a_check_of_one_model_finds_what_is_wrong_with_its_file(operator: APIClient, models: Path) -> None:
    cut(models)
    (found,) = operator.post("/health/check", {"model_id": "tiny"}, format="json").json()["models"]
    assert (found["model_id"], found["health_status"]) == ("tiny", "unhealthy")
    assert found["checks"][0]["result"] == "failed" and found["checks"][0]["reason"] in found["reason"]


def test_a_check_of_a_deployed_model_tells_of_its_worker(operator: APIClient) -> None:
    version = Version.objects.get(model__name="tiny")
    services.replica_observe(node="node-1", version_pk=version.pk, observed="ready", pid=7)
    vitals_record(node="node-1", vitals=[Vitals(version_pk=version.pk, memory_bytes=512 << 20)])
    (found,) = operator.post("/health/check", {"model_id": "tiny"}, format="json").json()["models"]
    memory = found["checks"][1]
    assert (memory["name"], memory["result"]) == ("memory_allocation", "passed")
    assert "node-1" in memory["reason"] and "512.0 MiB of 1.0 GiB" in memory["reason"]


def test_an_unknown_model_is_404_with_the_nearest_ids(operator: APIClient) -> None:
    response = operator.post("/health/check", {"model_id": "tinny"}, format="json")
    assert response.status_code == 404
    assert "tiny" in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [{"model_id": 7}, {"model": "tiny"}, {"model_id": ""}])
def test_a_wrong_body_is_400_naming_the_field(operator: APIClient, body: dict[str, object]) -> None:
    response = operator.post("/health/check", body, format="json")
    assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(body)))


def test_a_check_is_not_asked_for_by_get(operator: APIClient) -> None:
    assert operator.get("/health/check").status_code == 405


def test_the_history_of_a_model_is_told_newest_first(operator: APIClient, models: Path) -> None:
    cut(models)
    operator.post("/health/check", {"model_id": "tiny"}, format="json")
    shown = operator.get("/api/v1/models/tiny/health").json()
    assert (shown["model_id"], shown["health_status"], len(shown["checks"])) == ("tiny", "unhealthy", 4)
    newest, first = shown["history"]
    assert (newest["version"], newest["before"], newest["after"]) == ("1.0.0", "healthy", "unhealthy")
    assert newest["reason"] and newest["at"] >= first["at"]
    assert (first["before"], first["after"]) == ("unknown", "healthy")


def test_a_models_page_shows_its_checks_and_its_history(root: Client, models: Path) -> None:
    cut(models)
    response = root.post(reverse("admin:registry_model_check_health", args=[Model.objects.get(name="tiny").pk]))
    assert said(response) == ["tiny is unhealthy."]
    page = root.get(page_of("tiny")).content.decode()
    assert "File integrity" in page and "healthy → unhealthy" in page


def test_several_models_are_checked_from_their_list(root: Client) -> None:
    rows = list(Model.objects.values_list("pk", flat=True))
    response = root.post(
        reverse("admin:registry_model_changelist"), {"action": "check_selected", "_selected_action": rows}
    )
    assert said(response) == ["2 checked."]
