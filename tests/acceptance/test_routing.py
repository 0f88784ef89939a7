"""The user guide's workflows with routing, their shell lines as they stand, on a real installation with two models."""

import html
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx2 as httpx
import pytest

from tests.gguf_files import write_model
from tests.installation import Installation, running_installation
from tests.unit.routing.chance import binomial_fits
from tests.waiting import wait_until

LLAMA, QWEN = "Llama-3.3-70B-Instruct", "Qwen-2.5-72B-Instruct"

WORKFLOW_2 = """
# 1. List available models
curl http://localhost:8080/v1/models

# 2. Configure cache-aware routing
curl -X POST http://localhost:8080/routing/config \\
  -H "Content-Type: application/json" \\
  -d '{
    "strategy": "cache_aware",
    "enable_health_checks": true,
    "enable_quota_checks": true,
    "enable_cache_optimization": true
  }'

# 3. Make requests and monitor routing
for i in {1..100}; do
  curl -X POST http://localhost:8080/v1/chat/completions \\
    -H "Content-Type: application/json" \\
    -d '{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}'
done
"""

STATISTICS = "curl http://localhost:8080/routing/stats | jq '.per_strategy'"

WORKFLOW_3 = """
# 1. Configure A/B test (70/30 split)
curl -X POST http://localhost:8080/routing/config \\
  -H "Content-Type: application/json" \\
  -d '{
    "strategy": "least_loaded",
    "ab_test_enabled": true,
    "ab_test_split": 0.7,
    "ab_test_model_a": "Llama-3.3-70B-Instruct",
    "ab_test_model_b": "Qwen-2.5-72B-Instruct"
  }'

# 2. Run test workload
for i in {1..1000}; do
  curl -X POST http://localhost:8080/v1/chat/completions \\
    -H "Content-Type: application/json" \\
    -d '{"model": "auto", "messages": [{"role": "user", "content": "Test"}]}'
done
"""

HIT_RATES = """
curl http://localhost:8080/metrics/cache | \\
  jq '.per_model | to_entries | map({model: .key, hit_rate: .value.hit_rate})'
"""

PASSWORD = "correct horse"

OVER = """
curl -X POST http://localhost:8080/routing/config \\
  -H "Content-Type: application/json" \\
  -d '{"ab_test_enabled": false}'
"""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One with the guide's two models in it, which are tiny ones of other names: their answers end soon."""
    directory = tmp_path_factory.mktemp("routing")
    for seed, model in enumerate((LLAMA, QWEN)):
        folder = directory / "models" / model
        folder.mkdir(parents=True)
        write_model(folder / "model.gguf", context_length=48, seed=seed)
    with running_installation(directory, NOPENAI_ADMIN_PASSWORD=PASSWORD, NOPENAI_GATEWAY_WORKERS="2") as started:
        wait_until(lambda: all(started.get(f"/v1/models/{model}")[0] == 200 for model in (LLAMA, QWEN)), 20)
        yield started


def run(installation: Installation, script: str) -> str:
    """The guide's lines, with this installation's port. Each must succeed."""
    here = script.replace("http://localhost:8080", installation.url).replace("curl ", "curl -sS --fail-with-body ")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", here], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr)
    return done.stdout


def routed(installation: Installation) -> dict[str, Any]:
    stats: dict[str, Any] = json.loads(installation.get("/routing/stats")[1])
    return stats


def test_workflow_2_cache_aware_routing_of_a_hundred_requests(installation: Installation) -> None:
    before = routed(installation)["total_routes"]
    run(installation, WORKFLOW_2)
    wait_until(lambda: routed(installation)["total_routes"] == before + 100, 10)
    per_strategy = json.loads(run(installation, STATISTICS))
    assert per_strategy["cache_aware"] == before + 100
    assert sum(per_strategy.values()) - per_strategy["affinity"] == before + 100
    assert routed(installation)["failed_routes"] == 0


def test_workflow_3_an_ab_test_of_a_thousand_requests(installation: Installation) -> None:
    run(installation, WORKFLOW_3)
    name = f"auto: {LLAMA} / {QWEN}"

    def result() -> dict[str, Any]:
        found: dict[str, Any] = routed(installation)["ab_tests"].get(name, {"a": {"requests": 0}, "b": {"requests": 0}})
        return found

    wait_until(lambda: result()["a"]["requests"] + result()["b"]["requests"] == 1000, 10)
    a, b = result()["a"], result()["b"]
    assert binomial_fits(a["requests"], 1000, 0.7)
    assert (a["errors"], b["errors"], a["unavailable"], b["unavailable"]) == (0, 0, 0, 0)
    assert a["first_token_seconds"]["p50"] > 0 and result()["verdict"]["words"]
    rates = {each["model"]: each["hit_rate"] for each in json.loads(run(installation, HIT_RATES))}
    assert {LLAMA, QWEN} <= rates.keys()
    assert json.loads(run(installation, OVER))["ab_test_enabled"] is False
    status, answer = installation.post(
        "/v1/chat/completions", {"model": "auto", "messages": [{"role": "user", "content": "Test"}]}
    )
    assert status == 200 and answer["model"] in (LLAMA, QWEN)


def test_nothing_is_lost_of_what_eight_threads_ask_of_all_gateways_at_once(installation: Installation) -> None:
    """By a route, and so by a strategy, that nobody else asks for."""
    assert installation.post("/routing/config", {"routes": {"crowd": {"strategy": "random"}}})[0] == 200
    body = {"model": "crowd", "messages": [{"role": "user", "content": "Test"}], "max_tokens": 1}
    with ThreadPoolExecutor(8) as threads:

        def known() -> bool:
            """To all gateways: so many at once reach each of them."""
            explained = threads.map(lambda _: installation.post("/routing/explain", body)[1], range(40))
            return all(each["strategy"] == "random" for each in explained)

        wait_until(known, 10)
        statuses = list(threads.map(lambda _: installation.post("/v1/chat/completions", body)[0], range(400)))
    assert statuses == [200] * 400
    wait_until(lambda: routed(installation)["per_route"].get("crowd") == 400, 10)
    stats = routed(installation)
    assert stats["per_strategy"]["random"] == 400
    assert sum(stats["per_route"].values()) == stats["total_routes"]


def test_the_admin_shows_the_tests_results_and_a_sample_of_decisions(installation: Installation) -> None:
    browser = httpx.Client(base_url=installation.url, follow_redirects=True, timeout=30)
    browser.get("/admin/login/")
    form = {"username": "admin", "password": PASSWORD, "csrfmiddlewaretoken": browser.cookies["nopenai_csrf"]}
    browser.post("/admin/login/?next=/admin/", data=form, headers={"Referer": installation.url})
    page = html.unescape(browser.get("/admin/routing/routingrevision/").text)
    assert f"A/B test auto: {LLAMA} / {QWEN}" in page
    assert "by least_loaded, variant" in page
    assert routed(installation)["ab_tests"].popitem()[1]["verdict"]["words"] in page


def test_a_configuration_is_soon_in_force_in_all_gateways(installation: Installation) -> None:
    def in_force(strategy: str) -> bool:
        """Whichever of them answers."""
        answers = [installation.post("/routing/explain", {"model": "auto"})[1] for _ in range(12)]
        return all(explained["strategy"] == strategy for explained in answers)

    for strategy in ("round_robin", "affinity_based", "cache_aware"):
        assert installation.post("/routing/config", {"routing_config": {"strategy": strategy}})[0] == 200
        wait_until(partial(in_force, strategy), 2)


def test_a_model_is_rolled_out_and_taken_back_when_it_fails(installation: Installation) -> None:
    name = f"auto: {LLAMA} / {QWEN}"

    def standing() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(installation.get("/routing/config")[1])["rollouts"]["auto"]
        return found

    def answering(requests: int) -> set[str]:
        body = {"model": "auto", "messages": [{"role": "user", "content": "Test"}], "max_tokens": 2}
        answers = [installation.post("/v1/chat/completions", body) for _ in range(requests)]
        assert {status for status, _ in answers} == {200}
        return {answer["model"] for _, answer in answers}

    def only(model: str) -> bool:
        """In all gateways, as far as a dozen requests can tell."""
        return answering(12) == {model}

    rollout = {"steps": [0.5, 1], "step_seconds": 1, "step_requests": 20}
    test = {"ab_test_enabled": True, "ab_test_model_a": LLAMA, "ab_test_model_b": QWEN, "ab_test_rollout": rollout}
    assert installation.post("/routing/config", test)[0] == 200

    answering(80)
    wait_until(lambda: only(QWEN), 20)
    wait_until(lambda: standing()["state"] == "complete", 20)

    (installation.models_dir / QWEN / "model.gguf").unlink()
    assert installation.post("/routing/rollout/restart", {"route": "auto"})[0] == 200
    wait_until(lambda: routed(installation)["ab_tests"][name]["share_of_b"] == 0.5, 10)
    answering(120)
    wait_until(lambda: standing()["state"] == "rolled_back", 10)
    wait_until(lambda: only(LLAMA), 10)
    shown = standing()
    assert shown["share_of_b"] == 0 and "B failed " in shown["words"]
    assert shown["b"]["unavailable"] > 0 and shown["b"]["errors"] == 0
