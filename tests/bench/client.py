"""The load client: a process of its own, so that its work is not the server's.

``python -m tests.bench.client URL MODEL STREAMS PROMPT_TOKENS TOKENS ROUND MORE`` runs that many streams at once, each
of one answer, and prints one JSON object: tokens, seconds, and the longest gap between two pieces of one stream. MORE
is a JSON object that goes into the body of each request.
"""

import asyncio
import json
import sys
import time
from collections.abc import Mapping

import aiohttp
import msgspec

from tests.bench.prompts import story, words

SHORT_PROMPT_TOKENS = 50


class Result(msgspec.Struct, kw_only=True):
    tokens: int
    seconds: float
    longest_gap_seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: object = None


def prompt(stream: int, tokens: int, round: int) -> str:
    return story(stream, round) if tokens <= SHORT_PROMPT_TOKENS else words(round * 100 + stream, tokens)


async def run(
    url: str, streams: int, prompt_tokens: int, tokens: int, round: int, more: Mapping[str, object]
) -> Result:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as session:
        began = time.perf_counter()
        parts = await asyncio.gather(
            *(_stream(session, url, prompt(stream, prompt_tokens, round), tokens, more) for stream in range(streams))
        )
        seconds = time.perf_counter() - began
    assert [count for count, _ in parts] == [tokens] * streams, f"not every answer has {tokens} tokens: {parts}"
    return Result(
        tokens=tokens * streams,
        seconds=seconds,
        longest_gap_seconds=max(gap for _, gap in parts),
    )


async def _stream(
    session: aiohttp.ClientSession, url: str, text: str, tokens: int, more: Mapping[str, object]
) -> tuple[int, float]:
    """The completion tokens that the server counted, and the longest gap between two events."""
    body = {
        "prompt": text,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }
    counted, longest, last = 0, 0.0, None
    async with session.post(url + "/v1/completions", json=body) as answer:
        assert answer.status == 200, f"{answer.status} {await answer.text()}"
        async for line in answer.content:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            now = time.perf_counter()
            longest = max(longest, now - last) if last else longest
            last = now
            event = msgspec.json.decode(line[6:], type=_Event)
            assert event.error is None, event.error
            if event.usage is not None:
                counted = event.usage.completion_tokens
            elif any(choice.finish_reason == "length" for choice in event.choices):
                counted = tokens  # of a server that does not count in a stream, but cut it there
    return counted, longest


def main() -> None:
    url, model = sys.argv[1:3]
    streams, prompt_tokens, tokens, round = map(int, sys.argv[3:7])
    more = {"model": model, **json.loads(sys.argv[7])}
    print(json.dumps(msgspec.to_builtins(asyncio.run(run(url, streams, prompt_tokens, tokens, round, more)))))


if __name__ == "__main__":
    main()
