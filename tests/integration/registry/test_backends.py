"""Backends elsewhere in the registry: registered, sealed, checked, and left alone by all that looks for files."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from pytest_django import Settings

from registry import editing, services
from registry.backends import selectors
from registry.backends.models import RemoteBackend
from registry.backends.services import (
    backend_forget,
    backend_register,
    backend_set_key,
    backends_check,
)
from registry.errors import Conflict, InvalidRequest
from registry.health.selectors import models_health
from registry.health.services import health_check, model_check
from registry.models import HealthTransition, Model, Version
from registry.selectors import catalogue_load, replicas_desired, revision_read
from tests.integration.registry.reading import Scan
from tests.listed_backend import ListedBackend, listed_backend

SECRET = "sk-very-secret"

pytestmark = pytest.mark.django_db


@pytest.fixture
def backend(settings: Settings) -> Iterator[ListedBackend]:
    settings.NOPENAI = replace(settings.NOPENAI, remote_networks=(ip_network("127.0.0.0/8"),))
    with listed_backend() as listed:
        yield listed


def register(backend: ListedBackend, **changes: Any) -> Version:
    fields: dict[str, Any] = {"name": "away", "url": backend.url, "model": "theirs", "api_key": SECRET}
    return backend_register(**(fields | changes))


def test_a_backend_becomes_a_model_that_can_be_asked(backend: ListedBackend) -> None:
    version = register(backend)
    assert (version.number, version.health, version.source) == ("1.0.0", "healthy", "remote")
    model = catalogue_load().models["away"]
    assert model.promoted is not None
    assert (model.promoted.remote, model.promoted.files) == (True, ())
    assert model.promoted.capabilities == {"chat", "completion", "tools"}
    assert model.is_default
    assert backend.keys == [f"Bearer {SECRET}"]


def test_its_key_lies_sealed_in_sql_and_gateways_get_it(backend: ListedBackend) -> None:
    version = register(backend)
    row = RemoteBackend.objects.get(pk=version.pk)
    assert SECRET.encode() not in bytes(row.sealed_key)
    assert selectors.backends_load()[version.pk].api_key == SECRET


def test_a_sealed_key_that_was_moved_to_another_row_opens_nothing(backend: ListedBackend) -> None:
    version = register(backend)
    other = register(backend, name="other", url=f"{backend.url}/other", api_key="")
    sealed = bytes(RemoteBackend.objects.get(pk=version.pk).sealed_key)
    RemoteBackend.objects.filter(pk=other.pk).update(sealed_key=sealed)
    loaded = selectors.backends_load()[other.pk]
    assert loaded.api_key == ""
    assert "set the key anew" in loaded.fault


def test_under_another_secret_key_it_is_told_and_nothing_is_sent(backend: ListedBackend, settings: Settings) -> None:
    version = register(backend)
    settings.SECRET_KEY = "another installation's"
    backends_check()
    backends_check()
    version.refresh_from_db()
    assert (version.health, len(backend.keys)) == ("unhealthy", 1)
    assert "secret_key" in version.health_reason


def test_asking_again_for_what_is_so_changes_nothing(backend: ListedBackend) -> None:
    register(backend)
    before = revision_read()
    register(backend, api_key="")
    assert revision_read() == before
    assert selectors.backend_find(name="away", number="1.0.0").has_key


@pytest.mark.parametrize("changes", [{"model": "other"}, {"url": "http://127.0.0.2:9/v1"}])
def test_a_version_is_immutable(backend: ListedBackend, changes: dict[str, Any]) -> None:
    register(backend)
    with pytest.raises(Conflict, match="immutable"):
        register(backend, **changes)
    assert register(backend, **changes, version="1.1.0").number == "1.1.0"


def test_sql_lets_nobody_change_where_a_backend_is(backend: ListedBackend) -> None:
    version = register(backend)
    with pytest.raises(IntegrityError, match="new version"), transaction.atomic():
        RemoteBackend.objects.filter(pk=version.pk).update(url="https://evil.example/v1")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"url": "ftp://x"}, "url"),
        ({"url": "http://10.0.0.1/v1"}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": "https://u:p@x/v1"}, "url"),
        ({"model": ""}, "model"),
        ({"api_key": "sk\r\nX-Evil: 1"}, "api_key"),
        ({"name": "auto"}, "id"),
        ({"version": "one"}, "version"),
        ({"capabilities": ["Chat!"]}, "capabilities"),
    ],
)
def test_what_can_not_be_is_refused_by_its_field(backend: ListedBackend, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        register(backend, **changes)
    assert refused.value.param == param
    assert "sk\r\n" not in refused.value.message
    assert not Model.objects.exists()


# --- Checks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "health", "told"),
    [
        (200, "healthy", ""),
        (404, "healthy", ""),
        (401, "unhealthy", "does not take our API key"),
        (302, "unhealthy", "not followed"),
        (500, "unhealthy", "status 500"),
    ],
)
def test_how_it_answers_is_its_health(backend: ListedBackend, status: int, health: str, told: str) -> None:
    backend.status = status
    version = register(backend)
    assert version.health == health
    assert told in version.health_reason
    assert SECRET not in version.health_reason


def test_one_that_does_not_list_its_model_is_degraded(backend: ListedBackend) -> None:
    backend.models = ["another"]
    version = register(backend)
    assert (version.health, version.health_reason) == ("degraded", "its backend does not list 'theirs'")


def test_one_missed_check_is_forgiven_two_are_not_and_one_success_heals(backend: ListedBackend) -> None:
    version = register(backend)
    backend.status = 500
    seen = []
    for status in (500, 500, 500, 200):
        backend.status = status
        backends_check()
        version.refresh_from_db()
        seen.append(version.health)
    assert seen == ["degraded", "unhealthy", "unhealthy", "healthy"]


def test_a_check_that_finds_nothing_new_announces_nothing(backend: ListedBackend) -> None:
    register(backend)
    before = revision_read()
    assert backends_check() == 1
    assert revision_read() == before


def test_a_backend_that_is_away_is_unhealthy_with_the_reason(backend: ListedBackend) -> None:
    version = register(backend, url="http://127.0.0.1:9/v1")
    assert version.health == "unhealthy"
    assert "can't be reached" in version.health_reason


def test_a_name_that_leads_to_a_private_address_is_never_asked(backend: ListedBackend, settings: Settings) -> None:
    settings.NOPENAI = replace(settings.NOPENAI, remote_networks=())
    version = register(backend, url=backend.url.replace("127.0.0.1", "localhost"))
    assert version.health == "unhealthy"
    assert "private address" in version.health_reason
    assert backend.keys == []


def test_the_check_of_files_leaves_it_as_it_is(backend: ListedBackend, models_dir: Path) -> None:
    backend.status = 500
    version = register(backend)
    health_check(models_dirs=(models_dir,), starter_model=False)
    version.refresh_from_db()
    assert (version.health, version.health_reason) == ("unhealthy", "its backend fails (status 500)")


def test_a_check_that_somebody_asks_for_asks_the_backend_and_shows(backend: ListedBackend, models_dir: Path) -> None:
    version = register(backend)
    backend.status = 401
    model_check(name="away", models_dirs=(models_dir,), starter_model=False)
    model_check(name="away", models_dirs=(models_dir,), starter_model=False)
    (found,) = models_health(names=["away"])
    (check,) = found.checks
    assert (found.health_status, check.name, check.result) == ("unhealthy", "backend", "failed")
    assert "does not take our API key" in check.reason
    assert HealthTransition.objects.filter(version=version, after="unhealthy").exists()


# --- Its key ---------------------------------------------------------------------------------------------------------


def test_another_key_is_tried_and_heals(backend: ListedBackend) -> None:
    backend.status = 401
    register(backend)
    before = revision_read()
    backend.status = 200
    assert backend_set_key(name="away", number=None, api_key="sk-new").health == "healthy"
    assert backend.keys[-1] == "Bearer sk-new"
    assert revision_read() > before
    backend_set_key(name="away", number=None, api_key="")
    assert backend.keys[-1] is None


# --- Among files -----------------------------------------------------------------------------------------------------


def test_scans_and_hashes_leave_it_as_it_is(backend: ListedBackend, scan: Scan) -> None:
    version = register(backend)
    scan()
    services.versions_hash()
    version.refresh_from_db()
    assert (version.file_state, version.health, version.sha256) == ("present", "healthy", "")


def test_it_is_never_loaded(backend: ListedBackend) -> None:
    version = register(backend)
    services.node_register(name="n", ram_budget_mb=1, pid=1)
    with pytest.raises(InvalidRequest, match="nothing to load"):
        services.replica_desire(node=None, version_pk=version.pk, desired="running")
    Model.objects.update(preload=True)
    assert replicas_desired("n") == []


def test_llama_cpps_parameters_are_none_of_its(backend: ListedBackend) -> None:
    register(backend)
    with pytest.raises(InvalidRequest, match="elsewhere"):
        editing.version_update(name="away", number="1.0.0", parameters={"threads": 4})


def test_it_can_be_forgotten_with_its_key(backend: ListedBackend) -> None:
    register(backend)
    register(backend, version="1.1.0", model="other")
    with pytest.raises(Conflict):
        backend_forget(name="away", number="1.0.0")
    backend_forget(name="away", number="1.1.0")
    backend_forget(name="away", number="1.0.0")
    assert not Model.objects.exists()
    assert not RemoteBackend.objects.exists()
