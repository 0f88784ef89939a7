"""Reports to a supervisor that does not read."""

import asyncio
import io
import json
import os

import pytest

from inference.engine.news import News
from inference.protocol import CacheReport, WorkerCounts


def say_more_than_a_pipe_holds(news: News) -> int:
    """Returns what the last report names."""
    for count in range(1, 2000):
        news.say(CacheReport(prompt_tokens=count))
    return count


async def test_a_supervisor_that_does_not_read_stops_nobody_and_reads_the_newest_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    lines = b""
    with (
        os.fdopen(reading, "rb", buffering=0) as pipe,
        os.fdopen(writing, "wb") as output,
        monkeypatch.context() as patch,
    ):
        # Here and not in a fixture: pytest's capture puts its own standard output in place in between.
        patch.setattr("sys.stdout", io.TextIOWrapper(output))
        news = News()
        newest = say_more_than_a_pipe_holds(news)
        news.say(WorkerCounts(prompt_tokens=7))
        async with asyncio.timeout(10):
            while b'"type":"counts"' not in lines or not lines.endswith(b"\n"):
                lines += await asyncio.to_thread(pipe.read, 65536)
    said = [json.loads(line) for line in lines.splitlines()]
    assert [each["prompt_tokens"] for each in said][-2:] == [newest, 7]
    assert len(said) < newest
