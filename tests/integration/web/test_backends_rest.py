"""Backends elsewhere over REST, in the admin and on the command line; their keys are shown nowhere."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from registry.models import RemoteBackend, Version
from tests.listed_backend import ListedBackend, listed_backend

SECRET = "sk-very-secret"
PLACE = "/api/v1/models/away/versions/1.0.0/backend"

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("models_dir")]


@pytest.fixture
def backend() -> Iterator[ListedBackend]:
    with listed_backend() as listed:
        yield listed


def register(operator: APIClient, backend: ListedBackend, **changes: Any) -> Any:
    body = {"id": "away", "url": backend.url, "model": "theirs", "api_key": SECRET, **changes}
    return operator.post("/api/v1/backends", body, format="json")


def test_a_backend_is_registered_listed_and_shown(operator: APIClient, backend: ListedBackend) -> None:
    made = register(operator, backend, context_length=8192, capabilities=["chat"], display_name="Away")
    assert made.status_code == 201
    assert made.json() | {"keyed_at": None, "health_checked_at": None} == {
        "model": "away",
        "version": "1.0.0",
        "url": backend.url,
        "backend_model": "theirs",
        "has_key": True,
        "keyed_at": None,
        "capabilities": ["chat"],
        "context_length": 8192,
        "health_status": "healthy",
        "health_reason": "",
        "health_checked_at": None,
    }
    assert operator.get("/api/v1/backends").json() == [made.json()]
    assert operator.get(PLACE).json() == made.json()
    shown = operator.get("/api/v1/models/away").json()
    assert (shown["remote"], shown["backend"], shown["path"]) == (True, backend.url, None)


def test_its_key_is_in_no_answer(operator: APIClient, backend: ListedBackend) -> None:
    register(operator, backend)
    for path in ("/api/v1/backends", PLACE, "/api/v1/models", "/api/v1/models/away/versions"):
        assert SECRET not in operator.get(path).content.decode()


def test_a_wrong_field_is_named(operator: APIClient, backend: ListedBackend) -> None:
    answer = register(operator, backend, url="http://192.168.0.1/v1")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "url")
    assert "NOPENAI_REMOTE_NETWORKS" in answer.json()["error"]["message"]
    assert register(operator, backend, key="x").status_code == 400


def test_other_content_is_a_conflict(operator: APIClient, backend: ListedBackend) -> None:
    register(operator, backend)
    assert register(operator, backend, model="other").status_code == 409


def test_its_key_is_renewed_and_it_is_forgotten(operator: APIClient, backend: ListedBackend) -> None:
    register(operator, backend)
    assert operator.patch(PLACE, {"api_key": "sk-new"}, format="json").status_code == 200
    assert backend.keys[-1] == "Bearer sk-new"
    assert operator.delete(PLACE).status_code == 204
    assert operator.get(PLACE).status_code == 404
    assert operator.delete(PLACE).status_code == 404


@pytest.mark.usefixtures("models")
def test_a_file_has_no_backend(operator: APIClient) -> None:
    for answer in (
        operator.get("/api/v1/models/tiny/versions/1.0.0/backend"),
        operator.patch("/api/v1/models/tiny/versions/1.0.0/backend", {"api_key": "x"}, format="json"),
        operator.delete("/api/v1/models/tiny/versions/1.0.0/backend"),
    ):
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "version")


# --- The admin -------------------------------------------------------------------------------------------------------


def page(name: str, *arguments: object) -> str:
    return reverse(f"admin:registry_remotebackend_{name}", args=arguments)


def added(root: Client, backend: ListedBackend, **changes: str) -> Any:
    form = {"id": "away", "number": "1.0.0", "url": backend.url, "model": "theirs", "api_key": SECRET}
    return root.post(page("add"), {**form, "capabilities": "chat, tools", "context_length": "", **changes})


def test_the_admin_adds_one_shows_no_key_and_forgets_it(root: Client, backend: ListedBackend) -> None:
    assert added(root, backend).status_code == 302
    version = Version.objects.get()
    assert (version.capabilities, version.health) == (["chat", "tools"], "healthy")
    shown = root.get(page("change", version.pk)).content.decode()
    assert backend.url in shown
    assert SECRET not in shown + root.get(page("changelist")).content.decode()
    assert root.post(page("delete", version.pk), {"post": "yes"}).status_code == 302
    assert not Version.objects.exists()


def test_the_admin_tells_what_is_wrong(root: Client, backend: ListedBackend) -> None:
    told = root.post(page("add"), {}).content.decode()
    assert "This field is required" in told
    refused = added(root, backend, url="http://10.0.0.1/v1")
    assert "private address" in root.get(refused.headers["Location"]).content.decode()
    assert "is not a capability" in added(root, backend, capabilities="Chat!").content.decode()
    assert not RemoteBackend.objects.exists()


def test_the_admin_renews_a_key_and_keeps_it_where_none_is_typed(root: Client, backend: ListedBackend) -> None:
    added(root, backend)
    pk = Version.objects.get().pk
    before = bytes(RemoteBackend.objects.get().sealed_key)
    assert root.post(page("change", pk), {"api_key": ""}).status_code == 302
    assert bytes(RemoteBackend.objects.get().sealed_key) == before
    assert root.post(page("change", pk), {"api_key": "sk-new"}).status_code == 302
    assert backend.keys[-1] == "Bearer sk-new"


# --- The command line ------------------------------------------------------------------------------------------------


def models(*arguments: str) -> str:
    out = io.StringIO()
    call_command("models", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_the_command_line_takes_the_key_from_a_file_or_standard_input(
    backend: ListedBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    key.write_text(f"{SECRET}\n")
    printed = models("remote", "away", "--url", backend.url, "--model", "theirs", "--api-key-file", str(key))
    assert "away@1.0.0 is registered" in printed
    assert "It is healthy." in printed
    assert backend.keys == [f"Bearer {SECRET}"]
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-new\n"))
    models("set-key", "away", "--api-key-file", "-")
    assert backend.keys[-1] == "Bearer sk-new"
    assert backend.url in models("list")
    assert json.loads(models("list", "--json"))["remote"] is True
    with pytest.raises(CommandError, match="can't be read"):
        models("set-key", "away", "--api-key-file", str(tmp_path / "none"))
    models("delete", "away")
    assert not RemoteBackend.objects.exists()
