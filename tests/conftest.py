"""What all tests share: a private environment, set before Django's settings load, and real servers when asked for.

No test touches an installation of the machine's owner: every variable that could lead to one is replaced here.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import django
import pytest
from hypothesis import settings

from nopenai_site import environment
from nopenai_site.secret_key import secret_key_make
from tests.services import running_services

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

_FOLDERS = ("unit", "integration", "acceptance", "browser")

_TEMPORARY = Path(tempfile.mkdtemp(prefix="nopenai-tests-"))
atexit.register(shutil.rmtree, _TEMPORARY, ignore_errors=True)


def _isolate() -> environment.Environment:
    for name in [name for name in os.environ if name.startswith(("NOPENAI_", "OTEL_"))]:
        del os.environ[name]
    os.environ.pop("DATABASE_URL", None)
    os.environ.pop("REDIS_URL", None)
    os.environ["NOPENAI_DATA_DIR"] = str(_TEMPORARY / "data")
    os.environ["NOPENAI_LOG_DIR"] = str(_TEMPORARY / "logs")
    os.environ["NOPENAI_MODELS_DIR"] = str(_TEMPORARY / "models")
    loaded = environment.load()
    os.environ["DATABASE_URL"] = environment.embedded_database_url(loaded)
    os.environ["REDIS_URL"] = environment.embedded_redis_url(loaded)
    # Named in pyproject.toml, pytest-django would load the settings before this file is read.
    secret_key_make(loaded.data_dir)
    os.environ["DJANGO_SETTINGS_MODULE"] = "nopenai_site.settings"
    return environment.load()


_ENVIRONMENT = _isolate()


def pytest_configure() -> None:
    django.setup()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cheap tests first. pytest-django puts those with a database before all others, here within a folder only."""
    items.sort(key=lambda item: next((rank for rank, name in enumerate(_FOLDERS) if name in item.path.parts), 0))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where ``CI=true`` a skipped test is a failed run: there everything that a test could need is to be there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def test_environment() -> environment.Environment:
    """The environment that Django's settings were made of."""
    return _ENVIRONMENT


@pytest.fixture(scope="session")
def services() -> Iterator[None]:
    """Real PostgreSQL and Redis, once for the whole run."""
    with running_services(_ENVIRONMENT):
        yield


@pytest.fixture(scope="session")
def django_db_modify_db_settings(services: None) -> None:
    """Whoever asks pytest-django for a database gets the server too."""


@pytest.fixture(scope="session")
def database_url(django_db_setup: None) -> str:
    """The migrated test database, for processes that a test starts (they see committed rows only)."""
    from django.db import connection

    return environment.embedded_database_url(_ENVIRONMENT).replace(
        "/nopenai?", f"/{connection.settings_dict['NAME']}?", 1
    )
