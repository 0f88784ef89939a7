"""Integration tests run beside real servers."""

from collections.abc import Callable, Iterator

import psycopg
import pytest


@pytest.fixture(scope="session", autouse=True)
def _services(services: None) -> None:
    pass


@pytest.fixture
def heard(transactional_db: None, database_url: str) -> Iterator[Callable[[], list[str]]]:
    """What was announced since the last call. A marker of our own comes after all that was committed before it."""
    with psycopg.connect(database_url, autocommit=True) as session:
        session.execute("LISTEN nopenai")

        def payloads() -> list[str]:
            session.execute("NOTIFY nopenai, 'that is all'")
            found: list[str] = []
            for notice in session.notifies(timeout=10):
                if notice.payload == "that is all":
                    return found
                found.append(notice.payload)
            raise AssertionError("the marker did not arrive")

        yield payloads
