"""What our product says of its KV cache, and waiting until it says that something is done."""

from typing import Any

import msgspec

from tests.bench.throughput import MODEL
from tests.installation import Installation
from tests.waiting import wait_until


def stats(ours: Installation) -> Any:
    """``/cache/stats`` of the starter model."""
    status, body = ours.get("/cache/stats")
    assert status == 200, body
    return msgspec.json.decode(body)["per_model"][MODEL]


def wait_kept(ours: Installation, prompts: int) -> Any:
    """Until the KV of all ``prompts`` that were ever asked is in RAM; the stats that say so.

    A prompt is counted before it is computed, and its cells are given back after its KV was read out of them. So once
    all are counted and no cell is held, nothing is left to be kept.
    """
    seen: list[Any] = []

    def kept() -> bool:
        seen.append(stats(ours))
        return bool(seen[-1]["lookups"] >= prompts and seen[-1]["context_tokens"] == 0)

    wait_until(kept, 30, lambda: f"not {prompts} prompts kept: {seen[-1]}")
    return seen[-1]


def wait_written(ours: Installation, prompts: int) -> None:
    """Until what :func:`wait_kept` waits for is on SSD, too: writing happens behind the answers' backs."""
    wait_kept(ours, prompts)

    def written() -> bool:
        now = stats(ours)
        return bool(0 < now["ram"]["blocks"] <= now["ssd"]["blocks"])

    wait_until(written, 60, lambda: f"not written: {stats(ours)}")
