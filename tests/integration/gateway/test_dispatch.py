"""Cold starts, lost workers, clients that leave, servers that stop."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from inference.protocol import ModelSpec, ReplicaState
from tests.catalogue import a_model
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig, StubProcess, a_view, text_of
from tests.waiting import until

M = a_model("m", 1)
N = a_model("n", 2)
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True])


async def ask(rig: Rig, content: str = "Hello!", **fields: Any) -> tuple[int, str]:
    """The status and the text or the error's code."""
    async with rig.chatting(content, **fields) as response:
        if response.status != 200:
            return response.status, (await response.json())["error"]["code"]
        if fields.get("stream"):
            return 200, (await response.read()).decode()
        return 200, (await response.json())["choices"][0]["message"]["content"]


async def demanded(rig: Rig) -> ModelSpec:
    async with asyncio.timeout(10):
        return await rig.supervisor.demanded.get()


def waiting(rig: Rig) -> int:
    return sum(rig.gateway.dispatcher.waiting.values())


class TestColdStart:
    @BOTH_WAYS
    async def test_the_first_request_demands_the_model_and_waits_for_it(
        self, start_rig: StartRig, stream: bool
    ) -> None:
        rig = await start_rig(M)
        asking = asyncio.create_task(ask(rig, stream=stream))
        spec = await demanded(rig)
        assert (spec.version_pk, spec.model, spec.files) == (1, "m", ("/models/m.gguf",))
        await rig.announce(a_view(M, ReplicaState.LOADING, progress=0.5))
        assert not asking.done()
        await rig.worker(M)
        status, text = await asking
        assert status == 200
        assert "hello" in text

    async def test_the_wait_is_told_as_queue_time(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        asking = asyncio.create_task(rig.chat())
        await demanded(rig)
        await rig.worker(M)
        response, _ = await asking
        assert float(response.headers["X-NOpenAI-Queue-Ms"]) > 1

    async def test_a_demand_is_repeated_while_anyone_waits_and_not_after(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        asking = asyncio.create_task(ask(rig))
        await demanded(rig)
        await demanded(rig)
        await rig.worker(M)
        await asking
        assert rig.gateway.nodes._demands == {}

    async def test_a_supervisor_that_comes_back_is_told_again(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        asking = asyncio.create_task(ask(rig))
        await demanded(rig)
        await rig.supervisor.stop()
        await rig.supervisor.start()
        await demanded(rig)
        await rig.worker(M)
        assert (await asking)[0] == 200

    async def test_a_load_that_fails_is_told_with_the_supervisors_reason(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        asking = asyncio.create_task(rig.chat())
        await demanded(rig)
        await rig.announce(a_view(M, ReplicaState.LOADING))
        failed = a_view(M, ReplicaState.FAILED, reason="needs 9000 MB of 4000 MB", retry_at=time.time() + 30)
        await rig.announce(failed)
        response, body = await asking
        assert (response.status, body["error"]["code"]) == (503, "no_healthy_model")
        assert "needs 9000 MB of 4000 MB" in body["error"]["message"]
        assert 25 <= int(response.headers["Retry-After"]) <= 30

    async def test_a_long_back_off_is_not_waited_for_and_a_short_one_is(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        await rig.announce(a_view(M, ReplicaState.FAILED, reason="crashed", retry_at=time.time() + 60))
        response, body = await rig.chat()
        assert response.status == 503
        assert "crashed" in body["error"]["message"]
        await rig.announce(a_view(M, ReplicaState.FAILED, reason="crashed", retry_at=time.time() + 1))
        asking = asyncio.create_task(ask(rig))
        await demanded(rig)
        await rig.worker(M)
        assert (await asking)[0] == 200

    async def test_what_can_not_fit_is_refused_at_once_with_the_arithmetic(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        asking = asyncio.create_task(rig.chat())
        await demanded(rig)
        await rig.announce(a_view(M, ReplicaState.FAILED, reason="it takes 300 MB of 200 MB", never_fits=True))
        for response, body in (await asking, await rig.chat()):
            assert (response.status, body["error"]["code"]) == (503, "insufficient_memory")
            assert "it takes 300 MB of 200 MB" in body["error"]["message"]
            assert int(response.headers["Retry-After"]) > 0

    async def test_who_waits_in_vain_for_memory_is_told_the_place_in_line(self, start_rig: StartRig) -> None:
        rig = await start_rig(M, load_wait_seconds=0.2)
        await rig.announce(a_view(M, ReplicaState.COLD, reason="it waits for 90 MB of memory", place=2))
        response, body = await rig.chat()
        assert (response.status, body["error"]["code"]) == (503, "model_loading")
        assert "it waits for 90 MB of memory, at place 2 in line" in body["error"]["message"]

    async def test_too_many_who_wait_are_sent_away(self, start_rig: StartRig) -> None:
        rig = await start_rig(M, N, max_waiting=2)
        waiters = [asyncio.create_task(ask(rig, model="m")) for _ in range(2)]
        await until(lambda: waiting(rig) == 2)
        response, body = await rig.chat(model="m")
        assert (response.status, body["error"]["code"]) == (503, "model_loading")
        assert int(response.headers["Retry-After"]) > 0
        await rig.worker(N)
        assert (await ask(rig, model="n"))[0] == 200
        await rig.worker(M)
        assert [status for status, _ in await asyncio.gather(*waiters)] == [200, 200]
        assert waiting(rig) == 0

    async def test_nobody_waits_for_ever(self, start_rig: StartRig) -> None:
        rig = await start_rig(M, load_wait_seconds=0.2)
        await rig.announce(a_view(M, ReplicaState.LOADING, progress=0.4))
        response, body = await rig.chat()
        assert (response.status, body["error"]["code"]) == (503, "model_loading")
        assert "loading, 40% done" in body["error"]["message"]

    async def test_who_waits_for_a_model_that_is_then_disabled_is_told(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        asking = asyncio.create_task(rig.chat(model="m"))
        await demanded(rig)
        rig.feed.show(a_model("m", 1, enabled=False), revision=2)
        await rig.announce(a_view(M, ReplicaState.COLD, reason="disabled"))
        response, body = await asking
        assert response.status == 503
        assert "disabled" in body["error"]["message"]

    async def test_auto_falls_to_another_model_when_a_load_fails(self, start_rig: StartRig) -> None:
        rig = await start_rig(M, N)
        await rig.worker(N)

        def fail(spec: ModelSpec) -> None:
            rig.supervisor.publish(a_view(M, ReplicaState.FAILED, reason="broken", retry_at=time.time() + 60))

        rig.supervisor.on_demand = fail
        answers = [await rig.chat(model="auto") for _ in range(2)]
        assert [body["model"] for _, body in answers] == ["n", "n"]
        assert {response.headers["X-NOpenAI-Model"] for response, _ in answers} == {"n"}


class TestLostWorkers:
    @BOTH_WAYS
    async def test_a_worker_killed_before_the_first_token_is_unseen(self, start_rig: StartRig, stream: bool) -> None:
        rig = await start_rig(M)
        first = await rig.worker(M, "--hang-after", "0")
        asking = asyncio.create_task(ask(rig, stream=stream))
        async with first.watched() as load:
            await load.until(running=1)
        await first.kill()
        await rig.announce(a_view(M, ReplicaState.FAILED, reason="killed", retry_at=time.time()))
        await rig.worker(M)
        status, text = await asking
        assert status == 200
        assert "hello" in text

    async def test_a_supervisor_that_dies_with_its_workers_is_waited_for(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        worker = await rig.worker(M, "--hang-after", "0")
        async with worker.watched() as load:
            asking = asyncio.create_task(ask(rig))
            await load.until(running=1)
        await rig.supervisor.stop()
        await until(lambda: not rig.gateway.nodes.connected)
        await worker.kill()
        rig.supervisor.view.clear()
        await rig.supervisor.start()
        assert (await demanded(rig)).version_pk == 1
        await rig.worker(M)
        assert (await asking)[0] == 200

    async def test_a_model_is_demanded_also_while_others_only_pause_before_their_next_attempt(
        self, start_rig: StartRig
    ) -> None:
        rig = await start_rig(M)
        await rig.announce(a_view(M, ReplicaState.READY, socket=str(rig.directory / "nothing.sock")))
        pausing = [asyncio.create_task(ask(rig)) for _ in range(8)]
        await until(lambda: 1 in rig.gateway.nodes._waiting)
        rig.gateway.nodes.view = {}
        rig.gateway.nodes._ready.clear()
        asking = asyncio.create_task(ask(rig))
        assert (await demanded(rig)).version_pk == 1
        await rig.worker(M)
        assert {status for status, _ in await asyncio.gather(asking, *pausing)} == {200}

    async def test_an_answer_that_is_not_streamed_is_retried_even_when_lost_in_the_middle(
        self, start_rig: StartRig
    ) -> None:
        rig = await start_rig(M)
        first = await rig.worker(M, "--hang-after", "2")
        asking = asyncio.create_task(ask(rig))
        async with first.watched() as load:
            await load.until(running=1)
        await first.kill()
        await rig.worker(M)
        assert await asking == (200, "stub says hello")

    async def test_a_stream_that_is_lost_in_the_middle_ends_with_an_error_and_no_done(
        self, start_rig: StartRig
    ) -> None:
        rig = await start_rig(M)
        worker = await rig.worker(M, "--hang-after", "2")
        asking = asyncio.create_task(rig.streamed())
        async with worker.watched() as load:
            await load.until(running=1)
        await worker.kill()
        chunks = await asking
        assert text_of(chunks) == "stub says"
        assert chunks[-1]["error"]["code"] == "worker_failed"
        assert "[DONE]" not in chunks

    @BOTH_WAYS
    async def test_a_worker_that_dies_of_the_request_each_time_ends_in_a_503(
        self, start_rig: StartRig, stream: bool
    ) -> None:
        rig = await start_rig(M)
        deaths = 0

        async def revive(worker: StubProcess) -> None:
            nonlocal deaths
            while True:
                await worker.process.wait()
                deaths += 1
                worker = await rig.worker(M)

        reviving = asyncio.create_task(revive(await rig.worker(M)))
        assert await ask(rig, "stub:crash-after-0", stream=stream) == (503, "worker_failed")
        reviving.cancel()
        assert deaths <= 4

    async def test_a_worker_that_is_gone_ends_in_a_503_while_the_supervisor_is_silent(
        self, start_rig: StartRig
    ) -> None:
        rig = await start_rig(M)
        await rig.announce(a_view(M, ReplicaState.READY, socket=str(rig.directory / "nothing.sock")))
        assert await ask(rig) == (503, "worker_failed")

    async def test_another_models_worker_behind_a_socket_is_not_used(self, start_rig: StartRig) -> None:
        rig = await start_rig(M, N)
        other = await rig.worker(N)
        await rig.announce(a_view(M, ReplicaState.READY, socket=other.view.socket))
        assert await ask(rig, model="m") == (503, "worker_failed")
        assert await ask(rig, model="n") == (200, "stub says hello")

    async def test_auto_asks_another_model_when_a_worker_is_lost(self, start_rig: StartRig) -> None:
        rig = await start_rig(M, N)
        await rig.announce(a_view(M, ReplicaState.READY, socket=str(rig.directory / "nothing.sock")))
        await rig.worker(N)
        assert [(await rig.chat(model="auto"))[1]["model"] for _ in range(2)] == ["n", "n"]

    async def test_sixteen_streams_lose_their_worker_and_all_are_told(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        worker = await rig.worker(M, "--hang-after", "1")
        asking = [asyncio.create_task(rig.streamed()) for _ in range(16)]
        async with worker.watched() as load:
            await load.until(running=16)
        await worker.kill()
        for chunks in await asyncio.gather(*asking):
            assert (text_of(chunks), chunks[-1]["error"]["code"]) == ("stub", "worker_failed")


class TestClientsThatLeave:
    @BOTH_WAYS
    async def test_the_worker_is_told_at_once(self, start_rig: StartRig, stream: bool) -> None:
        rig = await start_rig(M)
        worker = await rig.worker(M, "--hang-after", "1")
        async with worker.watched() as load:
            asking = asyncio.create_task(ask(rig, stream=stream))
            await load.until(running=1)
            asking.cancel()
            await load.until(running=0)
        connection = rig.gateway.workers.connected(worker.view)
        assert connection is not None
        assert not connection.busy

    async def test_who_leaves_while_a_model_loads_waits_no_more(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        asking = asyncio.create_task(ask(rig))
        await until(lambda: waiting(rig) == 1)
        asking.cancel()
        await until(lambda: waiting(rig) == 0)

    async def test_others_on_the_same_worker_go_on(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        worker = await rig.worker(M)
        async with worker.watched() as load:
            leaving = asyncio.create_task(ask(rig, "stub:hang-after-0"))
            await load.until(running=1)
            leaving.cancel()
            assert await ask(rig) == (200, "stub says hello")
            await load.until(running=0)

    async def test_one_connection_carries_one_request_after_another(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        await rig.worker(M)
        address = f"http://127.0.0.1:{rig.port}/v1/chat/completions"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            for stream in (True, False, True, False):
                body = {"messages": [{"role": "user", "content": "x"}], "stream": stream}
                async with session.post(address, json=body) as response:
                    assert response.status == 200
                    await response.read()
            async with session.post(address, data=b"not JSON") as response:
                assert response.status == 400


class TestIdleTimers:
    async def test_versions_in_use_are_reported_also_while_a_long_stream_runs(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        await rig.worker(M)
        assert (await ask(rig))[0] == 200
        async with asyncio.timeout(10):
            assert await rig.supervisor.in_use.get() == (1,)
        async with rig.chatting("stub:hang-after-1", stream=True) as response:
            await response.content.readany()
            async with asyncio.timeout(10):
                assert await rig.supervisor.in_use.get() == (1,)
                assert await rig.supervisor.in_use.get() == (1,)


class TestShutdown:
    async def test_running_streams_are_told_when_the_graceful_time_is_over(self, start_rig: StartRig) -> None:
        rig = await start_rig(M, graceful_seconds=0.2)
        worker = await rig.worker(M, "--hang-after", "1")
        async with worker.watched() as load:
            asking = [asyncio.create_task(rig.streamed()) for _ in range(3)]
            await load.until(running=3)
            await rig.shut_down()
            await load.until(running=0)
        for chunks in await asyncio.gather(*asking):
            assert chunks[-1]["error"]["code"] == "shutting_down"
            assert "[DONE]" not in chunks

    async def test_who_still_waits_is_told_to_come_again(self, start_rig: StartRig) -> None:
        rig = await start_rig(M, graceful_seconds=0.2)
        asking = asyncio.create_task(ask(rig))
        await until(lambda: waiting(rig) == 1)
        await rig.shut_down()
        assert await asking == (503, "shutting_down")

    async def test_a_stream_that_ends_in_time_ends_well(self, start_rig: StartRig) -> None:
        rig = await start_rig(M, graceful_seconds=10)
        worker = await rig.worker(M, "--token-seconds", "0.1")
        async with worker.watched() as load:
            asking = asyncio.create_task(rig.streamed())
            await load.until(running=1)
            await rig.shut_down()
        assert (await asking)[-1] == "[DONE]"
