"""``/metrics`` of one gateway: what it counts reaches the supervisor, and what the supervisor says is shown."""

import asyncio
import subprocess
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from inference.prefixes import chat_chain
from inference.protocol import ChatMessage, Durations, ModelSums, Partition, RequestCounts, Sums, WorkerCounts
from quotas.callers import CachePartition, Caller, Role, digest
from tests.catalogue import a_model
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig
from tests.waiting import PATIENCE_SECONDS, until

TINY = a_model("Tiny", 1)


def a_caller(name: str, role: Role = Role.INFERENCE) -> dict[str, Caller]:
    partition = CachePartition(name=name, key=name.encode().ljust(32, b"!"))
    caller = Caller(key_pk=1, tenant=name, role=role, prefix="nok_x", expires_at=None, partition=partition)
    return {digest(name): caller}


async def scrape(rig: Rig) -> str:
    async with rig.client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return await response.text()


def samples(text: str) -> dict[tuple[Any, ...], float]:
    """By name and labels' values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def counted(rig: Rig) -> RequestCounts:
    """What the gateway next tells of requests to the model."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return (await rig.supervisor.counted.get()).models["Tiny"]


async def test_what_was_answered_is_told_to_the_supervisor_once(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await rig.worker(TINY)
    await rig.chat()
    await rig.streamed()
    told = [await counted(rig)]
    while sum(each.requests for each in told) < 2:
        told.append(await counted(rig))
    assert sum(each.requests for each in told) == sum(sum(each.first_token.counts) for each in told) == 2
    await rig.chat()
    assert (await counted(rig)).requests == 1


async def test_errors_are_told_by_their_code_also_those_in_mid_stream(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await rig.worker(TINY, "--token-seconds", "0.02")  # so that each token comes by itself
    await rig.chat("stub:fail-after-0")
    await rig.streamed("stub:fail-after-1")
    await rig.streamed("stub:crash-after-1")
    errors: dict[str, int] = {}
    while sum(errors.values()) < 3:
        for code, count in (await counted(rig)).errors.items():
            errors[code] = errors.get(code, 0) + count
    assert errors == {"stub_failed": 2, "worker_failed": 1}


async def test_a_client_that_leaves_has_cancelled_its_request(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await rig.worker(TINY)
    async with rig.chatting("stub:hang-after-1", stream=True) as response:
        await response.content.readany()
        response.close()
    told = await counted(rig)
    assert (told.requests, told.cancelled, told.errors) == (1, 1, {})


async def test_what_was_counted_waits_while_the_supervisor_is_away(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await rig.worker(TINY)
    await rig.supervisor.stop()
    await until(lambda: not rig.gateway.nodes.connected)
    await rig.chat()
    await rig.chat()
    await rig.supervisor.start()
    assert (await counted(rig)).requests == 2


async def test_the_last_counts_are_told_at_the_end(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await rig.worker(TINY)
    await rig.chat()
    await rig.shut_down()
    assert (await counted(rig)).requests == 1


async def test_the_supervisors_sums_are_shown_and_no_counts_of_our_own(start_rig: StartRig) -> None:
    """Another process may be asked next, and a counter never goes back."""
    rig = await start_rig(TINY)
    await rig.worker(TINY)
    await rig.chat()
    assert ("nopenai_model_requests_total", "Tiny") not in samples(await scrape(rig))
    rig.supervisor.publish_sums(Sums(models=(ModelSums(model="Tiny", requests=RequestCounts(requests=41)),)))
    await until(lambda: bool(rig.gateway.nodes.own.sums.models))
    shown = samples(await scrape(rig))
    assert shown["nopenai_model_requests_total", "Tiny"] == 41
    assert shown["nopenai_model_health_status", "Tiny"] == 1
    assert shown["nopenai_model_state", "Tiny", "ready"] == 1
    assert shown["nopenai_supervisor_connected",] == 1


async def test_a_supervisor_that_is_away_is_told_by_a_metric(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await rig.supervisor.stop()
    await until(lambda: not rig.gateway.nodes.connected)
    assert samples(await scrape(rig))["nopenai_supervisor_connected",] == 0
    await rig.supervisor.start()


async def test_what_runs_is_shown_before_any_request_of_ours(start_rig: StartRig) -> None:
    """A gateway connects to workers as soon as they are ready: others' requests run there, too."""
    rig = await start_rig(TINY)
    worker = await rig.worker(TINY, "--max-sequences", "4")
    await until(lambda: rig.gateway.workers.connected(worker.view) is not None)
    shown = samples(await scrape(rig))
    assert shown["nopenai_batch_occupancy_ratio", "Tiny"] == 0
    async with rig.chatting("stub:hang-after-1", stream=True) as response:
        await response.content.readany()
        connection = rig.gateway.workers.connected(worker.view)
        assert connection is not None
        await until(lambda: connection.load is not None and connection.load.running == 1)
        shown = samples(await scrape(rig))
        assert shown["nopenai_requests_running", "Tiny"] == 1
        assert shown["nopenai_batch_occupancy_ratio", "Tiny"] == 0.25


async def test_what_a_worker_holds_is_known_by_prompt_and_counted_in_the_statistics(start_rig: StartRig) -> None:
    rig = await start_rig(TINY, callers=a_caller("ours") | a_caller("boss", Role.OPERATOR), require_api_key=True)
    worker = await rig.caching_worker(TINY)
    ours = Partition(name="ours", key=b"ours".ljust(32, b"!"))
    asked = (ChatMessage("user", "one two three four"),)
    body = {"messages": [{"role": "user", "content": asked[0].content}]}
    pool = rig.gateway.workers
    async with rig.client.post("/v1/chat/completions", json=body, headers={"Authorization": "Bearer ours"}) as answer:
        assert answer.status == 200
    await until(lambda: pool.held_tokens(worker.view, chat_chain(ours, asked, ())) == 4)
    longer = (*asked, ChatMessage("assistant", "stub says hello"), ChatMessage("user", "five"))
    assert pool.held_tokens(worker.view, chat_chain(ours, longer, ())) == 4
    theirs = Partition(name="boss", key=b"boss".ljust(32, b"!"))
    assert pool.held_tokens(worker.view, chat_chain(theirs, asked, ())) == 0
    async with rig.client.get("/cache/stats", headers={"Authorization": "Bearer boss"}) as response:
        stats = await response.json()
    assert (stats["held_prefixes"], stats["per_model"]["Tiny"]["held_prefixes"]) == (1, 1)

    worker.set_cache_budget(0)
    await until(lambda: pool.held_tokens(worker.view, chat_chain(ours, asked, ())) == 0)


async def test_where_keys_are_required_it_takes_an_operators(start_rig: StartRig) -> None:
    rig = await start_rig(TINY, callers=a_caller("user") | a_caller("boss", Role.OPERATOR), require_api_key=True)
    statuses = []
    for secret in ("", "unknown", "user", "boss"):
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        async with rig.client.get("/metrics", headers=headers) as response:
            statuses.append(response.status)
    assert statuses == [401, 401, 403, 200]


async def test_prometheus_finds_nothing_to_blame(start_rig: StartRig) -> None:
    """Every metric with samples, and names that need escaping, before promtool."""
    awkward = a_model('a"b\\c\nd', 2)
    rig = await start_rig(TINY, awkward, build={"version": "1"})
    await rig.worker(TINY)
    some = Durations(counts=(1,) * 19, seconds=4.0)
    sums = [
        ModelSums(
            model=model.id,
            requests=RequestCounts(requests=3, cancelled=1, errors={"worker_failed": 1}, first_token=some),
            work=WorkerCounts(prompt_tokens=5, queue_wait=some, token_gap=some),
            load_time=some,
            restarts=1,
        )
        for model in (TINY, awkward)
    ]
    rig.supervisor.publish_sums(Sums(models=tuple(sums)))
    await until(lambda: len(rig.gateway.nodes.own.sums.models) == 2)
    text = await scrape(rig)
    assert {sample[1] for sample in samples(text) if len(sample) > 1} >= {TINY.id, awkward.id}
    checked = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


async def test_a_scrape_of_many_models_is_whole(start_rig: StartRig) -> None:
    models = 30
    rig = await start_rig(*(a_model(f"m{number}", number) for number in range(models)))
    sums = tuple(ModelSums(model=f"m{number}", requests=RequestCounts(requests=number)) for number in range(models))
    rig.supervisor.publish_sums(Sums(models=sums))
    await until(lambda: len(rig.gateway.nodes.own.sums.models) == models)
    shown = samples(await scrape(rig))
    assert [shown["nopenai_model_requests_total", f"m{number}"] for number in range(models)] == list(range(models))
