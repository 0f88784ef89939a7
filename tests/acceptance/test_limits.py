"""Limits and tenants in a real installation, with a real model: the user guide's words, and one tenant's flood."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.bench.prompts import words
from tests.bench.throughput import starter_model
from tests.installation import Installation, running_installation
from tests.waiting import wait_until

MODEL = "Llama-3.3-70B-Instruct"

QUOTAS = """
{
  "model_id": "Llama-3.3-70B-Instruct",
  "quotas": {
    "max_ram_mb": 81920,
    "max_ssd_gb": 200,
    "hourly_token_limit": 1000000,
    "hourly_request_limit": 10000,
    "daily_token_limit": 20000000,
    "daily_request_limit": 200000,
    "burst_token_limit": 50000,
    "max_concurrent_requests": 50
  }
}
"""
"""The user guide's, to the letter."""

HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One with the guide's model in it, which is a small one of another name."""
    directory = tmp_path_factory.mktemp("limits")
    folder = directory / "models" / MODEL
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(starter_model().read_bytes())
    with running_installation(directory) as started:
        wait_until(lambda: started.get(f"/v1/models/{MODEL}")[0] == 200, 20)
        yield started


def curl(installation: Installation, *arguments: str) -> Any:
    """The guide's command, with this installation's port."""
    here = [argument.replace("http://localhost:8080", installation.url) for argument in arguments]
    done = subprocess.run(["curl", "-s", *here], capture_output=True, text=True, check=True, env=os.environ)
    return json.loads(done.stdout)


def report(installation: Installation) -> dict[str, Any]:
    answer = curl(installation, f"http://localhost:8080/quotas/{MODEL}/report")
    return {window["name"]: window for window in answer["windows"]}


def test_the_guides_quota_is_set_enforced_and_reported(installation: Installation) -> None:
    url = f"http://localhost:8080/quotas/{MODEL}"
    said = curl(installation, "-X", "POST", url, "-H", "Content-Type: application/json", "-d", QUOTAS)
    wanted = json.loads(QUOTAS)["quotas"]
    assert {name: said[name] for name in wanted} == wanted
    assert {name: curl(installation, url)[name] for name in wanted} == wanted

    status, answer = installation.post("/v1/chat/completions", HELLO)
    assert status == 200
    used = answer["usage"]["total_tokens"]
    wait_until(
        lambda: report(installation)["hourly_token_limit"]["used"] == used, 5, lambda: "the report never said so"
    )
    windows = report(installation)
    assert windows["daily_token_limit"]["used"] == used
    assert windows["hourly_token_limit"]["remaining"] == 1_000_000 - used
    assert windows["hourly_request_limit"]["used"] == windows["daily_request_limit"]["used"] == 1

    status, refused = installation.post("/v1/chat/completions", HELLO | {"max_tokens": 50_001})
    assert status == 429 and "burst_token_limit" in refused["error"]["message"]


def test_the_guides_metrics_are_there(installation: Installation) -> None:
    assert installation.post(f"/quotas/{MODEL}", json.loads(QUOTAS))[0] == 200
    assert installation.post("/v1/chat/completions", HELLO)[0] == 200

    def samples() -> dict[tuple[str, ...], float]:
        families = text_string_to_metric_families(installation.get("/metrics")[1].decode())
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }

    percent = "nopenai_quota_usage_percent", MODEL, "hourly"
    wait_until(lambda: 0 < samples().get(percent, 0) < 1, 10, lambda: f"{percent} is {samples().get(percent)}")
    assert 990_000 < samples()["nopenai_quota_remaining_tokens", MODEL] < 1_000_000
    detailed = curl(installation, "http://localhost:8080/metrics/quotas?detailed=true")
    assert detailed["per_model"][MODEL]["mode"] == "normal"
    assert "NOPENAI_PROFILE" in json.dumps(detailed["profiling"])


async def test_a_tenant_that_floods_a_model_waits_and_another_one_does_not(installation: Installation) -> None:
    """Told by the order in which answers end, which is no matter of the machine's speed."""
    assert installation.post(f"/quotas/{MODEL}", {"quotas": {"max_concurrent_requests": None}})[0] == 200
    flood = 48
    ended: list[str] = []
    in_full_course = asyncio.Event()
    async with session(installation, "loud") as loud, session(installation, "quiet") as quiet:

        async def one(who: aiohttp.ClientSession, name: str, seed: int) -> None:
            body = {"model": MODEL, "prompt": words(seed, 200), "max_tokens": 24, "ignore_eos": True}
            async with who.post("/v1/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
            ended.append(name)
            if len(ended) == 4:
                in_full_course.set()

        flooding = [asyncio.create_task(one(loud, "loud", seed)) for seed in range(flood)]
        await in_full_course.wait()
        before = len(ended)
        await one(quiet, "quiet", flood)
        meanwhile = len(ended) - 1 - before
        await asyncio.gather(*flooding)
    # First come, first served would have it behind all of them.
    assert meanwhile <= 20, f"{meanwhile} of {flood - before} went before it"


@asynccontextmanager
async def session(installation: Installation, tenant: str) -> AsyncIterator[aiohttp.ClientSession]:
    """With a key of a tenant of its own."""
    installation.command("keys", "tenant-create", tenant).check_returncode()
    made = installation.command("keys", "create", "--tenant", tenant)
    made.check_returncode()
    async with aiohttp.ClientSession(
        installation.url,
        headers={"Authorization": f"Bearer {made.stdout.strip()}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=300),
    ) as made_session:
        yield made_session
