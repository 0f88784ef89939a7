"""The swap storm: six models, memory for two, requests in the order ABCDEF faster than a load for each could serve.

First-come-first-served needs no second run: in this order, with memory for two, whoever is next is never loaded, so it
loads once for each request, and carries one request in the time of a load and an answer. Its own unloading is taken to
cost nothing. Arrivals are Poisson, :data:`PRESSURE` times what it carries.
"""

import asyncio
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from inference.supervisor.replica import Policy
from inference.supervisor.swapping import longest_wait
from registry.starter import starter_path
from tests.installation import Installation, running_installation

NAMES = "ABCDEF"
ROOM_MB = 600
PRESSURE = 1.5
REQUESTS = 300

_PARAMETERS = {"lanes": 2, "context_tokens": 1024}
_TRIED = 2
"""Loads of each model before the storm."""
_PATIENCE_SECONDS = 150.0


def measure() -> str:
    """A table in Markdown."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        _copies(folder / "models")
        environment = {"NOPENAI_NODE_RAM_MB": str(ROOM_MB), "NOPENAI_STARTER_MODEL": "0"}
        with running_installation(folder, **environment) as installation:
            _make_small(installation)
            return asyncio.run(_storm(installation))


async def _storm(installation: Installation) -> str:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for name in NAMES * _TRIED:
            await _ask(session, installation, name)
        answers = [(await _ask(session, installation, NAMES[-1]))[1] for _ in range(5)]
        carried_seconds = statistics.median(_load_seconds(installation)) + statistics.median(answers)
        before = len(_load_seconds(installation))
        chance = random.Random(6)
        asked = []
        for number in range(REQUESTS):
            asked.append(asyncio.create_task(_ask(session, installation, NAMES[number % len(NAMES)])))
            await asyncio.sleep(chance.expovariate(PRESSURE / carried_seconds))
        ended = await asyncio.gather(*asked)
    load_seconds = _load_seconds(installation)
    return _table(
        failures=sum(status != 200 for status, _ in ended),
        loads=len(load_seconds) - before,
        longest_load=max(load_seconds),
        waits=sorted(seconds for _, seconds in ended),
        carried_seconds=carried_seconds,
    )


def _table(*, failures: int, loads: int, longest_load: float, waits: list[float], carried_seconds: float) -> str:
    policy = Policy()
    begins = longest_wait(
        len(NAMES), load=longest_load, drain=policy.swap_drain, stop=policy.stop, exit=0.0, times=policy.swap
    )
    bound = begins + longest_load
    rows = [
        ("requests, in the order ABCDEF", f"{REQUESTS}"),
        ("arrivals", f"{PRESSURE / carried_seconds:.2f} a second, {PRESSURE} × first-come-first-served"),
        ("failures", f"{failures}"),
        ("loads", f"{loads}; first-come-first-served {REQUESTS}: {loads / REQUESTS:.2f}×"),
        ("time to the answer, p50 · p95 · longest", " · ".join(f"{_at(waits, part):.1f} s" for part in (0.5, 0.95, 1))),
        (f"bound for the last of {len(NAMES)} in line, with loads as long as the longest was", f"{bound:.0f} s"),
    ]
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join([*lines, "", "Bars: 0 failures, ≤ 0.5× the loads, no wait beyond the bound."])


def _at(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


async def _ask(session: aiohttp.ClientSession, installation: Installation, name: str) -> tuple[int, float]:
    """Status, and seconds until the answer was whole."""
    body = {"model": name, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}
    began = time.monotonic()
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_SECONDS)
    async with session.post(f"{installation.url}/v1/chat/completions", json=body, timeout=timeout) as answer:
        await answer.read()
        return answer.status, time.monotonic() - began


def _load_seconds(installation: Installation) -> list[float]:
    """Of each load so far, from the log."""
    began: dict[str, datetime] = {}
    seconds = []
    for record in installation.log_records():
        message = str(record["message"])
        if message.startswith("Model loading: "):
            began[record["model_id"]] = _time(record)
        elif message.startswith("Model ready: ") and (start := began.pop(record["model_id"], None)):
            seconds.append((_time(record) - start).total_seconds())
    return seconds


def _time(record: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(record["timestamp"])


def _copies(folder: Path) -> None:
    original = starter_path()
    assert original is not None
    folder.mkdir(parents=True)
    for name in NAMES:
        try:
            os.link(original, folder / f"{name}.gguf")
        except OSError:
            shutil.copyfile(original, folder / f"{name}.gguf")


def _make_small(installation: Installation) -> None:
    for name in NAMES:
        status, answer = installation.patch(f"/api/v1/models/{name}/versions/1.0.0", {"parameters": _PARAMETERS})
        assert status == 200, answer
        fit = json.loads(installation.get(f"/api/v1/models/{name}/fit")[1])["nodes"][0]
        assert 2 * fit["ways"][0]["total"] <= ROOM_MB << 20 < 3 * fit["ways"][0]["total"], fit["says"]
