"""Two gateway processes, a real supervisor with stub workers, and PostgreSQL: there, away, frozen."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psycopg
import pytest
import pytest_asyncio

from tests.integration.gateway.process import GatewayProcesses, gateway_processes
from tests.integration.gateway.rig import events
from tests.own_postgres import OwnPostgres
from tests.waiting import PATIENCE_SECONDS, until_answer

if TYPE_CHECKING:
    from tests.integration.supervisor.running import NodeProcess


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
async def all_that_serves_tiny(
    node: "NodeProcess", postgres: OwnPostgres, *stub: str, **policy: float
) -> AsyncIterator[GatewayProcesses]:
    """PostgreSQL, supervisor and gateways, once these list the model ``tiny``."""
    postgres.start()
    await postgres.migrate()
    await node.start(*stub, **policy)
    async with gateway_processes(node.environment) as gateways:
        node.drop_model("tiny")
        await gateways.until_listed("tiny")
        yield gateways


async def test_a_model_that_is_dropped_in_answers_and_survives_the_database(
    node: "NodeProcess", postgres: OwnPostgres
) -> None:
    """Two gateways; one load; PostgreSQL stopped while requests flow, and back."""
    postgres.start()
    await postgres.migrate()
    await node.start()
    async with gateway_processes(node.environment) as gateways:
        await gateways.until_listed()
        node.drop_model("tiny")
        await gateways.until_listed("tiny")

        answers = await asyncio.gather(*(gateways.chat(model="tiny") for _ in range(20)))
        assert [status for status, _ in answers] == [200] * 20
        assert sum(record["message"].startswith("Model loaded") for record in node.log) <= 1

        postgres.stop()
        answers = await asyncio.gather(*(gateways.chat(model="auto") for _ in range(20)))
        assert [status for status, _ in answers] == [200] * 20
        degraded = await gateways.until_healthy("degraded")
        assert "PostgreSQL has not answered since" in degraded["reasons"][0]
        assert degraded["database"]["reachable"] is False
        await gateways.until_listed("tiny")

        postgres.start()
        await gateways.until_healthy("ok")
        node.drop_model("later")
        await gateways.until_listed("later", "tiny")


async def test_after_a_clean_stop_usage_is_exact_also_of_what_was_asked_while_the_database_was_away(
    node: "NodeProcess", postgres: OwnPostgres
) -> None:
    """Two gateways, one row."""
    async with all_that_serves_tiny(node, postgres) as gateways:
        answers = await asyncio.gather(*(gateways.chat(model="tiny") for _ in range(20)))
        postgres.stop()
        answers += await asyncio.gather(*(gateways.chat(model="tiny") for _ in range(20)))
        postgres.start()
        await gateways.until_healthy("ok")
        answers += await asyncio.gather(*(gateways.chat(model="tiny") for _ in range(20)))
    used = [body["usage"] for _, body in answers]
    counted = "sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(errors)"
    with psycopg.connect(postgres.url) as session:
        row = session.execute(f"SELECT {counted} FROM quotas_usage WHERE model = 'tiny'").fetchone()
    assert row == (60, sum(each["prompt_tokens"] for each in used), sum(each["completion_tokens"] for each in used), 0)


async def test_of_gateways_that_are_killed_whole_batches_of_usage_remain_and_none_counts_twice(
    node: "NodeProcess", postgres: OwnPostgres
) -> None:
    async with all_that_serves_tiny(node, postgres) as gateways:
        answers = [await gateways.chat(model="tiny") for _ in range(20)]
        assert [status for status, _ in answers] == [200] * 20
        await until_answer(partial(requests_counted, postgres), lambda counted: counted == 20)
        asking = [asyncio.create_task(gateways.chat(model="tiny")) for _ in range(40)]
        await asking[0]
        for pid in gateways.worker_pids():
            os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*asking, return_exceptions=True)
        await gateways.until_listed("tiny")  # by those that come after them
    assert 20 <= await requests_counted(postgres) <= 60


async def requests_counted(postgres: OwnPostgres) -> int:
    async with await psycopg.AsyncConnection.connect(postgres.url) as session:
        cursor = await session.execute("SELECT coalesce(sum(requests), 0)::int FROM quotas_usage")
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def test_a_database_that_freezes_is_noticed_and_requests_go_on(
    node: "NodeProcess", postgres: OwnPostgres
) -> None:
    async with all_that_serves_tiny(node, postgres) as gateways:
        assert (await gateways.chat())[0] == 200
        with postgres.frozen():
            degraded = await gateways.until_healthy("degraded")
            assert degraded["database"]["reachable"] is False
            assert (await gateways.chat())[0] == 200
        await gateways.until_healthy("ok")


async def test_gateways_start_without_a_database_and_serve_when_it_comes(
    node: "NodeProcess", postgres: OwnPostgres
) -> None:
    async with gateway_processes(node.environment) as gateways:
        async with gateways.client.get("/health/ready") as response:
            body = await response.json()
        assert (response.status, body["error"]["code"]) == (503, "starting")
        status, body = await gateways.chat()
        assert (status, body["error"]["code"]) == (503, "starting")
        assert "PostgreSQL" in body["error"]["message"]
        assert (await gateways.health())["status"] == "starting"
        postgres.start()
        await postgres.migrate()
        await node.start()
        await gateways.until_healthy("degraded")  # no model yet
        node.drop_model("tiny")
        await gateways.until_listed("tiny")
        assert (await gateways.chat())[0] == 200


async def test_a_worker_killed_again_and_again_under_load_costs_no_answer(
    node: "NodeProcess", postgres: OwnPostgres
) -> None:
    """Both gateways lose the same worker; not-streamed answers are all retried."""
    async with all_that_serves_tiny(node, postgres, "--token-seconds", "0.005", proven=0.0) as gateways:
        assert (await gateways.chat())[0] == 200
        for _ in range(3):
            asking = [asyncio.create_task(gateways.chat()) for _ in range(30)]
            async with gateways.client.post(
                "/v1/chat/completions",
                json={"messages": [{"role": "user", "content": "stub:hang-after-1"}], "stream": True},
            ) as stream:
                os.kill(_replica_pid(stream), signal.SIGKILL)
                broken = list(events(await stream.read()))
            assert broken[-1]["error"]["code"] == "worker_failed"
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert [status for status, _ in await asyncio.gather(*asking)] == [200] * 30


async def test_running_streams_are_told_when_the_gateways_stop(node: "NodeProcess", postgres: OwnPostgres) -> None:
    async with all_that_serves_tiny(node, postgres) as gateways:
        body = {"messages": [{"role": "user", "content": "stub:hang-after-1"}], "stream": True}
        async with gateways.client.post("/v1/chat/completions", json=body) as stream:
            gateways.process.terminate()
            told = list(events(await stream.read()))
        assert told[-1]["error"]["code"] == "shutting_down"
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await gateways.process.wait() == 0


async def test_every_scrape_shows_the_sums_of_both_gateways_also_of_one_that_was_killed(
    node: "NodeProcess", postgres: OwnPostgres
) -> None:
    async with all_that_serves_tiny(node, postgres) as gateways:
        answers = await asyncio.gather(*(gateways.chat() for _ in range(40)))
        assert [status for status, _ in answers] == [200] * 40
        shown = await _until_agreed(gateways, requests=40)
        assert shown["nopenai_time_to_first_token_seconds_count", "tiny"] == 40
        assert shown["nopenai_prompt_tokens_total", "tiny"] == 40
        assert shown["nopenai_completion_tokens_total", "tiny"] == 120
        assert shown["nopenai_model_load_seconds_count", "tiny"] == 1
        assert shown["nopenai_worker_restarts_total", "tiny"] == 0

        for pid in gateways.worker_pids():
            os.kill(pid, signal.SIGKILL)  # gunicorn starts others
        await _until_answered(gateways)
        shown = await _until_agreed(gateways, requests=41)

        async with gateways.client.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hello!"}]}
        ) as response:
            os.kill(_replica_pid(response), signal.SIGKILL)
        await _until_answered(gateways)
        shown = await _until_agreed(gateways, requests=43)
        assert shown["nopenai_completion_tokens_total", "tiny"] >= 126  # a kill may lose the last counts of a worker
        assert shown["nopenai_model_load_seconds_count", "tiny"] == 2
        assert shown["nopenai_worker_restarts_total", "tiny"] == 1


async def _until_answered(gateways: GatewayProcesses) -> None:
    """Until one request was answered; while gateways are replaced, connections break."""

    async def ask() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            return (await gateways.chat())[0] == 200
        return False

    await until_answer(ask)


async def _until_agreed(gateways: GatewayProcesses, *, requests: int) -> dict[tuple[Any, ...], float]:
    """A scrape once several in a row, by either of the two, have shown so many requests."""

    def count(shown: dict[tuple[Any, ...], float]) -> float:
        return shown.get(("nopenai_model_requests_total", "tiny"), 0)

    async def scrape() -> dict[tuple[Any, ...], float]:
        shown: dict[tuple[Any, ...], float] = {}
        with contextlib.suppress(aiohttp.ClientError):
            shown = await gateways.metrics()
        assert count(shown) <= requests
        return shown

    return await until_answer(scrape, lambda shown: count(shown) == requests, in_a_row=6)


def _replica_pid(response: aiohttp.ClientResponse) -> int:
    return int(response.headers["X-NOpenAI-Replica"].rpartition("/")[2])
