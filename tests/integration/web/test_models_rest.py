"""The registry over REST, as an operator."""

from pathlib import Path

import pytest
from rest_framework.test import APIClient

from registry.models import Model, Replica
from tests.gguf_files import write_model, write_truncated

pytestmark = pytest.mark.usefixtures("models")

ODD_ID = "org/other:F32"


def error(response: object) -> dict[str, str]:
    body: dict[str, dict[str, str]] = response.json()  # type: ignore[attr-defined]
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def test_the_list_is_a_bare_list_of_all_models(operator: APIClient) -> None:
    listed = operator.get("/api/v1/models").json()
    assert [model["id"] for model in listed] == [ODD_ID, "tiny"]


def test_a_model_shows_what_its_gguf_says(operator: APIClient) -> None:
    shown = operator.get("/api/v1/models/tiny").json()
    assert shown["architecture"] == "llama"
    assert shown["version"] == "1.0.0"
    assert shown["versions"] == ["1.0.0"]
    assert shown["state"] == "cold"
    assert shown["context_length"] == 512


@pytest.mark.parametrize("path", ["org/other:F32", "org%2Fother%3AF32", "org%2fother:F32"])
def test_an_id_with_a_slash_and_a_colon_is_found_raw_and_encoded(operator: APIClient, path: str) -> None:
    assert operator.get(f"/api/v1/models/{path}").json()["id"] == ODD_ID
    assert operator.get(f"/api/v1/models/{path}/versions").json()[0]["model"] == ODD_ID
    assert operator.get(f"/api/v1/models/{path}/versions/1.0.0").json()["version"] == "1.0.0"
    assert operator.patch(f"/api/v1/models/{path}", {"preload": True}, format="json").json()["preload"] is True
    assert operator.post(f"/api/v1/models/{path}/load", {}, format="json").status_code == 202


def test_an_unknown_model_is_404_with_the_nearest_ids(operator: APIClient) -> None:
    response = operator.get("/api/v1/models/tinny")
    assert response.status_code == 404
    assert error(response)["code"] == "model_not_found"
    assert "tiny" in error(response)["message"]


def test_a_control_character_in_an_id_is_404(operator: APIClient) -> None:
    assert operator.get("/api/v1/models/a%00b").status_code == 404


# --- Register --------------------------------------------------------------------------------------------------------


def test_register_adds_a_version_and_answers_with_the_model(operator: APIClient, models: Path) -> None:
    write_model(models / "tiny-v1.1" / "model.gguf", name="Tiny", seed=7)
    body = {"id": "tiny", "version": "1.1.0", "path": str(models / "tiny-v1.1")}
    response = operator.post("/v1/models/register", body, format="json")
    assert response.status_code == 201
    assert response.json()["id"] == "tiny"
    assert response.json()["version"] == "1.0.0"
    assert operator.get("/api/v1/models/tiny").json()["versions"] == ["1.1.0", "1.0.0"]


def test_register_takes_capabilities_and_a_display_name(operator: APIClient, models: Path) -> None:
    write_model(models / "new" / "model.gguf", name="New", seed=8)
    body = {
        "id": "new", "path": str(models / "new"), "display_name": "Neu", "capabilities": ["arabic_nlp"], "preload": True
    }  # fmt: skip
    shown = operator.post("/v1/models/register", body, format="json").json()
    assert shown["display_name"] == "Neu"
    assert "arabic_nlp" in shown["capabilities"]
    assert shown["preload"] is True


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../etc", "/nonexistent/model.gguf"])
def test_register_refuses_what_lies_outside_the_models_directories(operator: APIClient, path: str) -> None:
    response = operator.post("/v1/models/register", {"id": "x", "path": path}, format="json")
    assert response.status_code == 400
    assert error(response)["param"] == "path"


def test_register_refuses_a_truncated_file(operator: APIClient, models: Path) -> None:
    write_truncated(models / "cut" / "model.gguf")
    response = operator.post("/v1/models/register", {"id": "cut", "path": str(models / "cut")}, format="json")
    assert (response.status_code, error(response)["param"]) == (400, "path")


def test_register_of_other_content_under_a_known_version_is_a_conflict(operator: APIClient, models: Path) -> None:
    write_model(models / "other" / "model.gguf", name="Other", seed=9)
    body = {"id": "tiny", "version": "1.0.0", "path": str(models / "other")}
    assert operator.post("/v1/models/register", body, format="json").status_code == 409


# --- Default, edit, promote ------------------------------------------------------------------------------------------


def test_the_default_model_is_chosen_by_id(operator: APIClient) -> None:
    response = operator.post("/v1/models/default", {"model_id": ODD_ID}, format="json")
    assert response.json()["id"] == ODD_ID
    assert [model["id"] for model in operator.get("/api/v1/models").json() if model["is_default"]] == [ODD_ID]


def test_a_disabled_model_does_not_become_the_default(operator: APIClient) -> None:
    operator.patch("/api/v1/models/tiny", {"enabled": False}, format="json")
    response = operator.post("/v1/models/default", {"model_id": "tiny"}, format="json")
    assert (response.status_code, error(response)["param"]) == (400, "model_id")


def test_a_patch_changes_what_it_names_and_nothing_else(operator: APIClient) -> None:
    before = operator.get("/api/v1/models/tiny").json()
    after = operator.patch("/api/v1/models/tiny", {"display_name": "Klein"}, format="json").json()
    assert {field for field in after if after[field] != before[field]} == {"display_name"}


def test_extra_capabilities_join_those_of_the_gguf(operator: APIClient) -> None:
    body = {"extra_capabilities": ["legal", "arabic_nlp", "legal"]}
    shown = operator.patch("/api/v1/models/tiny", body, format="json").json()
    assert shown["extra_capabilities"] == ["arabic_nlp", "legal"]
    assert {"arabic_nlp", "legal", "chat"} <= set(shown["capabilities"])


def test_promotion_makes_the_bare_id_mean_another_version(operator: APIClient, models: Path) -> None:
    write_model(models / "v2" / "model.gguf", name="Tiny", seed=7)
    body = {"id": "tiny", "version": "2.0.0", "path": str(models / "v2")}
    assert operator.post("/v1/models/register", body, format="json").status_code == 201
    assert (
        operator.post("/api/v1/models/tiny/promote", {"version": "2.0.0"}, format="json").json()["version"] == "2.0.0"
    )
    promoted = {row["version"]: row["promoted"] for row in operator.get("/api/v1/models/tiny/versions").json()}
    assert promoted == {"2.0.0": True, "1.0.0": False}


def test_promotion_of_an_unknown_version_names_those_there_are(operator: APIClient) -> None:
    response = operator.post("/api/v1/models/tiny/promote", {"version": "9.9.9"}, format="json")
    assert response.status_code == 404
    assert "1.0.0" in error(response)["message"]


# --- Load, unload, scan ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "desired"), [("load", "running"), ("unload", "stopped")])
def test_load_and_unload_are_wishes_that_the_supervisor_follows(operator: APIClient, verb: str, desired: str) -> None:
    response = operator.post(f"/api/v1/models/tiny/{verb}", {}, format="json")
    assert response.status_code == 202
    (replica,) = response.json()
    assert (replica["node"], replica["model"], replica["desired"]) == ("node-1", "tiny", desired)
    assert Replica.objects.get().desired == desired


def test_load_on_an_unknown_node_names_the_known_ones(operator: APIClient) -> None:
    response = operator.post("/api/v1/models/tiny/load", {"node": "nowhere"}, format="json")
    assert response.status_code == 404
    assert "node-1" in error(response)["message"]


def test_load_of_a_disabled_model_is_refused(operator: APIClient) -> None:
    operator.patch("/api/v1/models/tiny", {"enabled": False}, format="json")
    assert operator.post("/api/v1/models/tiny/load", {}, format="json").status_code == 400


def test_a_loaded_model_shows_its_state(operator: APIClient) -> None:
    from registry import services

    version = Model.objects.get(name="tiny").promoted_id
    assert version is not None
    services.replica_observe(node="node-1", version_pk=version, observed="ready", pid=5)
    assert operator.get("/api/v1/models/tiny").json()["state"] == "ready"
    assert operator.get("/api/v1/replicas").json()[0]["observed"] == "ready"


def test_a_scan_reports_what_is_new_and_what_is_unusable(operator: APIClient, models: Path) -> None:
    write_model(models / "late" / "model.gguf", name="Late", seed=11)
    write_truncated(models / "half" / "model.gguf")
    report = operator.post("/api/v1/scan").json()
    assert "late" in report["discovered"]
    assert "half" in report["unusable"]


# --- Nodes -----------------------------------------------------------------------------------------------------------


def test_nodes_are_listed_and_found_by_name(operator: APIClient) -> None:
    assert [node["name"] for node in operator.get("/api/v1/nodes").json()] == ["node-1"]
    assert operator.get("/api/v1/nodes/node-1").json()["ram_budget_mb"] == 1024
    assert operator.get("/api/v1/nodes/node-2").status_code == 404


# --- Strictness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("patch", "/api/v1/models/tiny", {"enabeld": False}, "enabeld"),
        ("patch", "/api/v1/models/tiny", {"enabled": "no"}, "enabled"),
        ("patch", "/api/v1/models/tiny", {"enabled": 0}, "enabled"),
        ("patch", "/api/v1/models/tiny", {"enabled": None}, "enabled"),
        ("patch", "/api/v1/models/tiny", {"display_name": 5}, "display_name"),
        ("patch", "/api/v1/models/tiny", {"display_name": "a\x00b"}, "display_name"),
        ("patch", "/api/v1/models/tiny", {"display_name": "x" * 201}, "display_name"),
        ("patch", "/api/v1/models/tiny", {"extra_capabilities": "legal"}, "extra_capabilities"),
        ("patch", "/api/v1/models/tiny", {"extra_capabilities": [1]}, "extra_capabilities[0]"),
        ("patch", "/api/v1/models/tiny", {"extra_capabilities": ["Not A Word"]}, "extra_capabilities"),
        ("patch", "/api/v1/models/tiny", [], None),
        ("post", "/v1/models/default", {}, "model_id"),
        ("post", "/v1/models/default", {"model_id": ""}, "model_id"),
        ("post", "/v1/models/default", {"model_id": "tiny", "model": "tiny"}, "model"),
        ("post", "/v1/models/register", {"id": "x"}, "path"),
        ("post", "/v1/models/register", {"id": "x", "path": "y", "version": 1}, "version"),
        ("post", "/v1/models/register", {"id": "x", "path": "tiny.gguf", "version": "one"}, "version"),
        ("post", "/api/v1/models/tiny/promote", {}, "version"),
        ("post", "/api/v1/models/tiny/load", {"nodes": "all"}, "nodes"),
        ("post", "/api/v1/scan", {"deep": True}, "deep"),
    ],
)
def test_a_bad_body_is_400_naming_the_field(
    operator: APIClient, method: str, path: str, body: object, param: str | None
) -> None:
    response = getattr(operator, method)(path, body, format="json")
    assert response.status_code == 400
    assert error(response)["type"] == "invalid_request_error"
    assert error(response)["param"] == param


def test_an_unknown_field_is_told_what_is_allowed(operator: APIClient) -> None:
    response = operator.patch("/api/v1/models/tiny", {"enabeld": False}, format="json")
    assert "allowed: display_name, enabled, preload, replicas, extra_capabilities" in error(response)["message"]


def test_a_body_with_two_faults_names_both_and_changes_nothing(operator: APIClient) -> None:
    response = operator.patch("/api/v1/models/tiny", {"enabled": 1, "preload": "x", "display_name": "Y"}, format="json")
    assert "'enabled'" in error(response)["message"]
    assert "'preload'" in error(response)["message"]
    assert Model.objects.get(name="tiny").display_name != "Y"


def test_a_repeated_key_is_refused(operator: APIClient) -> None:
    response = operator.patch(
        "/api/v1/models/tiny", b'{"enabled": true, "enabled": false}', content_type="application/json"
    )
    assert (response.status_code, error(response)["code"]) == (400, "invalid_json")


def test_a_form_is_not_json(operator: APIClient) -> None:
    response = operator.post("/v1/models/default", "model_id=tiny", content_type="application/x-www-form-urlencoded")
    assert (response.status_code, error(response)["code"]) == (415, "unsupported_media_type")


def test_a_body_beyond_the_limit_is_413(operator: APIClient) -> None:
    body = b'{"model_id": "' + b"x" * (3 * 1024 * 1024) + b'"}'
    response = operator.post("/v1/models/default", body, content_type="application/json")
    assert (response.status_code, error(response)["code"]) == (413, "body_too_large")


def test_another_method_is_405_and_the_allowed_ones_are_named(operator: APIClient) -> None:
    response = operator.delete("/api/v1/models/tiny")
    assert (response.status_code, error(response)["code"]) == (405, "method_not_allowed")
    assert response["Allow"] == "GET, PATCH, HEAD, OPTIONS"
