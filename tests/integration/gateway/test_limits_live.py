"""Limits with everything real but the model: two gateway processes, a supervisor, PostgreSQL. (There is no Redis here
at all: gateways and supervisors do without.)"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psycopg
import pytest
import pytest_asyncio

from quotas.callers import digest, prefix, secret_make
from tests.integration.gateway.process import GatewayProcesses, gateway_processes
from tests.own_postgres import OwnPostgres
from tests.waiting import until_answer

if TYPE_CHECKING:
    from tests.integration.supervisor.running import NodeProcess

SHIFTED_CLOCK = Path(__file__).parent / "shifted_clock"


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[OwnPostgres]:
    postgres = OwnPostgres(tmp_path / "pg")
    postgres.start()
    yield postgres
    postgres.stop()


@pytest_asyncio.fixture
async def node(tmp_path: Path, postgres: OwnPostgres) -> "AsyncIterator[NodeProcess]":
    from tests.integration.supervisor.running import NodeProcess  # imports models, which need Django to be set up

    await postgres.migrate()
    node = NodeProcess(tmp_path, {"DATABASE_URL": postgres.url})
    yield node
    await node.stop_if_it_runs()


@asynccontextmanager
async def serving(node: "NodeProcess", *stub: str, **variables: str) -> AsyncIterator[GatewayProcesses]:
    """A supervisor and two gateways that list the model ``tiny``."""
    await node.start(*stub)
    async with gateway_processes({**node.environment, **variables}) as gateways:
        node.drop_model("tiny")
        await gateways.until_listed("tiny")
        yield gateways


def limit(url: str, **quota: Any) -> None:
    _revise(url, json.dumps({"throttling_enabled": False, **quota}))


def give_limits_up(url: str) -> None:
    _revise(url, None)


def _revise(url: str, quota: str | None) -> None:
    with psycopg.connect(url) as session:
        session.execute(
            "INSERT INTO quotas_quotarevision (model_id, number, quota, author, comment, created_at) "
            "SELECT m.id, (SELECT count(*) + 1 FROM quotas_quotarevision), %s, '', '', now() FROM registry_model m",
            [quota],
        )


async def chat(gateways: GatewayProcesses, key: str = "", **fields: Any) -> tuple[int, Any, Any]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello!"}], **fields}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with gateways.client.post("/v1/chat/completions", json=body, headers=headers) as response:
        return response.status, response.headers, await response.json()


async def test_of_a_limit_of_three_never_four_run_and_no_permit_lies_idle_while_someone_waits(
    node: "NodeProcess", postgres: OwnPostgres, tmp_path: Path
) -> None:
    log = tmp_path / "running"
    async with serving(node, "--token-seconds", "0.02", "--running-log", str(log)) as gateways:
        assert (await chat(gateways))[0] == 200
        limit(postgres.url, max_concurrent_requests=3)
        await gateways.until_healthy("ok")
        await until_limit_is_known(gateways, node)
        log.unlink()
        answers = await asyncio.gather(
            *(chat(gateways, max_tokens=5 + number % 10, ignore_eos=True) for number in range(90))
        )
    assert [status for status, _, _ in answers] == [200] * 90
    samples = [(float(at), int(running)) for at, running in map(str.split, log.read_text().splitlines())]
    assert max(running for _, running in samples) == 3
    first_full = next(number for number, (_, running) in enumerate(samples) if running == 3)
    last_start = max(number for number in range(1, len(samples)) if samples[number][1] > samples[number - 1][1])
    """Between these two others waited all the time."""
    crowded = list(pairwise(samples[first_full : last_start + 1]))
    idle = sum((3 - running) * (until - since) for (since, running), (until, _) in crowded)
    share = idle / (3 * (samples[last_start][0] - samples[first_full][0]))
    print(f"of the three permits {share:.1%} of the time was on its way")
    # Those that end in the same moment may leave none running for that moment; a permit that was lost, or waited for
    # the next poll of whoever holds it, would be idle for a third of the time and more.
    assert share < 0.3


async def until_limit_is_known(gateways: GatewayProcesses, node: "NodeProcess") -> None:
    """Both gateways report it; each ask may reach either."""

    async def limited() -> int:
        async with gateways.client.get("/metrics/quotas") as response:
            report = await response.json() if response.status == 200 else {}
        return int(report.get("limited_models", 0))

    await until_answer(limited, bool, in_a_row=6)


async def test_limits_that_a_model_gives_up_hold_nobody_any_more(node: "NodeProcess", postgres: OwnPostgres) -> None:
    async with serving(node) as gateways:
        for change, status in ((partial(limit, hourly_request_limit=0), 429), (give_limits_up, 200)):
            change(postgres.url)
            await until_answer(partial(chat, gateways), lambda answer, wanted=status: answer[0] == wanted, in_a_row=8)  # type: ignore[misc]


async def test_a_window_turns_while_requests_come(node: "NodeProcess", postgres: OwnPostgres) -> None:
    """The gateways' clocks stand some seconds before an hour's end."""
    now = datetime.now(UTC)
    left = 3600 - now.minute * 60 - now.second
    shift = {"PYTHONPATH": str(SHIFTED_CLOCK), "SHIFT_SECONDS": str(left - 12)}
    async with serving(node, **shift) as gateways:
        limit(postgres.url, hourly_request_limit=4)
        await until_limit_is_known(gateways, node)
        before: list[int] = []
        while (answer := await chat(gateways))[0] == 200:
            before.append(answer[0])
        status, headers, body = answer
        assert (status, body["error"]["code"]) == (429, "quota_exceeded")
        assert int(headers["Retry-After"]) <= 12
        status, headers, _ = await until_answer(partial(chat, gateways), lambda answer: answer[0] == 200)
        assert int(headers["x-ratelimit-reset-requests"].removesuffix("s")) > 3500
        after = [(await chat(gateways))[0] for _ in range(6)]
    assert len(before) == 4
    assert after.count(200) == 3
    with psycopg.connect(postgres.url) as session:
        rows = session.execute(
            "SELECT taken, extract(epoch FROM ends_at - starts_at)::int FROM quotas_window ORDER BY starts_at"
        ).fetchall()
    assert rows == [(4, 3600), (4, 3600)]


@pytest.mark.parametrize(("policy", "status"), [("closed", 503), ("open", 200)])
async def test_while_postgresql_is_away_the_lease_is_spent_and_then_it_is_as_configured(
    node: "NodeProcess", postgres: OwnPostgres, policy: str, status: int
) -> None:
    async with serving(node) as gateways:
        limit(postgres.url, hourly_token_limit=10_000, on_database_loss=policy)
        await until_limit_is_known(gateways, node)
        assert (await chat(gateways, max_tokens=3))[0] == 200
        postgres.stop()
        health = await gateways.until_healthy("degraded")
        assert health["quotas"]["on_database_loss"] == {"tiny": policy}
        assert (f"on_database_loss: {policy}" in " ".join(health["reasons"])) is (policy == "closed")
        answer = await chat(gateways, max_tokens=4_000)
        assert answer[0] == status, answer[2]
        if status == 503:
            assert answer[2]["error"]["code"] == "quota_unavailable"
        postgres.start()
        await gateways.until_healthy("ok")
        assert (await chat(gateways, max_tokens=3))[0] == 200


class Keys:
    """As an admin's service writes them, one transaction each."""

    def __init__(self, session: "psycopg.AsyncConnection[Any]", tenant: int) -> None:
        self._session = session
        self._tenant = tenant

    @classmethod
    async def of_a_tenant(cls, url: str) -> "Keys":
        session = await psycopg.AsyncConnection.connect(url, autocommit=True)
        cursor = await session.execute(
            "INSERT INTO quotas_tenant (name, weight, created_at) VALUES ('acme', 1, now()) RETURNING id"
        )
        row = await cursor.fetchone()
        assert row is not None
        return cls(session, row[0])

    async def create(self) -> str:
        secret = secret_make()
        await self._session.execute(
            "INSERT INTO quotas_apikey (tenant_id, name, prefix, digest, role, created_at, max_priority, line, "
            "tokens_per_hour) VALUES (%s, '', %s, %s, 'inference', now(), 5, gen_random_uuid(), 100000)",
            [self._tenant, prefix(secret), digest(secret)],
        )
        return secret

    async def revoke(self, secret: str) -> None:
        await self._session.execute("UPDATE quotas_apikey SET revoked_at = now() WHERE digest = %s", [digest(secret)])

    async def close(self) -> None:
        await self._session.close()


async def test_a_thousand_keys_come_and_go_while_requests_flow(node: "NodeProcess", postgres: OwnPostgres) -> None:
    async with serving(node, NOPENAI_REQUIRE_API_KEY="0") as gateways:
        keys = await Keys.of_a_tenant(postgres.url)
        steady = await keys.create()
        await until_known(gateways, steady, known=True)
        flowing = asyncio.create_task(flow(gateways, steady))
        secrets = [await keys.create() for _ in range(1000)]
        took = {"created": await until_known(gateways, secrets[-1], known=True)}
        for secret in secrets:
            await keys.revoke(secret)
        took["revoked"] = await until_known(gateways, secrets[-1], known=False)
        for secret in secrets[::100]:
            assert not await known_to(gateways, secret)
        flowing.cancel()
        (latencies,) = await asyncio.gather(flowing, return_exceptions=True)
        await keys.close()
    assert isinstance(latencies, list) and len(latencies) > 50
    latencies.sort()
    print(f"{took}; {len(latencies)} requests, p99 {latencies[len(latencies) * 99 // 100] * 1000:.0f} ms")


async def flow(gateways: GatewayProcesses, key: str) -> list[float]:
    """Requests one after the other, until cancelled: how long each took."""
    latencies = []
    try:
        while True:
            began = time.monotonic()
            status, headers, body = await chat(gateways, key, max_tokens=3)
            assert status == 200, body
            assert headers["x-ratelimit-limit-tokens"] == "100000", headers
            latencies.append(time.monotonic() - began)
    except asyncio.CancelledError:
        return latencies


async def until_known(gateways: GatewayProcesses, secret: str, *, known: bool) -> float:
    """Until both gateways know a key, or no longer do: seconds."""
    began = time.monotonic()
    await until_answer(partial(known_to, gateways, secret), lambda found: found is known, in_a_row=8)
    return round(time.monotonic() - began, 3)


async def known_to(gateways: GatewayProcesses, secret: str) -> bool:
    """Whether the gateway that answers knows it: its own limits are told then."""
    async with aiohttp.ClientSession(gateways.url) as client:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1}
        headers = {"Authorization": f"Bearer {secret}"}
        async with client.post("/v1/chat/completions", json=body, headers=headers) as response:
            return "x-ratelimit-limit-tokens" in response.headers
