"""Integration tests run beside real servers."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _services(services: None) -> None:
    pass
