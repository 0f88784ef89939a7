"""A node of our own for each test."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest_asyncio

if TYPE_CHECKING:
    from tests.integration.supervisor.running import NodeProcess


@pytest_asyncio.fixture
async def lone_node(tmp_path: Path) -> "AsyncIterator[NodeProcess]":
    """A node whose PostgreSQL is away, as it may be at any start. Not started yet; stopped at the end."""
    from tests.integration.supervisor.running import NodeProcess

    node = NodeProcess(tmp_path, {"DATABASE_URL": f"postgresql://nobody@/none?host={tmp_path}"})
    yield node
    await node.stop_if_it_runs()


@pytest_asyncio.fixture
async def node(tmp_path: Path, database_url: str, transactional_db: None) -> "AsyncIterator[NodeProcess]":
    """A node with PostgreSQL. Not started yet; stopped at the end, whatever the test left of it."""
    from tests.integration.supervisor.running import NodeProcess  # imports models, which need Django to be set up

    node = NodeProcess(tmp_path, {"DATABASE_URL": database_url})
    yield node
    await node.stop_if_it_runs()
