"""Recordings as models of known speed would have left them."""

import hashlib
import itertools
import random
from collections.abc import Mapping
from typing import Any

from routing.config import Routing
from routing.replay.records import (
    FORMAT,
    LINK_BYTES,
    Arrival,
    Facts,
    Fleet,
    Head,
    Line,
    Recording,
    encode_line,
    recording_of,
)

BASE = 0.01
PER_PROMPT_TOKEN = 0.001
PER_TOKEN = 0.01


def facts(**changes: Any) -> Facts:
    fields: dict[str, Any] = {"version": "1.0.0", "capabilities": ("chat", "completion"), "lanes": 4}
    return Facts(**(fields | changes))


def a_link(*names: object) -> bytes:
    return hashlib.blake2b(repr(names).encode(), digest_size=LINK_BYTES).digest()


def an_arrival(at: float, model: str = "a", **changes: Any) -> Arrival:
    """Answered by a model that takes :data:`BASE` and :data:`PER_PROMPT_TOKEN`; times as slow with ``slow``."""
    slow = changes.pop("slow", 1.0)
    prompt, cached = changes.get("prompt_tokens", 100), changes.get("cached_tokens", 0)
    seconds = slow * (BASE + PER_PROMPT_TOKEN * (prompt - cached))
    fields: dict[str, Any] = {
        "at": at,
        "route": "auto",
        "model": model,
        "stream": True,
        "prompt_tokens": prompt,
        "completion_tokens": 11,
        "prefill_seconds": seconds,
        "first_token_seconds": seconds,
        "token_seconds": slow * PER_TOKEN,
    }
    return Arrival(**(fields | changes))


def a_recording(*arrivals: Arrival, models: Mapping[str, Facts], routing: Routing | None = None) -> Recording:
    """As it is read from a file."""
    fleet = Fleet(at=arrivals[0].at - 1 if arrivals else 0.0, models=models, routing=routing or Routing())
    lines: list[Line] = [Head(format=FORMAT), fleet, *arrivals]
    return recording_of({"file": map(encode_line, lines)})


def poisson(requests: int, per_second: float, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return list(itertools.accumulate(draw.expovariate(per_second) for _ in range(requests)))


def conversations(requests: int, per_second: float, *, prompts: int, seed: int = 1) -> list[Arrival]:
    """Each begins with one of some long system prompts, and goes on with a question of its own."""
    draw = random.Random(seed)
    arrivals = []
    for number, at in enumerate(poisson(requests, per_second, seed)):
        system = draw.randrange(prompts)
        links = a_link("system", system) + a_link("question", number)
        model = "ab"[number % 2]
        arrivals.append(an_arrival(at, model, prompt_tokens=draw.randrange(820, 900), links=links, ends=(800, 810)))
    return arrivals
