"""Routing as clients and operators see it: real requests to stub workers. SQL and the supervisor are played by the
test."""

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from inference.protocol import ReplicaState, RoutingCounts, Sampled, Stray, Strays, Sums
from inference.supervisor.routing_sums import routing_added
from quotas.limits import ModelQuota
from quotas.limits import limits_of as model_limits_of
from quotas.windows import Period, window_at
from registry.catalogue import Model
from routing.breaker import FAILURES
from routing.config import Routing, changed
from tests.catalogue import a_model, a_version
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig, a_view
from tests.integration.gateway.test_caches import a_caller, key
from tests.waiting import until

A = a_model("A", a_version("A", 1))
B = a_model("B", a_version("B", 2))
C = a_model("C", a_version("C", 3))


async def routing(start_rig: StartRig, *stub: str, **config: Any) -> Rig:
    """A rig with two ready models."""
    rig = await start_rig(A, B)
    views = []
    for model in (A, B):
        worker = await rig.worker(model, *stub, ready=False)
        views.append(worker.view)
    rig.supervisor.publish(*views)
    configure(rig, **config)
    await until(lambda: all(target.warm for target in rig.gateway.state.targets) and len(rig.gateway.nodes.view) == 2)
    return rig


def configure(rig: Rig, **config: Any) -> None:
    rig.feed.configure(changed(Routing(), config))


def configure_for(rig: Rig, *models: Model, **config: Any) -> None:
    """The same, where these are all models."""
    rig.feed.routing = changed(Routing(), config)
    rig.feed.show(*models)


async def answering(rig: Rig, requests: int = 1, headers: dict[str, str] | None = None, **fields: Any) -> list[str]:
    """The models that answer so many requests, one after the other."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2, **fields}
    models = []
    for _ in range(requests):
        async with rig.client.post("/v1/chat/completions", json=body, headers=headers or {}) as response:
            assert response.status == 200, await response.text()
            models.append(response.headers["X-NOpenAI-Model"])
            assert (await response.json())["model"] == models[-1]
    return models


async def got(rig: Rig, path: str) -> Any:
    async with rig.client.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def all_counted(rig: Rig, requests: int, *, copies: int = 0) -> None:
    """The gateway has told the supervisor of so many, which tells it to all gateways."""
    counts = RoutingCounts()
    while sum(counts.strategies.values()) < requests or _copied(counts) < copies:
        counts = routing_added(counts, (await rig.supervisor.counted.get()).routing)
    rig.supervisor.publish_sums(Sums(models=(), routing=counts))
    await until(lambda: rig.gateway.nodes.own.sums.routing == counts)


def _copied(counts: RoutingCounts) -> int:
    return sum(each.b.requests for splits in counts.tests.values() for each in splits.values())


async def test_each_strategy_is_in_force_as_soon_as_it_is_configured(start_rig: StartRig) -> None:
    rig = await routing(start_rig, strategy="round_robin")
    assert Counter(await answering(rig, 4)) == {"A": 2, "B": 2}
    configure(rig, strategy="weighted_random", model_weights={"B": 1})
    assert Counter(await answering(rig, 6)) == {"B": 6}


async def test_work_in_flight_is_work(start_rig: StartRig) -> None:
    rig = await routing(start_rig, "--hang-after", "1", strategy="least_loaded")
    hanging = [asyncio.create_task(answering(rig)) for _ in range(6)]
    targets = {target.version.model: target for target in rig.gateway.state.targets}
    await until(lambda: [targets[model].work for model in "AB"] == [3, 3])
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    await until(lambda: [targets[model].work for model in "AB"] == [0, 0])


async def test_a_session_stays_with_its_model(start_rig: StartRig) -> None:
    rig = await routing(start_rig, strategy="affinity_based")
    homes = {session: await answering(rig, 3, {"X-Session-ID": session}) for session in map(str, range(12))}
    assert all(len(set(models)) == 1 for models in homes.values())
    assert {models[0] for models in homes.values()} == {"A", "B"}
    body = {"messages": [{"role": "user", "content": "Hello!"}]}
    async with rig.client.post("/v1/chat/completions", json=body, headers={"X-Session-ID": "s" * 300}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "X-Session-ID"


@pytest.mark.parametrize("step", [-86_400.0, 86_400.0])
async def test_a_step_of_the_clock_ends_no_session_and_no_rest(
    start_rig: StartRig, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """Of the wall clock: what routing waits for is measured with one that only goes on."""
    rig = await routing(start_rig, strategy="affinity_based", affinity_timeout_sec=3600.0)
    homes = {session: await answering(rig, 1, {"X-Session-ID": session}) for session in map(str, range(6))}
    target = rig.gateway.state.targets.find(2)
    assert target is not None
    for _ in range(FAILURES):
        target.breaker.failed(time.monotonic())
    before = time.time
    monkeypatch.setattr(time, "time", lambda: before() + step)
    rig.gateway.state.router.look_at_breakers([target], time.monotonic())
    assert target.blocked, "and stays so for its time"
    assert set(await answering(rig, 4)) == {"A"}
    target.breaker.succeeded()
    rig.gateway.state.router.look_at_breakers([target], time.monotonic())
    assert {session: await answering(rig, 1, {"X-Session-ID": session}) for session in homes} == homes


async def test_a_prompt_goes_where_its_beginning_is_held(start_rig: StartRig) -> None:
    rig = await start_rig(A, B, callers=a_caller("ours"))
    worker = await rig.caching_worker(A)
    other = await rig.worker(B, ready=False)
    rig.supervisor.publish(worker.view, other.view)
    await until(lambda: len(rig.gateway.nodes.view) == 2)
    configure(rig, strategy="cache_aware")
    prompt = [{"role": "system", "content": "You know all about otters. " * 100}, {"role": "user", "content": "Hi"}]
    await answering(rig, headers=key("ours"), model="A", messages=prompt)
    await until(lambda: bool(rig.gateway.state.targets.holders))
    assert await answering(rig, 6, key("ours"), messages=prompt) == ["A"] * 6


async def test_another_candidate_answers_when_the_first_one_fails_and_that_is_counted(start_rig: StartRig) -> None:
    rig = await routing(start_rig, strategy="round_robin")
    failed = a_view(A, ReplicaState.FAILED, reason="out of memory", retry_at=time.time() + 60)
    rig.supervisor.publish(failed, rig.workers[1].view)
    await until(lambda: rig.gateway.nodes.view[1].state is ReplicaState.FAILED)
    assert await answering(rig, 4) == ["B"] * 4
    # The router does not know yet that this one fails.
    rig.gateway.state._failed = {}
    rig.gateway.state._rebuild_routes()
    assert await answering(rig, 2) == ["B"] * 2
    await all_counted(rig, 6)
    assert (await got(rig, "/routing/stats"))["fallback_routes"] == 1


async def test_who_has_waited_for_a_load_is_answered_by_a_candidate_that_is_ready(start_rig: StartRig) -> None:
    rig = await routing(start_rig, strategy="weighted_random", model_weights={"A": 1.0}, hedge_delay_ms=20)
    rig.supervisor.publish(a_view(A, ReplicaState.LOADING, progress=0.1), rig.workers[1].view)
    await until(lambda: not rig.gateway.state.targets.of(A.promoted).warm)  # type: ignore[arg-type]
    assert await answering(rig, 2) == ["B"] * 2
    assert (await rig.supervisor.demanded.get()).version_pk == 1
    await all_counted(rig, 2)
    assert (await got(rig, "/routing/stats"))["fallback_routes"] == 2


async def test_a_load_is_waited_for_where_so_configured_and_by_who_named_the_model(start_rig: StartRig) -> None:
    rig = await routing(start_rig, strategy="weighted_random", model_weights={"A": 1.0}, hedge_delay_ms=None)
    rig.supervisor.publish(a_view(A, ReplicaState.LOADING, progress=0.1), rig.workers[1].view)
    await until(lambda: not rig.gateway.state.targets.of(A.promoted).warm)  # type: ignore[arg-type]
    waiting = asyncio.create_task(answering(rig))
    await until(lambda: rig.gateway.dispatcher.waiting.get(1) == 1)
    configure(rig, hedge_delay_ms=0)
    named = asyncio.create_task(answering(rig, model="A"))
    await until(lambda: rig.gateway.dispatcher.waiting.get(1) == 2)
    rig.supervisor.publish(rig.workers[0].view, rig.workers[1].view)
    assert [await waiting, await named] == [["A"], ["A"]]


async def test_who_can_not_be_answered_elsewhere_waits_on_for_its_load(start_rig: StartRig) -> None:
    rig = await routing(start_rig, strategy="weighted_random", model_weights={"A": 1.0}, hedge_delay_ms=0)
    rig.feed.limit(B=model_limits_of(model_pk=2, model="B", quota=ModelQuota(burst_token_limit=1)))
    rig.supervisor.publish(a_view(A, ReplicaState.LOADING, progress=0.1), rig.workers[1].view)
    await until(lambda: not rig.gateway.state.targets.of(A.promoted).warm)  # type: ignore[arg-type]
    waiting = asyncio.create_task(answering(rig))
    await until(lambda: rig.gateway.dispatcher.waiting.get(1) == 1)
    rig.supervisor.publish(rig.workers[0].view, rig.workers[1].view)
    assert await waiting == ["A"]


async def test_who_waits_on_for_its_load_is_held_to_its_models_limits(start_rig: StartRig) -> None:
    """Another one that is ready was tried, and refused it for a limit of its own."""
    rig = await routing(start_rig, strategy="weighted_random", model_weights={"A": 1.0}, hedge_delay_ms=0)
    rig.feed.limit(
        A=model_limits_of(model_pk=1, model="A", quota=ModelQuota(hourly_token_limit=1000, max_concurrent_requests=1)),
        B=model_limits_of(model_pk=2, model="B", quota=ModelQuota(burst_token_limit=1)),
    )
    rig.supervisor.publish(a_view(A, ReplicaState.LOADING, progress=0.1), rig.workers[1].view)
    await until(lambda: not rig.gateway.state.targets.of(A.promoted).warm)  # type: ignore[arg-type]
    waiting = asyncio.create_task(answering(rig))
    await until(lambda: rig.gateway.dispatcher.waiting.get(1) == 1)
    rig.supervisor.publish(rig.workers[0].view, rig.workers[1].view)
    assert await waiting == ["A"]
    (balance,) = rig.gateway.promises._ledger.balances()
    assert (balance.spent, balance.reserved) == (1 + 2, 0)
    await until(lambda: sum(counts.requests for counts in rig.usage.counts.values()) == 1)


async def test_a_named_model_fails_over_to_whom_its_operator_gave_it(start_rig: StartRig) -> None:
    rig = await routing(start_rig, model_fallbacks={"A": ("B",)})
    failed = a_view(A, ReplicaState.FAILED, reason="out of memory", retry_at=time.time() + 60)
    rig.supervisor.publish(failed, rig.workers[1].view)
    await until(lambda: rig.gateway.nodes.view[1].state is ReplicaState.FAILED)
    assert await answering(rig, model="A") == ["B"]
    configure(rig)
    response, body = await rig.chat(model="A")
    assert (response.status, body["error"]["code"]) == (503, "no_healthy_model")


async def test_a_route_whose_candidates_are_all_disabled_is_answered_by_its_fallback_and_that_is_counted(
    start_rig: StartRig,
) -> None:
    rig = await routing(start_rig)
    off = a_model("A", a_version("A", 1), enabled=False)
    configure_for(rig, off, B, routes={"drafts": {"candidates": ("A",), "fallback_models": ("B",)}})
    assert await answering(rig, model="drafts") == ["B"]
    await all_counted(rig, 1)
    stats = await got(rig, "/routing/stats")
    assert (stats["successful_routes"], stats["fallback_routes"]) == (1, 1)
    configure_for(rig, off, B, routes={"drafts": {"candidates": ("A",)}})
    response, body = await rig.chat(model="drafts")
    assert (response.status, body["error"]["code"]) == (503, "no_healthy_model")


async def test_statistics_are_told_as_the_guide_has_them(start_rig: StartRig) -> None:
    rig = await routing(start_rig, strategy="least_loaded")
    await answering(rig, 3)
    await answering(rig, model="A")
    response, body = await rig.chat(model="auto", capabilities=["arabic_nlp"])
    assert (response.status, body["error"]["code"]) == (503, "capability_unavailable")
    await all_counted(rig, 4)
    stats = await got(rig, "/routing/stats")
    assert (stats["total_routes"], stats["successful_routes"], stats["failed_routes"]) == (4, 3, 1)
    assert stats["fallback_routes"] == 0 and stats["named_requests"] == 1
    assert stats["per_strategy"]["least_loaded"] == 4
    assert set(stats["per_strategy"]) > {"round_robin", "cache_aware", "affinity", "affinity_based"}
    assert 0 < stats["avg_routing_time_us"] < 10_000
    assert sum(each["routes"] for each in stats["per_model"].values()) == 3
    async with rig.client.get("/metrics") as response:
        text = await response.text()
    assert 'nopenai_routing_total{strategy="least_loaded"} 4' in text
    assert 'nopenai_routing_duration_seconds{quantile="0.99"} ' in text


async def test_a_sample_of_live_decisions_is_kept_with_all_that_there_was_to_choose_from(start_rig: StartRig) -> None:
    rig = await routing(start_rig, strategy="least_loaded")
    (model,) = await answering(rig)
    report = await got(rig, "/metrics/routing?detailed=true")
    (sample,) = report["sample"]
    assert sample["explanation"]["chosen"] == f"{model}@1.0.0"
    assert {each["model"] for each in sample["explanation"]["candidates"]} == {"A", "B"}
    assert sample["request_id"].startswith("req_") and sample["microseconds"] > 0
    assert "NOPENAI_PROFILE" in report["profiling"]
    assert "sample" not in await got(rig, "/metrics/routing")


async def test_the_log_tells_every_decision_with_its_scores_where_it_tells_all(start_rig: StartRig) -> None:
    rig = await routing(start_rig, strategy="weighted_random", model_weights={"A": 3.0, "B": 1.0})
    with capture_logs() as lines:
        (chosen, _) = await answering(rig, 2)
    told = [line for line in lines if line["event"] == "Routed request to model"]
    assert [line["scores"] for line in told] == [{"A": 0.75, "B": 0.25}] * 2
    assert (told[0]["model_id"], told[0]["strategy"], told[0]["candidates"]) == (chosen, "weighted_random", 2)


async def test_a_decision_is_explained_without_running_the_request(start_rig: StartRig) -> None:
    rig = await routing(start_rig, strategy="round_robin")
    for body in ({"model": "auto"}, {"prompt": "Hello", "model": "auto"}, {"capabilities": ["chat"]}):
        async with rig.client.post("/routing/explain", json=body) as response:
            explained = await response.json()
        assert response.status == 200, explained
        assert explained["chosen"] == "A@1.0.0" and explained["fallbacks"] == ["B@1.0.0"]
    for bad in (b"[1]", b"[" * 100_000, b"{"):
        async with rig.client.post("/routing/explain", data=bad) as response:
            assert response.status == 400
    assert not rig.gateway.state.targets.find(1).work  # type: ignore[union-attr]


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"model": "\xff"}', b'{"model": "\\ud800"}', b"[]", b"{"])
async def test_what_is_no_request_can_not_be_explained(start_rig: StartRig, body: bytes) -> None:
    rig = await start_rig(A)
    async with rig.client.post("/routing/explain", data=body) as response:
        error = (await response.json())["error"]
    assert (response.status, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith("The request's body ")


async def test_variants_are_drawn_by_their_split_and_stick_to_sessions(start_rig: StartRig) -> None:
    test = {"ab_test_enabled": True, "ab_test_split": 0.7, "ab_test_model_a": "A", "ab_test_model_b": "B"}
    rig = await routing(start_rig, **test)
    drawn = Counter(await answering(rig, 60))
    assert 27 <= drawn["A"] <= 55
    for session in map(str, range(8)):
        assert len(set(await answering(rig, 3, {"X-Session-ID": session}))) == 1
    await all_counted(rig, 84)
    (result,) = (await got(rig, "/routing/stats"))["ab_tests"].values()
    assert result["a"]["requests"] + result["b"]["requests"] == 84
    assert result["share_of_b"] == 0.3
    assert result["a"]["errors"] == result["b"]["unavailable"] == 0
    assert result["a"]["completion_tokens"] == 2 * result["a"]["requests"]
    assert result["verdict"]["winner"] in (None, "A", "B") and result["verdict"]["words"]


async def test_what_came_under_another_split_is_told_by_itself(start_rig: StartRig) -> None:
    """Added up, a variant that got its requests while less was going on would seem quicker (Simpson's paradox)."""
    test = {"ab_test_enabled": True, "ab_test_model_a": "A", "ab_test_model_b": "B"}
    rig = await routing(start_rig, **test, ab_test_split=0.0)
    await answering(rig, 4)
    configure(rig, **test, ab_test_split=1.0)
    await answering(rig, 3)
    await all_counted(rig, 7)
    (result,) = (await got(rig, "/routing/stats"))["ab_tests"].values()
    assert (result["split"], result["a"]["requests"], result["b"]["requests"]) == ("B gets 0 % of the requests", 3, 0)
    ((split, before),) = [(each["split"], each["b"]["requests"]) for each in result["earlier"]]
    assert (split, before) == ("B gets 100 % of the requests", 4)
    text = await (await rig.client.get("/metrics")).text()
    assert 'nopenai_ab_test_requests_total{test="auto: A / B",variant="B",outcome="answered"} 4' in text

    configure(rig, **test, ab_test_split=0.5)
    (begun,) = (await got(rig, "/routing/stats"))["ab_tests"].values()
    assert (begun["split"], begun["a"]["requests"], len(begun["earlier"])) == ("B gets 50 % of the requests", 0, 2)
    configure(rig, **{**test, "ab_test_enabled": False})
    (last,) = (await got(rig, "/routing/stats"))["ab_tests"].values()
    assert (last["share_of_b"], last["split"]) == (None, "B gets 0 % of the requests")


async def test_what_an_unavailable_variant_does_not_answer_is_counted_and_the_other_one_does(
    start_rig: StartRig,
) -> None:
    test = {"ab_test_enabled": True, "ab_test_split": 0.0, "ab_test_model_a": "A", "ab_test_model_b": "B"}
    rig = await routing(start_rig, **test)
    failed = a_view(B, ReplicaState.FAILED, reason="out of memory", retry_at=time.time() + 60)
    rig.supervisor.publish(failed, rig.workers[0].view)
    await until(lambda: rig.gateway.nodes.view[2].state is ReplicaState.FAILED)
    assert await answering(rig, 3) == ["A"] * 3
    await all_counted(rig, 3)
    (result,) = (await got(rig, "/routing/stats"))["ab_tests"].values()
    assert (result["b"]["requests"], result["b"]["unavailable"], result["a"]["requests"]) == (3, 3, 0)


async def test_who_has_nothing_left_of_its_limits_is_passed_over_while_another_has(start_rig: StartRig) -> None:
    rig = await routing(start_rig, strategy="round_robin")
    quota = ModelQuota(hourly_token_limit=1000)
    rig.feed.limit(A=model_limits_of(model_pk=1, model="A", quota=quota))
    target = rig.gateway.state.targets.find(1)
    assert target is not None
    hour = window_at(Period.HOUR, time.time(), rig.gateway.promises._zone)
    rig.leases.taken["model:1/tokens/hour", hour.starts_at] = 1000
    assert await answering(rig, 2) == ["B"] * 2, "also before anybody has read that"
    response, _ = await rig.chat(model="A")
    assert response.status == 429
    await until(lambda: target.exhausted)
    assert await answering(rig, 4) == ["B"] * 4
    rig.feed.limit(
        A=model_limits_of(model_pk=1, model="A", quota=quota), B=model_limits_of(model_pk=2, model="B", quota=quota)
    )
    rig.leases.taken["model:2/tokens/hour", hour.starts_at] = 1000
    response, body = await rig.chat(model="auto")
    assert (response.status, body["error"]["code"]) == (429, "quota_exceeded")


async def test_a_model_that_is_removed_between_decision_and_dispatch_is_answered_for_by_another(
    start_rig: StartRig,
) -> None:
    rig = await start_rig(A, B)
    await rig.worker(B)
    configure(rig, strategy="weighted_random", model_weights={"A": 1})
    asking = asyncio.create_task(answering(rig))
    await until(lambda: 1 in rig.gateway.dispatcher.waiting)
    rig.feed.show(B, revision=2)
    assert await asking == ["B"]


@pytest.mark.parametrize("retries", [0, 2])
async def test_so_many_attempts_are_made_as_are_configured(start_rig: StartRig, retries: int) -> None:
    rig = await start_rig(C)
    worker = await rig.worker(C)
    configure(rig, max_retries=retries, retry_delay_ms=0)
    await worker.kill()
    response, body = await rig.chat(model="C")
    assert response.status == 503 and f"in {retries + 1} attempts" in body["error"]["message"]


def test_what_gateways_have_counted_adds_up() -> None:
    one = RoutingCounts(strategies={"random": 2}, routes={"auto": 2}, models={"A": 2}, timing=(1, 1), seconds=1e-6)
    other = msgspec.structs.replace(one, strategies={"random": 1, "affinity_based": 1}, named=3, failed=1)
    both = routing_added(one, other)
    assert both.strategies == {"random": 3, "affinity_based": 1}
    assert (both.timing, both.named, both.failed, both.models) == ((2, 2), 3, 1, {"A": 4})


async def test_a_worker_that_keeps_failing_is_left_alone_while_another_can_answer(start_rig: StartRig) -> None:
    rig = await start_rig(A, B)
    failing, sound = await rig.worker(A, "--fail-after", "1", ready=False), await rig.worker(B, ready=False)
    rig.supervisor.publish(failing.view, sound.view)
    configure(rig, strategy="round_robin")
    await until(lambda: all(target.warm for target in rig.gateway.state.targets))
    target = rig.gateway.state.targets.find(1)
    assert target is not None
    for number in range(4 * FAILURES):
        assert target.blocked is (number >= 2 * FAILURES - 1)
        assert await answering(rig) == ["B"], "the other one answers what this one could not"
    response, _ = await rig.chat(model="A")
    assert response.status == 500, "who names it gets no other"


async def test_a_session_that_is_where_others_would_not_look_is_told_to_them(start_rig: StartRig) -> None:
    rig = await start_rig(A, B)
    first, second = await rig.worker(A, ready=False), await rig.worker(B, ready=False)
    rig.supervisor.publish(first.view, second.view)
    configure_for(rig, A, strategy="affinity_based")
    sessions = [str(number) for number in range(12)]
    for session in sessions:
        assert await answering(rig, 1, {"X-Session-ID": session}) == ["A"]
    configure_for(rig, A, B, strategy="affinity_based")
    assert await answering(rig, 1, {"X-Session-ID": sessions[0]}) == ["A"], "it stays"
    strays = await rig.supervisor.relayed.get()
    while not isinstance(strays, Strays):
        strays = await rig.supervisor.relayed.get()
    assert strays.route == "auto" and {stray.model for stray in strays.sessions} == {"A"}
    assert 1 <= len(strays.sessions) < 12, "half of them would be looked for there anyway"


async def test_a_session_that_another_gateway_knows_is_answered_where_it_is(start_rig: StartRig) -> None:
    rig = await routing(start_rig, strategy="affinity_based")
    (home,) = await answering(rig, 1, {"X-Session-ID": "known"})
    now = time.monotonic()
    told = {f"s{number}": "AB"[number % 2] for number in range(12)} | {"known": "A" if home == "B" else "B"}
    strays = tuple(Stray(f"/{session}", model, now) for session, model in told.items())
    rig.supervisor.relay(Strays(route="auto", sessions=strays))
    pins = rig.gateway.state.router._pins["auto"]
    await until(lambda: len(pins) == len(told))
    for session, model in told.items():
        expected = home if session == "known" else model
        assert await answering(rig, 1, {"X-Session-ID": session}) == [expected], "what one saw itself counts"


async def test_what_other_gateways_have_sampled_is_shown_too(start_rig: StartRig) -> None:
    rig = await routing(start_rig)
    rig.supervisor.relay(Sampled(sample=b'{"request_id": "another"}'))
    await until(lambda: any(rig.gateway.state.samples.newest_first()))
    assert (await got(rig, "/metrics/routing?detailed=true"))["sample"] == [{"request_id": "another"}]


async def test_a_mirrored_variant_gets_copies_whose_answers_are_dropped(start_rig: StartRig) -> None:
    test = {"ab_test_enabled": True, "ab_test_split": 0.0, "ab_test_model_a": "A", "ab_test_model_b": "B"}
    rig = await routing(start_rig, **test, ab_test_mirror=True)
    assert await answering(rig, 5) == ["A"] * 5
    await all_counted(rig, 5, copies=5)
    stats = await got(rig, "/routing/stats")
    (result,) = stats["ab_tests"].values()
    assert [result[variant]["requests"] for variant in "ab"] == [5, 5]
    assert [result[variant]["completion_tokens"] for variant in "ab"] == [10, 10]
    assert (stats["total_routes"], result["b"]["errors"]) == (5, 0), "a copy is no request of its own"
    await until(lambda: sum(counts.requests for counts in rig.usage.counts.values()) == 5)
