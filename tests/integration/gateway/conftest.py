"""Gateways for tests: one with a hand-played supervisor, in this process."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio

from quotas.callers import Caller
from registry.catalogue import Model
from tests.integration.gateway.rig import Rig

StartRig = Callable[..., Awaitable[Rig]]


@pytest_asyncio.fixture
async def start_rig(tmp_path: Path) -> AsyncIterator[StartRig]:
    rigs: list[Rig] = []

    async def start(
        *models: Model, callers: dict[str, Caller] | None = None, graceful_seconds: float = 1.0, **config: Any
    ) -> Rig:
        directory = tmp_path / str(len(rigs))
        directory.mkdir()
        rig = Rig(directory, models, callers or {}, **config)
        rigs.append(rig)
        await rig.start(graceful_seconds)
        return rig

    yield start
    for rig in rigs:
        await rig.stop()
