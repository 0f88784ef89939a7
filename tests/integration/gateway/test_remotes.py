"""Models that a backend elsewhere answers, over real HTTP: one of our own gateways, and one that a test scripts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network
from typing import Any

import pytest_asyncio

from registry.backends.addresses import Policy
from registry.backends.values import Backend
from tests.catalogue import a_model, a_remote_model
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig, text_of
from tests.integration.gateway.upstream import HELLO, Answer, Upstream, chunk, streams

HERE = a_model("here", 1)
AWAY = a_remote_model("away", 2)
LOOPBACK = Policy([ip_network("127.0.0.0/8")])
SECRET = "sk-very-secret"

StartUpstream = Callable[..., Awaitable[Upstream]]


@pytest_asyncio.fixture
async def start_upstream() -> AsyncIterator[StartUpstream]:
    started: list[Upstream] = []

    async def start(*answers: Answer) -> Upstream:
        upstream = Upstream(*answers)
        started.append(upstream)
        await upstream.start()
        return upstream

    yield start
    for upstream in started:
        await upstream.stop()


def a_backend(url: str, **changes: Any) -> Backend:
    fields: dict[str, Any] = {"version_pk": 2, "url": url, "model": "theirs", "api_key": SECRET}
    return Backend(**(fields | changes))


async def a_front(start_rig: StartRig, upstream: Upstream, *models: Any, **config: Any) -> Rig:
    """A gateway whose model ``away`` is the upstream's."""
    rig = await start_rig(AWAY, *models, remote_policy=LOOPBACK, **config)
    rig.feed.connect(a_backend(upstream.url))
    return rig


class TestOneOfOurOwn:
    async def test_a_chat_streams_through_both(self, start_rig: StartRig) -> None:
        behind = await start_rig(HERE)
        await behind.worker(HERE)
        front = await start_rig(AWAY, remote_policy=LOOPBACK)
        front.feed.connect(a_backend(f"http://127.0.0.1:{behind.port}/v1", model="here"))
        async with front.chatting(model="away", stream=True, stream_options={"include_usage": True}) as response:
            assert response.status == 200, await response.text()
            assert response.headers["X-NOpenAI-Model"] == "away"
            assert response.headers["X-NOpenAI-Replica"] == "here/remote"
        chunks = await front.streamed(model="away", stream_options={"include_usage": True})
        assert text_of(chunks) == "stub says hello"
        assert {each["model"] for each in chunks[:-1]} == {"away"}
        assert chunks[-2]["usage"]["completion_tokens"] == 3
        assert chunks[-1] == "[DONE]"


class TestAStream:
    async def test_text_is_passed_on_before_the_answer_is_complete(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(chunk("first"), "wait", *HELLO))
        rig = await a_front(start_rig, upstream)
        async with rig.chatting(model="away", stream=True) as response:
            async with asyncio.timeout(10):
                received = b""
                while b"first" not in received:
                    received += await response.content.readany()
            upstream.go_on.set()
            assert b"[DONE]" in await response.read()
