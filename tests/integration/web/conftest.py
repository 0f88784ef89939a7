"""A fixed cast, a models directory with real (tiny) GGUFs, and servers with and without required keys."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pytest_django import Settings

if TYPE_CHECKING:  # pytest loads this file before Django is set up
    from django.test import Client
    from rest_framework.test import APIClient


@pytest.fixture
def models_dir(tmp_path: Path, settings: Settings) -> Path:
    """The only models directory, empty. Backends may be on this machine."""
    folder = tmp_path / "models"
    folder.mkdir()
    settings.NOPENAI = replace(
        settings.NOPENAI, models_dirs=(folder,), starter_model=False, remote_networks=(ip_network("127.0.0.0/8"),)
    )
    return folder


@pytest.fixture
def models(models_dir: Path, db: None) -> Path:
    """``tiny`` and ``org/other:F32`` discovered in two files, and a node that could load them."""
    from registry import services
    from tests.gguf_files import write_model

    write_model(models_dir / "tiny.gguf", name="Tiny")
    write_model(models_dir / "spare" / "spare.gguf", name="Spare", seed=1)
    services.models_scan(models_dirs=(models_dir,), starter_model=False)
    services.model_register(name="org/other:F32", path=str(models_dir / "spare"), models_dirs=(models_dir,))
    services.node_register(name="node-1", ram_budget_mb=1024, pid=1)
    return models_dir


@pytest.fixture
def keys_required(settings: Settings) -> None:
    """As on a host that is not loopback."""
    settings.NOPENAI = replace(settings.NOPENAI, require_api_key=True)
    settings.ALLOWED_HOSTS = ["*"]


@pytest.fixture
def keys_not_required(settings: Settings) -> None:
    """As on a loopback host."""
    settings.NOPENAI = replace(settings.NOPENAI, require_api_key=False)


@pytest.fixture
def caller(db: None) -> "Callable[[str | None], APIClient]":
    """A client with a key of that role; with none for ``outsider``, an unknown one for ``impostor``."""
    from rest_framework.test import APIClient

    from quotas import callers
    from quotas.access import services

    def client(role: str | None) -> APIClient:
        secrets = {"outsider": None, "impostor": callers.secret_make()}
        secret = secrets[role] if role in secrets else services.key_create(role=str(role))[1]
        made = APIClient(raise_request_exception=False)
        if secret is not None:
            made.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
        return made

    return client


@pytest.fixture
def operator(caller: "Callable[[str], APIClient]") -> "APIClient":
    return caller("operator")


@pytest.fixture
def admin(caller: "Callable[[str], APIClient]") -> "APIClient":
    return caller("admin")


@pytest.fixture
def root(db: None) -> "Client":
    """A superuser's browser in the admin."""
    from tests.integration.web.staff import superuser

    return superuser()


@pytest.fixture
def database_away(transactional_db: None) -> Iterator[None]:
    """PostgreSQL can't be reached from here on: a connection to nowhere, refused by the real driver."""
    from django.db import connection

    connection.close()
    host: Any = connection.settings_dict["HOST"]
    connection.settings_dict["HOST"] = "/nonexistent"
    yield
    connection.settings_dict["HOST"] = host
    connection.close()
