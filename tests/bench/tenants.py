"""One tenant floods a model: what another one notices of it, through our whole product with a real model."""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import NamedTuple

import aiohttp

from inference.engine.sequences import Limits
from tests.bench import servers
from tests.bench.prompts import words
from tests.bench.throughput import MODEL
from tests.installation import Installation

PROMPT_TOKENS = 300
TOKENS = 16
REQUESTS = 40
"""Of the tenant that is looked at, one after the other: alone, and beside the flood."""

FLOOD = 64
"""So many requests of the other tenant are at the server all the time."""
FLOOD_PROMPT_TOKENS = 500
FLOOD_TOKENS = 64
_FLOOD_BEGINS_SECONDS = 15.0

BATCH_TOKENS = Limits(lanes=1, lane_tokens=1, long_slots=1, long_tokens=0).batch_tokens
_LONG_PROMPT_TOKENS = 1500
_seeds = itertools.count(1)
"""No two prompts begin alike: none is answered from the cache."""


class Answer(NamedTuple):
    """Seconds from the request on."""

    first: float
    """To its first token."""
    whole: float
    """To its end."""


def measure() -> str:
    with servers.installation() as ours:
        return asyncio.run(_measure(ours))


async def _measure(ours: Installation) -> str:
    quiet, loud = _key(ours, "quiet"), _key(ours, "loud")
    async with _session(ours, quiet) as session, _session(ours, loud) as flooding:
        await _ask(session, PROMPT_TOKENS)  # loads the model
        per_token = (await _ask(session, _LONG_PROMPT_TOKENS)).first / _LONG_PROMPT_TOKENS
        alone = [await _ask(session, PROMPT_TOKENS) for _ in range(REQUESTS)]
        async with _flood(flooding) as answers:
            beside = [await _ask(session, PROMPT_TOKENS) for _ in range(REQUESTS)]
    chunk = per_token * BATCH_TOKENS
    bar = 2 * _p95(alone) + chunk
    others = statistics.mean(answer.whole for answer in answers)
    return "\n".join(
        [
            f"| prompts of {PROMPT_TOKENS} tokens, answers of {TOKENS}, one at a time | first token, median, ms "
            "| p95, ms | whole answer, median, s |",
            "| --- | ---: | ---: | ---: |",
            _row("alone", alone),
            _row(f"beside another tenant with {FLOOD} requests at once", beside),
            f"\nThat tenant's own requests, {FLOOD_PROMPT_TOKENS} tokens and {FLOOD_TOKENS} of answer, took "
            f"{others:.1f} s on average, their wait included. Bar: p95 ≤ 2 × p95 alone + one prefill chunk "
            f"({BATCH_TOKENS} tokens, {1000 * chunk:,.0f} ms) = {1000 * bar:,.0f} ms.",
        ]
    )


@asynccontextmanager
async def _flood(session: aiohttp.ClientSession) -> AsyncIterator[list[Answer]]:
    """Entered when it has filled the server."""
    answers: list[Answer] = []

    async def ask_again_and_again() -> None:
        while True:
            answer = await _answer(session, FLOOD_PROMPT_TOKENS, FLOOD_TOKENS)
            if answer is not None:
                answers.append(answer)

    tasks = [asyncio.create_task(ask_again_and_again()) for _ in range(FLOOD)]
    try:
        done, _ = await asyncio.wait(tasks, timeout=_FLOOD_BEGINS_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
        assert not done, [task.exception() for task in done]
        yield answers
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)


async def _answer(session: aiohttp.ClientSession, prompt_tokens: int, tokens: int) -> Answer | None:
    """None: it has waited for its turn too long."""
    body = {
        "model": MODEL,
        "prompt": words(next(_seeds), prompt_tokens),
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    began, first = time.perf_counter(), 0.0
    async with session.post("/v1/completions", json=body) as answer:
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return None
        assert answer.status == HTTPStatus.OK, f"{answer.status} {await answer.text()}"
        async for line in answer.content:
            if not first and line.startswith(b"data: {"):
                first = time.perf_counter() - began
    return Answer(first, time.perf_counter() - began)


async def _ask(session: aiohttp.ClientSession, prompt_tokens: int) -> Answer:
    answer = await _answer(session, prompt_tokens, TOKENS)
    assert answer is not None, "the quiet tenant's request has waited for two minutes"
    return answer


def _session(ours: Installation, key: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        ours.url,
        headers={"Authorization": f"Bearer {key}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=600),
    )


def _key(ours: Installation, tenant: str) -> str:
    ours.command("keys", "tenant-create", tenant).check_returncode()
    made = ours.command("keys", "create", "--tenant", tenant)
    made.check_returncode()
    return made.stdout.strip()


def _p95(answers: list[Answer]) -> float:
    return statistics.quantiles([answer.first for answer in answers], n=20)[-1]


def _row(name: str, answers: list[Answer]) -> str:
    first = statistics.median(answer.first for answer in answers)
    whole = statistics.median(answer.whole for answer in answers)
    return f"| {name} | {1000 * first:,.0f} | {1000 * _p95(answers):,.0f} | {whole:.1f} |"
