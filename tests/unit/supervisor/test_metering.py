"""The sums of what gateways and workers count."""

import asyncio
from typing import Any

from inference.protocol import (
    DURATION_BOUNDS_SECONDS,
    Counted,
    Durations,
    ModelSums,
    ReplicaState,
    RequestCounts,
    WorkerCounts,
)
from inference.supervisor.metering import Metering
from inference.supervisor.replica import Observation


def ignored() -> None:
    pass


def durations(place: int, seconds: float) -> Durations:
    counts = [0] * (len(DURATION_BOUNDS_SECONDS) + 1)
    counts[place] = 1
    return Durations(counts=tuple(counts), seconds=seconds)


def only(metering: Metering) -> ModelSums:
    (sums,) = metering.view().models
    return sums


def seen(observed: ReplicaState, restarts: int = 0) -> Observation:
    return Observation(version_pk=1, observed=observed, reason="", pid=None, restarts=restarts)


async def test_what_gateways_have_counted_adds_up() -> None:
    metering = Metering(ignored)
    for code in ("worker_failed", "model_loading", "worker_failed"):
        counts = RequestCounts(requests=2, cancelled=1, errors={code: 1}, first_token=durations(3, 0.5))
        metering.gateway_counted(Counted(models={"tiny": counts}))
    requests = only(metering).requests
    assert (requests.requests, requests.cancelled) == (6, 3)
    assert requests.errors == {"worker_failed": 2, "model_loading": 1}
    assert (requests.first_token.counts[3], requests.first_token.seconds) == (3, 1.5)
    metering.close()


async def test_what_backends_elsewhere_did_counts_as_work() -> None:
    metering = Metering(ignored)
    elsewhere = WorkerCounts(prompt_tokens=5, cached_tokens=2, completion_tokens=3)
    for _ in range(2):
        metering.gateway_counted(Counted(models={"tiny": RequestCounts(requests=1, elsewhere=elsewhere)}))
    work = only(metering).work
    assert (work.prompt_tokens, work.cached_tokens, work.completion_tokens) == (10, 4, 6)
    metering.close()


async def test_what_a_worker_has_counted_outlives_it() -> None:
    metering = Metering(ignored)
    metering.worker_counted(1, "tiny", WorkerCounts(prompt_tokens=5, queue_wait=durations(0, 1.0)))
    metering.worker_counted(1, "tiny", WorkerCounts(prompt_tokens=7, queue_wait=durations(0, 2.0)))
    assert only(metering).work.prompt_tokens == 7
    metering.worker_ended(1)
    assert only(metering).work.prompt_tokens == 7
    metering.worker_counted(2, "tiny", WorkerCounts(prompt_tokens=1, queue_wait=durations(1, 3.0)))
    metering.worker_counted(3, "tiny", WorkerCounts(completion_tokens=4))
    work = only(metering).work
    assert (work.prompt_tokens, work.completion_tokens) == (8, 4)
    assert (work.queue_wait.counts[:2], work.queue_wait.seconds) == ((1, 1), 5.0)
    metering.close()


async def test_a_worker_that_never_counted_leaves_nothing() -> None:
    metering = Metering(ignored)
    metering.worker_ended(1)
    assert metering.view().models == ()


async def test_loads_are_timed_from_their_start_until_ready(monkeypatch: Any) -> None:
    clock = [10.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock[0], raising=False)
    metering = Metering(ignored)
    for now, state in [
        (10.0, ReplicaState.LOADING),
        (11.0, ReplicaState.LOADING),  # with the number of its process
        (12.0, ReplicaState.READY),
        (13.0, ReplicaState.DRAINING),
        (14.0, ReplicaState.READY),
        (15.0, ReplicaState.LOADING),
        (16.0, ReplicaState.FAILED),
    ]:
        clock[0] = now
        metering.observed(seen(state), "tiny")
    load_time = only(metering).load_time
    assert (sum(load_time.counts), load_time.seconds) == (1, 2.0)
    metering.close()


async def test_restarts_are_counted_over_all_versions_and_never_go_back() -> None:
    metering = Metering(ignored)
    for restarts in (0, 1, 1, 2, 0, 1):  # a replica that was forgotten begins anew
        metering.observed(seen(ReplicaState.LOADING, restarts), "tiny")
    assert only(metering).restarts == 3
    metering.close()


async def test_changes_are_published_at_once_and_then_together() -> None:
    published = asyncio.Queue[int]()
    metering = Metering(lambda: published.put_nowait(only(metering).requests.requests))
    one = Counted(models={"tiny": RequestCounts(requests=1)})
    metering.gateway_counted(one)
    async with asyncio.timeout(10):
        assert await published.get() == 1
        metering.gateway_counted(one)
        metering.gateway_counted(one)
        assert await published.get() == 3
    assert published.empty()
    metering.close()
