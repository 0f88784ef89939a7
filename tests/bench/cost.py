"""What the cache costs where it never helps: measured from outside, and as the engine accounts for it."""

import math
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from nopenai_site.environment import PROJECT_ROOT
from tests.bench import servers
from tests.bench.cache_state import stats, wait_kept
from tests.bench.client import SHORT_PROMPT_TOKENS
from tests.bench.steady import Outcome, Plan
from tests.bench.throughput import MODEL, Workload, run
from tests.installation import Installation

_STREAMS = 8
_ANSWER_TOKENS = 64
_PAIRS = 36
"""A pair takes about 5.5 s, with the switch between its windows."""
_ANSWERS = 4
_CACHE_GB = 4.0
_CONFIDENCE = 0.95


def measure() -> str:
    with servers.installation() as ours:
        run(ours.url, Workload(1, SHORT_PROMPT_TOKENS, 1), 99, tokens=8)  # loads the model
        plan = Plan(
            url=ours.url,
            model=MODEL,
            streams=_STREAMS,
            tokens=_ANSWER_TOKENS,
            pairs=_PAIRS,
            answers=_ANSWERS,
            cache_gb=_CACHE_GB,
        )
        hits = stats(ours)["hits"]
        before = _cache_seconds(ours)
        outcome = _play(plan)
        assert wait_kept(ours, 1 + outcome.prompts)["hits"] == hits, "this traffic was to hit nothing"
        spent = _cache_seconds(ours) - before
    ratios = [with_cache / without for with_cache, without in outcome.pairs]
    low, high = median_interval(ratios, _CONFIDENCE)
    return "\n".join(
        [
            f"Traffic that never hits, {_STREAMS} streams without a pause, the cache on and off in turns:\n",
            "| | measured | bar |",
            "| --- | ---: | ---: |",
            f"| tokens/s with the cache ÷ without, median of {_PAIRS} pairs ({_CONFIDENCE:.0%} interval) "
            f"| {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f}) | ≥ 0.99 |",
            "| of the engine's time, what it counts as keeping KV "
            f"({spent:.2f} of {outcome.seconds_on:.0f} s) | {spent / outcome.seconds_on:.2%} | ≤ 1 % |",
        ]
    )


def median_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Bounds between which the median of the distribution that ``values`` are drawn from lies with at least this
    confidence, whatever its shape: the order statistics whose ranks the binomial distribution gives (Conover,
    *Practical Nonparametric Statistics*, 3.2). The extremes, where there are too few values for the confidence."""
    ordered = sorted(values)
    count = len(ordered)
    tail = (1 - confidence) / 2 * 2**count
    rank, below = 0, 1
    while below + math.comb(count, rank + 1) <= tail:
        rank += 1
        below += math.comb(count, rank)
    return ordered[rank], ordered[count - 1 - rank]


def _play(plan: Plan) -> Outcome:
    command = [sys.executable, "-m", "tests.bench.steady"]
    output = subprocess.run(
        command, cwd=PROJECT_ROOT, input=msgspec.json.encode(plan), check=True, stdout=subprocess.PIPE
    ).stdout
    return msgspec.json.decode(output, type=Outcome)


def _cache_seconds(ours: Installation) -> float:
    """So long its thread has read KV out of cells, cut it, handed it to the tiers and brought it back, so far. Finding
    that nothing is cached, some hashes a prompt, and the SSD's own thread are not in it."""
    status, body = ours.get("/metrics")
    assert status == 200, body
    found = re.findall(r"^nopenai_cache_(?:save|restore)_seconds_total\{.*\} (\S+)$", body.decode(), re.MULTILINE)
    assert len(found) == 2, "the starter model's, once each"
    return sum(map(float, found))
