"""A client that keeps the engine busy without a pause while it switches the cache on and off: a process of its own.

``python -m tests.bench.steady`` reads one :class:`Plan` as JSON from standard input and prints one :class:`Outcome`.

Every request is the same work: prompts of one length that begin differently, answers of one length. The streams begin
staggered, so that one answer after the other ends, and what is kept of it is read out while the others wait for their
next token. Streams in step would have all of that happen after the clock was stopped.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Sequence

import aiohttp
import msgspec

from tests.bench.prompts import story

_SWITCH_SECONDS = 60.0
_FIRST_ROUND = 1000
"""From here on a story's number has as many digits as any other."""


class Plan(msgspec.Struct, kw_only=True):
    url: str
    model: str
    streams: int
    tokens: int
    """Of each answer."""
    pairs: int
    answers: int
    """So many end within one window; two windows make a pair."""
    cache_gb: float
    """The size of the cache while it is on."""


class Outcome(msgspec.Struct, kw_only=True):
    pairs: list[tuple[float, float]]
    """Tokens per second with the cache and without."""
    seconds_on: float
    """How long the cache was on, from being told so to being told otherwise."""
    prompts: int
    """So many were sent."""


class _Load:
    """Streams that ask again as soon as they are answered, and when their answers ended."""

    def __init__(self, session: aiohttp.ClientSession, plan: Plan) -> None:
        self._session = session
        self._plan = plan
        self._rounds = itertools.count(_FIRST_ROUND)
        self._ends: list[float] = []
        self._ended = asyncio.Condition()
        self._stopped = False
        self.prompts = 0

    async def stream(self, index: int) -> None:
        await self._ask(max(1, self._plan.tokens * (index + 1) // self._plan.streams))
        while not self._stopped:
            await self._ask(self._plan.tokens)

    def stop(self) -> None:
        """No more prompts; those that were asked are answered."""
        self._stopped = True

    async def ended(self, more: int) -> float:
        """When so many more answers have ended: when the last of them did."""
        wanted = len(self._ends) + more
        async with self._ended:
            await self._ended.wait_for(lambda: len(self._ends) >= wanted)
        return self._ends[wanted - 1]

    async def tokens_per_second(self) -> float:
        """Over one window, which begins with the end of the newest answer."""
        began = self._ends[-1]
        return self._plan.tokens * self._plan.answers / (await self.ended(self._plan.answers) - began)

    async def _ask(self, tokens: int) -> None:
        body = {
            "model": self._plan.model,
            "prompt": story(0, next(self._rounds)),
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        self.prompts += 1
        async with self._session.post(self._plan.url + "/v1/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            content = await answer.read()
        assert content.endswith(b"data: [DONE]\n\n"), content[-500:]
        self._ends.append(time.perf_counter())
        async with self._ended:
            self._ended.notify_all()


class _Switch:
    """The cache's. It is asked whether it is in effect whenever an answer has ended, which is when a window begins."""

    def __init__(self, session: aiohttp.ClientSession, plan: Plan, load: _Load) -> None:
        self._session = session
        self._plan = plan
        self._load = load
        self._on_since: float | None = time.perf_counter()
        self._seconds = 0.0

    @property
    def seconds_on(self) -> float:
        return self._seconds + (time.perf_counter() - self._on_since if self._on_since is not None else 0.0)

    async def set(self, on: bool) -> None:
        """Return once the engine has said that it is so."""
        if on == (self._on_since is not None):
            return
        self._seconds, self._on_since = self.seconds_on, time.perf_counter() if on else None
        body = {"global_cache_size_gb": self._plan.cache_gb if on else 0}
        async with self._session.post(self._plan.url + "/cache/allocation", json=body) as answer:
            assert answer.status == 200, await answer.text()
        async with asyncio.timeout(_SWITCH_SECONDS):
            await self._load.ended(1)
            while await self._is_on() != on:
                await self._load.ended(1)

    async def _is_on(self) -> bool:
        async with self._session.get(self._plan.url + "/cache/stats") as answer:
            return not (await answer.json())["per_model"][self._plan.model]["ram"]["off"]


async def measure(plan: Plan) -> Outcome:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        load = _Load(session, plan)
        switch = _Switch(session, plan, load)
        async with asyncio.TaskGroup() as group:
            for index in range(plan.streams):
                group.create_task(load.stream(index))
            await load.ended(2 * plan.streams)
            pairs = [await _pair(load, switch, order) for order in orders(plan.pairs)]
            load.stop()
        return Outcome(pairs=pairs, seconds_on=switch.seconds_on, prompts=load.prompts)


def orders(pairs: int) -> Sequence[tuple[bool, bool]]:
    """For each pair whether the cache is on in its first and in its second window: on-off, off-on, on-off, …, so that
    neither gains where the machine grows slower or faster, and every other window needs no switch."""
    return [(True, False) if pair % 2 == 0 else (False, True) for pair in range(pairs)]


async def _pair(load: _Load, switch: _Switch, order: tuple[bool, bool]) -> tuple[float, float]:
    speeds = {}
    for on in order:
        await switch.set(on)
        speeds[on] = await load.tokens_per_second()
    return speeds[True], speeds[False]


if __name__ == "__main__":
    outcome = asyncio.run(measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
