"""Acceptance tests use real installations: ``manage.py up``, its processes, the starter model."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.installation import Installation, end, running_installation


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One for all tests that leave it as they found it: everything started, the starter model served."""
    with running_installation(tmp_path_factory.mktemp("installation")) as shared:
        yield shared


@pytest.fixture
def own_installation(tmp_path: Path) -> Iterator[Callable[..., Installation]]:
    """Makes installations for a test that breaks them, not yet started; each is stopped at the end.

    Keyword arguments are environment variables, say ``own_installation(NOPENAI_IDLE_UNLOAD_SEC="1")``.
    """
    made: list[Installation] = []

    def make(**environment: str) -> Installation:
        made.append(Installation(tmp_path / str(len(made)), **environment))
        return made[-1]

    yield make
    for installation in made:
        end(installation)
