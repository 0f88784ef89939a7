"""The client of the cache's benchmarks: a process of its own that takes turns in conversations and times first tokens.

``python -m tests.bench.turns`` reads one :class:`Script` as JSON from standard input and prints one :class:`Outcome`.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence

import aiohttp
import msgspec

from nopenai_site.environment import PROJECT_ROOT
from tests.bench.throughput import MODEL


class Turn(msgspec.Struct, kw_only=True):
    """One request."""

    messages: list[dict[str, str]]
    max_tokens: int
    key: str = ""
    """The API key; empty: none."""
    after_tokens: int = 0
    """It is sent when the first turns, those with 0 here, have had so many pieces each."""


class Script(msgspec.Struct, kw_only=True):
    url: str
    model: str
    turns: list[Turn]
    at_once: int
    """So many are under way at a time, in the order of the list."""


class Answer(msgspec.Struct, kw_only=True):
    text: str
    ttft_seconds: float
    longest_gap_seconds: float
    prompt_tokens: int
    cached_tokens: int


class Outcome(msgspec.Struct, kw_only=True):
    answers: list[Answer]


def answers_to(url: str, turns: Sequence[Turn], *, at_once: int, model: str = MODEL) -> list[Answer]:
    """Play them in a process of its own, and wait until all are answered."""
    script = Script(url=url, model=model, turns=list(turns), at_once=at_once)
    command = [sys.executable, "-m", "tests.bench.turns"]
    output = subprocess.run(
        command, cwd=PROJECT_ROOT, input=msgspec.json.encode(script), check=True, stdout=subprocess.PIPE
    ).stdout
    return msgspec.json.decode(output, type=Outcome).answers


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _PromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int
    prompt_tokens_details: _PromptDetails = msgspec.field(default_factory=_PromptDetails)


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: object = None


class _Started:
    """Lets late turns wait until the early ones are well under way."""

    def __init__(self, early: int, pieces: int) -> None:
        self._missing = early * pieces
        self.event = asyncio.Event()
        if not self._missing:
            self.event.set()

    def piece(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self.event.set()


async def play(script: Script) -> Outcome:
    room = asyncio.Semaphore(script.at_once)
    pieces = max(turn.after_tokens for turn in script.turns)
    started = _Started(sum(turn.after_tokens == 0 for turn in script.turns), pieces)
    timeout = aiohttp.ClientTimeout(total=900)
    # A connection for each request: llama-server closes idle ones without a word, and a turn would be lost on one.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def one(turn: Turn) -> Answer:
            async with room:
                if turn.after_tokens:
                    await started.event.wait()
                return await _ask(session, script, turn, started if not turn.after_tokens else None)

        return Outcome(answers=list(await asyncio.gather(*map(one, script.turns))))


async def _ask(session: aiohttp.ClientSession, script: Script, turn: Turn, started: _Started | None) -> Answer:
    body = {
        "model": script.model,
        "messages": turn.messages,
        "max_tokens": turn.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Authorization": f"Bearer {turn.key}"} if turn.key else {}
    began = time.perf_counter()
    text, first, last, longest, usage = "", 0.0, 0.0, 0.0, _Usage(0)
    async with session.post(script.url + "/v1/chat/completions", json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = msgspec.json.decode(line[6:], type=_Event)
            assert event.error is None, event.error
            if event.usage is not None:
                usage = event.usage
            if event.choices and event.choices[0].delta.content:
                now = time.perf_counter()
                first = first or now
                longest = max(longest, now - last) if last else 0.0
                last = now
                text += event.choices[0].delta.content
                if started is not None:
                    started.piece()
    return Answer(
        text=text,
        ttft_seconds=first - began,
        longest_gap_seconds=longest,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.prompt_tokens_details.cached_tokens,
    )


if __name__ == "__main__":
    outcome = asyncio.run(play(msgspec.json.decode(sys.stdin.buffer.read(), type=Script)))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
