"""What an operator sees of a real installation with two gateways: metrics, and which prompts workers hold."""

import json
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.installation import Installation
from tests.waiting import wait_until

MODEL = "SmolLM2-135M-Instruct"
PROMPT = "How deep is the sea? " * 30


def metrics(installation: Installation) -> dict[tuple[Any, ...], float]:
    status, text = installation.get("/metrics")
    assert status == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def stats(installation: Installation) -> Any:
    status, body = installation.get("/cache/stats")
    assert status == 200
    return json.loads(body)["per_model"][MODEL]


def say(installation: Installation, *messages: dict[str, str]) -> Any:
    body = {"model": MODEL, "messages": messages, "max_tokens": 16, "temperature": 0, "cache_salt": "metrics"}
    status, answer = installation.post("/v1/chat/completions", body)
    assert status == 200, answer
    return answer


def test_a_conversation_shows_in_the_metrics_and_its_beginnings_are_held(installation: Installation) -> None:
    say(installation, {"role": "user", "content": "Load."})
    wait_until(lambda: stats(installation)["ram"]["limit_bytes"] > 0, 20, lambda: "the cache has no budget")
    before = metrics(installation)
    held = stats(installation)["held_prefixes"]

    question = {"role": "user", "content": PROMPT}
    first = say(installation, question)
    reply = {"role": "assistant", "content": first["choices"][0]["message"]["content"]}
    second = say(installation, question, reply, {"role": "user", "content": "And the air?"})
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= first["usage"]["prompt_tokens"] - 1

    # The question, it with its reply, both with the second question, and all with the second reply.
    wait_until(
        lambda: stats(installation)["held_prefixes"] >= held + 4, 20, lambda: f"{stats(installation)} after {held}"
    )

    def grew(name: str, by: int) -> None:
        wait_until(
            lambda: metrics(installation).get((name, MODEL), 0) >= before.get((name, MODEL), 0) + by,
            20,
            lambda: f"{name} did not grow by {by}",
        )

    grew("nopenai_model_requests_total", 2)
    grew("nopenai_time_to_first_token_seconds_count", 2)
    grew("nopenai_queue_wait_seconds_count", 2)
    grew("nopenai_inter_token_latency_seconds_count", 10)
    grew("nopenai_cached_tokens_total", cached)
    grew("nopenai_completion_tokens_total", first["usage"]["completion_tokens"])
    now = metrics(installation)
    assert 0 < now["nopenai_cache_hit_rate", MODEL] < 1
    assert now["nopenai_cache_size_bytes", MODEL] > 0
    assert now["nopenai_kv_blocks", MODEL, "ram"] > 0
    assert now["nopenai_model_health_status", MODEL] == 1
    assert now["nopenai_model_state", MODEL, "ready"] == 1
    assert now["nopenai_model_load_seconds_count", MODEL] >= 1
    assert now["nopenai_batch_occupancy_ratio", MODEL] <= 1
