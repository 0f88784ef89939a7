"""What a gateway counts for the health of versions, and what it shows of that."""

import asyncio
import time
from typing import Any

from msgspec.structs import replace

from inference.protocol import ReplicaState, ServedCounts
from registry.catalogue import Health
from registry.health.report import OF_FILES, Check, HealthNews, Result
from tests.catalogue import a_model
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig, a_view
from tests.waiting import PATIENCE_SECONDS

TINY = a_model("Tiny", 1)


async def served(rig: Rig, requests: int) -> ServedCounts:
    """What was told of the version's requests, once they are so many."""
    total = ServedCounts()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while total.requests < requests:
            more = (await rig.supervisor.counted.get()).served.get(1, ServedCounts())
            total = ServedCounts(
                requests=total.requests + more.requests,
                faults=total.faults + more.faults,
                first_token=more.first_token if more.first_token.counts else total.first_token,
            )
    return total


async def get(rig: Rig, path: str) -> Any:
    async with rig.client.get(path) as response:
        return await response.json()


async def test_answers_are_counted_with_their_first_token_streamed_or_not(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await rig.worker(TINY)
    await rig.chat()
    assert sum((await served(rig, 1)).first_token.counts) == 1
    await rig.streamed()
    told = await served(rig, 1)
    assert (sum(told.first_token.counts), told.faults) == (1, 0)


async def test_a_worker_that_fails_or_is_lost_is_at_fault_before_and_after_its_first_token(
    start_rig: StartRig,
) -> None:
    rig = await start_rig(TINY)
    await rig.worker(TINY, "--token-seconds", "0.02")  # so that each token comes by itself
    await rig.chat("stub:fail-after-0")
    await rig.streamed("stub:fail-after-1")
    await rig.streamed("stub:crash-after-1")
    told = await served(rig, 3)
    assert (told.requests, told.faults, told.first_token.counts) == (3, 3, ())


async def test_a_client_that_leaves_or_asks_wrongly_says_nothing_of_the_worker(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await rig.worker(TINY)
    async with rig.chatting("stub:hang-after-1", stream=True) as response:
        await response.content.readany()
        response.close()
    response, _ = await rig.chat("word " * 100_000)
    assert response.status == 400
    await rig.chat()
    assert (await served(rig, 1)).faults == 0


async def test_health_shows_each_check_with_its_result_reason_and_time(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    checks = tuple(
        Check(name=name, result=Result.PASSED, reason=f"{name} is fine", checked_at=1_700_000_000.0)
        for name in OF_FILES
    )
    rig.gateway.state.accept_health(HealthNews(checked_at=1_700_000_030.0, checks={1: checks}))
    for path in ("/health/model/Tiny", "/v1/models/Tiny/health"):
        body = await get(rig, path)
        assert (body["health_status"], body["checked_at"]) == ("healthy", "2023-11-14T22:13:50.000Z")
        assert body["checks"][0] == {
            "name": "file_integrity",
            "result": "passed",
            "reason": "file_integrity is fine",
            "checked_at": "2023-11-14T22:13:20.000Z",
        }
        assert [check["name"] for check in body["checks"]] == [name.value for name in OF_FILES]


async def test_what_is_only_looked_at_on_disk_says_so(start_rig: StartRig) -> None:
    assert TINY.promoted is not None
    gone = replace(TINY.promoted, pk=2, health=Health.UNHEALTHY, health_reason="vanished")
    rig = await start_rig(TINY, replace(a_model("Gone", 2), promoted=gone))
    rig.gateway.state.accept_health(HealthNews(checked_at=1_700_000_000.0))
    found = {check["name"]: check["result"] for check in (await get(rig, "/health/model/Tiny"))["checks"]}
    assert (found.pop("file_integrity"), set(found.values())) == ("passed", {"skipped"})
    (first, *_) = (await get(rig, "/health/model/Gone"))["checks"]
    assert (first["result"], first["reason"]) == ("failed", "vanished")


async def test_a_model_that_is_being_loaded_is_shown_so_at_once(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await rig.announce(a_view(TINY, ReplicaState.LOADING))
    assert (await get(rig, "/health/model/Tiny"))["health_status"] == "loading"
    assert (await get(rig, "/v1/models"))["data"][0]["health_status"] == "loading"
    assert (await get(rig, "/v1/models/Tiny/versions"))["data"][0]["health_status"] == "loading"
    await rig.announce(a_view(TINY, ReplicaState.READY, socket="/nowhere"))
    assert (await get(rig, "/v1/models/Tiny"))["health_status"] == "healthy"


async def test_asking_for_health_loads_nothing_and_keeps_nothing_warm(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await rig.worker(TINY)
    for path in ("/health", "/health/model/Tiny", "/v1/models/Tiny/health", "/metrics"):
        async with rig.client.get(path) as response:
            assert response.status == 200
    await rig.chat()  # of which the next report tells
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await rig.supervisor.in_use.get()) == (1,)
    assert rig.supervisor.demanded.empty()


async def test_checks_that_stay_away_are_told_in_health(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    rig.gateway.state.accept_health(HealthNews(checked_at=time.time() - 1000))
    assert (await get(rig, "/health"))["status"] == "ok"  # it may have been switched off meanwhile
    rig.gateway.state.started_at -= 1000
    body = await get(rig, "/health")
    assert body["status"] == "degraded" and "Celery" in body["reasons"][0]
    rig.gateway.state.accept_health(HealthNews(checked_at=time.time()))
    assert (await get(rig, "/health"))["status"] == "ok"


async def test_a_model_that_turns_unhealthy_is_passed_over_by_the_next_request(start_rig: StartRig) -> None:
    other = a_model("Other", 2)
    rig = await start_rig(TINY, other)
    await rig.worker(TINY)
    await rig.worker(other)
    assert TINY.promoted is not None
    sick = replace(TINY.promoted, health=Health.UNHEALTHY, health_reason="not one request succeeded")
    rig.feed.show(replace(TINY, promoted=sick, versions={"1.0.0": sick}), other, revision=2)
    answers = [(await rig.chat(model="auto"))[1]["model"] for _ in range(4)]
    assert answers == ["Other"] * 4
    response, body = await rig.chat(model="Tiny")
    assert (response.status, body["error"]["code"]) == (503, "no_healthy_model")
    assert "not one request succeeded" in body["error"]["message"]


async def test_a_model_whose_worker_fails_is_answered_for_by_another_within_that_request(start_rig: StartRig) -> None:
    other = a_model("Other", 2)
    rig = await start_rig(TINY, other)
    await rig.worker(TINY, "--fail-after", "0")
    await rig.worker(other)
    answers = [await rig.chat(model="auto") for _ in range(8)]
    assert {(response.status, body["model"]) for response, body in answers} == {(200, "Other")}
