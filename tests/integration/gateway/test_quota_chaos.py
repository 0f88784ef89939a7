"""Four gateways that are killed and come back, hundreds of clients, one limit for all: it is never exceeded.

What is counted is what workers have made, whoever got it: also of requests whose gateway died over them.
"""

import asyncio
import json
import operator
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psycopg
import pytest_asyncio

from tests.integration.gateway.process import GatewayProcesses, gateway_processes
from tests.own_postgres import OwnPostgres
from tests.waiting import until_answer

if TYPE_CHECKING:
    from tests.integration.supervisor.running import NodeProcess

LIMIT = 100_000
CLIENTS = 400
REFUSED_SECONDS = 1.0
SEEDS = 20
KILLS = 2
"""In each seed, of four gateways."""


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> "AsyncIterator[NodeProcess]":
    from tests.integration.supervisor.running import NodeProcess  # imports models, which need Django to be set up

    postgres = OwnPostgres(tmp_path / "pg")
    postgres.start()
    await postgres.migrate()
    node = NodeProcess(tmp_path, {"DATABASE_URL": postgres.url, "NOPENAI_TIME_ZONE": zone_whose_hour_is_young()})
    yield node
    await node.stop_if_it_runs()
    postgres.stop()


class Chaos:
    """One seed: a model with a limit of its own, clients until it is used up, and a gateway killed now and then."""

    def __init__(self, seed: int, gateways: GatewayProcesses, client: aiohttp.ClientSession, tallies: Path) -> None:
        self.model = f"m{seed}"
        self.killed = 0
        self._served = time.monotonic()
        self._random = random.Random(seed)
        self._gateways = gateways
        self._client = client
        self._tally = tallies / self.model

    @property
    def made(self) -> int:
        """Tokens that its worker has made."""
        return self._tally.stat().st_size if self._tally.exists() else 0

    async def run(self) -> None:
        killing = asyncio.create_task(self._kill())
        await asyncio.gather(*(self._ask_until_refused(random.Random(f"{self.model}/{n}")) for n in range(CLIENTS)))
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)

    async def _ask_until_refused(self, rng: random.Random) -> None:
        """Refused for what others were promised, as many are at first, it asks again: until nobody gets anything."""
        refused = False
        while not (refused and time.monotonic() - self._served > REFUSED_SECONDS):
            body: dict[str, Any] = {
                "model": self.model,
                "messages": [{"role": "user", "content": "word " * rng.randint(1, 60)}],
                "ignore_eos": True,
                "stream": rng.random() < 0.5,
            }
            if rng.random() < 0.8:
                body["max_tokens"] = rng.randint(1, 300)
            with suppress(aiohttp.ClientError, ConnectionError):  # its gateway was killed
                async with self._client.post("/v1/chat/completions", json=body) as response:
                    if response.status == 200:
                        self._served = time.monotonic()
                    if response.status == 200 and rng.random() < 0.1:
                        await response.content.readany()  # and leaves
                    else:
                        text = await response.text()
                        assert response.status in (200, 429, 503), text
                        refused = response.status == 429

    async def _kill(self) -> None:
        """When so much is used, whichever gateway it meets."""
        for used in sorted(self._random.randint(1, LIMIT * 3 // 4) for _ in range(KILLS)):
            await until_answer(self._made, partial(operator.le, used))
            if victims := self._gateways.worker_pids():
                with suppress(ProcessLookupError):
                    os.kill(self._random.choice(victims), signal.SIGKILL)
                    self.killed += 1

    async def _made(self) -> int:
        return self.made


Standing = dict[str, tuple[int, int, int]]
"""Of each model's window what is leased, spent and promised."""


def standing(url: str) -> Standing:
    with psycopg.connect(url) as session:
        rows = session.execute(
            """
            SELECT m.name, w.taken, w.earlier + coalesce(sum(l.spent), 0), coalesce(sum(l.reserved), 0)
            FROM quotas_window w LEFT JOIN quotas_lease l ON l.window_id = w.id
            JOIN registry_model m ON w.account = 'model:' || m.id || '/tokens/hour'
            GROUP BY m.name, w.id
            """
        ).fetchall()
    return {name: (taken, int(spent), int(reserved)) for name, taken, spent, reserved in rows}


def settled(found: Standing) -> bool:
    return len(found) == SEEDS and all(taken == spent and not reserved for taken, spent, reserved in found.values())


def limit_every_model(url: str) -> None:
    """As soon as it is found. They are not slowed down on the way: it is the end that matters here."""
    quota = {"hourly_token_limit": LIMIT, "throttling_enabled": False}
    with psycopg.connect(url) as session:
        session.execute(
            "INSERT INTO quotas_quotarevision (model_id, number, quota, author, comment, created_at) "
            "SELECT id, 1, %s, '', '', now() FROM registry_model",
            [json.dumps(quota)],
        )


def zone_whose_hour_is_young() -> str:
    """Half an hour at least is left of it."""
    return "Asia/Kolkata" if datetime.now(UTC).minute >= 30 else "UTC"


async def test_a_limit_is_never_exceeded_whatever_dies(node: "NodeProcess", tmp_path: Path) -> None:
    tallies = tmp_path / "tallies"
    tallies.mkdir()
    url = node.environment["DATABASE_URL"]
    await node.start("--token-seconds", "0.001", "--tally", str(tallies), "--context-tokens", "1000")
    killed = 0
    async with gateway_processes(node.environment, workers=4) as gateways:
        for seed in range(SEEDS):
            node.drop_model(f"m{seed}")
        await gateways.until_listed(*sorted(f"m{seed}" for seed in range(SEEDS)))
        limit_every_model(url)
        await gateways.until_limited("m0")
        async with a_client(gateways) as client:
            made = {}
            for seed in range(SEEDS):
                chaos = Chaos(seed, gateways, client, tallies)
                await chaos.run()
                killed += chaos.killed
                made[chaos.model] = chaos
                assert chaos.made <= LIMIT, f"seed {seed}"
        # What the dead held is taken back, what they had promised is charged, and what lies idle is given back.
        found = await until_answer(partial(asyncio.to_thread, standing, url), settled)
    assert killed >= SEEDS, "the clients were through before anybody was killed"
    for model, (taken, spent, _) in found.items():
        assert made[model].made <= spent == taken <= LIMIT, model


@asynccontextmanager
async def a_client(gateways: GatewayProcesses) -> AsyncIterator[aiohttp.ClientSession]:
    """Of as many connections as it likes, that stay with their gateway until that dies."""
    async with aiohttp.ClientSession(
        gateways.url, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60)
    ) as client:
        yield client
