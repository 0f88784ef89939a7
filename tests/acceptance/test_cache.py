"""The KV cache as a user of the whole installation meets it: a real model, real budgets, real files."""

import json
from collections.abc import Callable
from typing import Any

from tests.installation import Installation
from tests.waiting import wait_until

MODEL = "SmolLM2-135M-Instruct"
PROMPT = "Tell me about the sea. " * 40
"""Several blocks of 64 tokens, and a tail."""


def ask(installation: Installation, **fields: Any) -> dict[str, int]:
    """The usage of an answer, and how much of it came from the cache."""
    body = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4, "temperature": 0, **fields}
    status, answer = installation.post("/v1/chat/completions", body)
    assert status == 200, answer
    usage = answer["usage"]
    return {"prompt": usage["prompt_tokens"], "cached": usage["prompt_tokens_details"]["cached_tokens"]}


def stats(installation: Installation) -> Any:
    status, body = installation.get("/cache/stats")
    assert status == 200
    return json.loads(body)


def until(installation: Installation, true: Callable[[Any], bool], what: str) -> Any:
    wait_until(lambda: true(stats(installation)), 20, lambda: f"{what} missed in {stats(installation)}")
    return stats(installation)


def test_a_prompt_that_was_seen_is_not_computed_again_not_even_after_a_kill(
    own_installation: Callable[..., Installation],
) -> None:
    installation = own_installation(NOPENAI_GATEWAY_WORKERS="2")
    installation.start()
    installation.wait_ready()
    ask(installation, cache_salt="the model is loaded by this")
    row = until(installation, lambda all_: all_["per_model"][MODEL]["ram"]["limit_bytes"] > 0, "a budget")
    assert row["configured"]

    assert ask(installation)["cached"] == 0
    again = ask(installation)
    assert again["prompt"] - again["cached"] <= 1
    assert ask(installation, cache_salt="another")["cached"] == 0

    told = until(installation, lambda all_: all_["per_model"][MODEL]["ssd"]["blocks"] > 0, "blocks on SSD")
    assert 0 < told["per_model"][MODEL]["hit_rate"] < 1
    assert told["per_model"][MODEL]["hits"] >= 1

    installation.kill("engine")
    after = ask(installation)
    assert after["cached"] >= 64
    kept = until(installation, lambda all_: all_["per_model"][MODEL]["ssd_hits"] > 0, "a hit on SSD")
    assert kept["per_model"][MODEL]["prompt_tokens"] > told["per_model"][MODEL]["prompt_tokens"]

    status, _ = installation.post("/cache/allocation", {"global_cache_ram_gb": 0, "global_cache_ssd_gb": 0})
    assert status == 200
    empty = until(installation, lambda all_: all_["ram"]["held_bytes"] + all_["ssd"]["held_bytes"] == 0, "all to go")
    assert (empty["ram"]["size_bytes"], empty["ssd"]["size_bytes"]) == (0, 0)
    assert ask(installation)["cached"] == 0
