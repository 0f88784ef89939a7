"""Who waits for a load is told how it goes, if they ask for it."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest
from openai import APIError, AsyncOpenAI

from inference.protocol import LoadSeconds, LoadStage, LoadTier, LoadView, ReplicaState
from tests.catalogue import a_model
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig, a_view
from tests.waiting import until

M = a_model("m", 1)
N = a_model("n", 2)
C = a_model("cold", 3)
TELL = {"X-Load-Progress": "true"}
MESSAGES: Any = [{"role": "user", "content": "Hello!"}]


def a_load(stage: LoadStage, **changes: Any) -> LoadView:
    expected = LoadSeconds(starting=1.0, reading=10.0, warming=2.0)
    fields: dict[str, Any] = {"stage": stage, "since": time.time(), "tier": LoadTier.DISK, "expected": expected}
    return LoadView(**(fields | changes))


def waits(place: int = 2) -> Any:
    reason = "it waits for 90 MB of memory"
    return a_view(M, ReplicaState.COLD, place=place, reason=reason, load=a_load(LoadStage.WAITING, ahead_seconds=7.0))


def loads(stage: LoadStage, progress: float) -> Any:
    return a_view(M, ReplicaState.LOADING, progress=progress, load=a_load(stage))


def asking(rig: Rig, *, stream: bool = True, headers: dict[str, str] | None = None) -> Any:
    body = {"model": "m", "messages": MESSAGES, "stream": stream}
    return rig.client.post("/v1/chat/completions", json=body, headers=TELL if headers is None else headers)


async def comment(response: aiohttp.ClientResponse) -> str:
    """The next line that says something."""
    async with asyncio.timeout(10):
        while not (line := (await response.content.readline()).decode().strip()):
            pass
    return line


async def test_a_stream_is_told_each_stage_and_then_answered(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.announce(waits())
    async with asking(rig) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert "X-NOpenAI-Strategy" in response.headers
        assert "X-Request-ID" in response.headers
        assert await comment(response) == ": loading position=2 stage=waiting_for_memory progress=0.00 eta=20.0s"
        await rig.announce(loads(LoadStage.STARTING, 0.0))
        assert (await comment(response)).startswith(": loading position=0 stage=starting progress=0.00 eta=")
        await rig.announce(loads(LoadStage.READING, 0.42))
        assert (await comment(response)).startswith(": loading position=0 stage=reading_weights progress=0.42 eta=")
        await rig.announce(loads(LoadStage.WARMING, 1.0))
        assert (await comment(response)).startswith(": loading position=0 stage=warming_up progress=1.00 eta=")
        await rig.worker(M)
        text = (await response.read()).decode()
    assert "hello" in text
    assert text.endswith("data: [DONE]\n\n")
    assert ": loading" not in text


@pytest.mark.parametrize("headers", [{}, {"X-Load-Progress": "false"}])
async def test_who_does_not_ask_is_not_told(start_rig: StartRig, headers: dict[str, str]) -> None:
    rig = await start_rig(M)
    await rig.announce(loads(LoadStage.READING, 0.1))
    answering = asyncio.create_task(_read(asking(rig, headers=headers)))
    await rig.supervisor.demanded.get()
    await rig.worker(M)
    status, text = await answering
    assert status == 200
    assert ": loading" not in text


async def test_an_answer_that_does_not_stream_has_no_comments(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.announce(loads(LoadStage.READING, 0.1))
    answering = asyncio.create_task(_read(asking(rig, stream=False)))
    await rig.supervisor.demanded.get()
    await rig.worker(M)
    status, text = await answering
    assert (status, text[0]) == (200, "{")


async def test_a_header_that_says_neither_is_refused_with_what_it_may_say(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    async with asking(rig, headers={"X-Load-Progress": "maybe"}) as response:
        body = await response.json()
    assert (response.status, body["error"]["param"]) == (400, "X-Load-Progress")
    assert "'true' or 'false'" in body["error"]["message"]


async def test_what_fails_before_a_comment_was_sent_has_a_status(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.announce(a_view(M, ReplicaState.FAILED, reason="300 MB of 200 MB", never_fits=True))
    async with asking(rig) as response:
        assert response.status == 503


async def test_what_fails_after_a_comment_ends_the_stream_with_an_error(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.announce(loads(LoadStage.READING, 0.1))
    async with asking(rig) as response:
        await comment(response)
        await rig.announce(a_view(M, ReplicaState.FAILED, reason="its file is broken", retry_at=time.time() + 30))
        text = (await response.read()).decode()
    assert response.status == 200
    assert '"code":"no_healthy_model"' in text
    assert "its file is broken" in text
    assert "[DONE]" not in text


async def test_a_worker_lost_after_comments_is_replaced_unseen(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.announce(loads(LoadStage.READING, 0.1))
    async with asking(rig) as response:
        await comment(response)
        # One that is announced and can't be reached: its request goes to the next.
        await rig.announce(a_view(M, ReplicaState.READY, socket=str(rig.directory / "gone.sock")))
        await rig.worker(M)
        text = (await response.read()).decode()
    assert "hello" in text
    assert text.endswith("data: [DONE]\n\n")


async def test_openais_client_reads_such_a_stream_unharmed(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.announce(waits())
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{rig.port}/v1", api_key="none", default_headers=TELL) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        await rig.announce(loads(LoadStage.READING, 0.5))
        await rig.worker(M)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert "hello" in text


async def test_openais_client_raises_what_fails_after_a_comment(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.announce(waits())
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{rig.port}/v1", api_key="none", default_headers=TELL) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        await rig.announce(a_view(M, ReplicaState.FAILED, reason="its file is broken", retry_at=time.time() + 30))
        with pytest.raises(APIError, match="its file is broken"):
            async for _ in stream:
                pass


async def test_a_client_that_leaves_while_it_is_told_waits_no_more(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.announce(waits())
    async with asking(rig) as response:
        await comment(response)
    await until(lambda: not rig.gateway.dispatcher.waiting)


async def test_a_model_says_how_its_load_goes(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    assert await load_of(rig) == {
        "state": "cold",
        "stage": None,
        "progress": None,
        "position": None,
        "eta_seconds": None,
        "since": None,
    }
    await rig.announce(waits())
    load = await load_of(rig)
    assert (load["state"], load["stage"], load["position"]) == ("cold", "waiting_for_memory", 2)
    assert load["eta_seconds"] == 20.0
    await rig.announce(loads(LoadStage.READING, 0.421))
    load = await load_of(rig, "m@1.0.0")
    assert (load["state"], load["stage"], load["position"]) == ("loading", "reading_weights", None)
    assert load["progress"] == 0.421
    assert load["eta_seconds"] > 0
    await rig.worker(M)
    load = await load_of(rig)
    assert (load["state"], load["stage"], load["eta_seconds"]) == ("ready", None, None)


async def test_who_is_sent_away_is_told_when_the_load_will_be_done(start_rig: StartRig) -> None:
    rig = await start_rig(M, load_wait_seconds=0.2)
    await rig.announce(waits())
    async with asking(rig, stream=False) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "20")


async def load_of(rig: Rig, name: str = "m") -> dict[str, Any]:
    async with rig.client.get(f"/v1/models/{name}") as response:
        load: dict[str, Any] = (await response.json())["load"]
        return load


async def _read(asked: Any) -> tuple[int, str]:
    async with asked as response:
        return response.status, (await response.read()).decode()


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m", "/v1/models/m/health", "/health", "/metrics"])
async def test_who_only_looks_loads_nothing_and_renews_no_idle_time(start_rig: StartRig, path: str) -> None:
    rig = await start_rig(M, N, C)
    await rig.worker(M)
    await rig.worker(N)
    for each in (path, "/v1/models/cold"):
        async with rig.client.get(each) as response:
            assert response.status == 200
    await rig.chat(model="n")
    async with asyncio.timeout(10):
        assert await rig.supervisor.in_use.get() == (2,)
    assert rig.supervisor.demanded.empty()
