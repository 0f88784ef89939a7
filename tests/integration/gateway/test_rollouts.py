"""A roll-out with all that belongs to it: two gateway processes, a supervisor with stub workers, PostgreSQL."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import pytest_asyncio

from nopenai_site.environment import PROJECT_ROOT
from tests.integration.gateway.process import GatewayProcesses, gateway_processes
from tests.own_postgres import SETTINGS, OwnPostgres
from tests.waiting import until_answer

if TYPE_CHECKING:
    from tests.integration.supervisor.running import NodeProcess

NAME = "auto: good / other"

CONFIGURE = """
import json, sys
import django
django.setup()
from routing import services
services.routing_update(changes=json.loads(sys.argv[1]), author="a test")
"""


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[OwnPostgres]:
    """Not started yet."""
    postgres = OwnPostgres(tmp_path / "pg")
    yield postgres
    postgres.stop()


@pytest_asyncio.fixture
async def node(tmp_path: Path, postgres: OwnPostgres) -> "AsyncIterator[NodeProcess]":
    from tests.integration.supervisor.running import NodeProcess  # imports models, which need Django to be set up

    node = NodeProcess(tmp_path, {"DATABASE_URL": postgres.url})
    yield node
    await node.stop_if_it_runs()


@asynccontextmanager
async def rolling_out(
    node: "NodeProcess", postgres: OwnPostgres, *stub: str, **rollout: Any
) -> AsyncIterator[GatewayProcesses]:
    """From ``good`` to ``other``, once both gateways draw by the first step's share."""
    postgres.start()
    await postgres.migrate()
    await node.start(*stub)
    async with gateway_processes(node.environment) as gateways:
        for model in ("good", "other"):
            node.drop_model(model)
        await gateways.until_listed("good", "other")
        test = {"ab_test_enabled": True, "ab_test_model_a": "good", "ab_test_model_b": "other"}
        await configure(postgres, **test, ab_test_rollout=rollout)
        await until_share(gateways, rollout["steps"][0])
        yield gateways


async def configure(postgres: OwnPostgres, **changes: Any) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CONFIGURE, json.dumps(changes)),
        cwd=PROJECT_ROOT,
        env={**os.environ, "DATABASE_URL": postgres.url, "DJANGO_SETTINGS_MODULE": SETTINGS},
    )
    assert await process.wait() == 0


async def until_share(gateways: GatewayProcesses, share: float) -> None:
    """B's, in both gateways."""

    async def shown() -> float | None:
        return (await gateways.metrics()).get(("nopenai_ab_test_share", NAME))

    await until_answer(shown, lambda found: found == share, in_a_row=8)


async def answers(gateways: GatewayProcesses, requests: int) -> Counter[str]:
    """Who answered so many, of which none may fail."""
    done = await asyncio.gather(*(gateways.chat(model="auto", max_tokens=2) for _ in range(requests)))
    assert {status for status, _ in done} == {200}
    return Counter(body["model"] for _, body in done)


async def rows(postgres: OwnPostgres, query: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(postgres.url) as session:
        return await (await session.execute(query.encode())).fetchall()


async def until_counted(postgres: OwnPostgres, requests: int) -> None:
    """So many of both variants are in SQL."""
    await until_answer(partial(_counted, postgres), lambda found: found == requests)


async def _counted(postgres: OwnPostgres) -> int:
    of = "(counts->'{}'->>'requests')::int"
    query = f"SELECT coalesce(sum({of.format('a')} + {of.format('b')}), 0)::int FROM routing_experimenttally"
    return int((await rows(postgres, query))[0][0])


async def test_a_variant_that_fails_is_taken_back_and_no_client_notices(
    node: "NodeProcess", postgres: OwnPostgres
) -> None:
    fails = ("--only", "other", "--fail-after", "0")
    steps = {"steps": [0.5, 1.0], "step_seconds": 3600, "step_requests": 1000}
    async with rolling_out(node, postgres, *fails, **steps) as gateways:
        assert await answers(gateways, 120) == {"good": 120}
        await until_share(gateways, 0)
        assert await answers(gateways, 20) == {"good": 20}
    record = await node.logged("Roll-out rolled back")
    assert (record["level"], record["test"], record["share_of_b"]) == ("WARN", NAME, 0)
    assert record["reason"].startswith("B failed ")


async def test_a_good_variant_gets_everything_and_what_was_counted_while_the_database_was_away_counts(
    node: "NodeProcess", postgres: OwnPostgres
) -> None:
    steps = {"steps": [0.5, 1.0], "step_seconds": 1, "step_requests": 40}
    async with rolling_out(node, postgres, **steps) as gateways:
        await answers(gateways, 20)
        await until_counted(postgres, 20)
        postgres.stop()
        await answers(gateways, 120)
        postgres.start()
        await until_share(gateways, 1.0)
        await until_counted(postgres, 140)
        assert await answers(gateways, 60) == {"other": 60}
        assert await node.logged("Roll-out complete")
        assert await rows(postgres, "SELECT state, share_of_b FROM routing_experimentrollout") == [("complete", 1.0)]


async def test_a_supervisor_that_is_killed_takes_nothing_with_it_that_was_written(
    node: "NodeProcess", postgres: OwnPostgres
) -> None:
    steps = {"steps": [0.5, 1.0], "step_seconds": 1, "step_requests": 60}
    async with rolling_out(node, postgres, **steps) as gateways:
        await answers(gateways, 60)
        await until_counted(postgres, 60)
        await node.stop_if_it_runs()
        await node.start()
        await gateways.until_healthy("ok")
        await answers(gateways, 90)
        await until_share(gateways, 1.0)
        await until_counted(postgres, 150)
