"""The worker's socket, with an engine that the test plays."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import msgspec
import pytest
import pytest_asyncio

from inference.engine import server as module
from inference.engine.embedding_inputs import EmbeddingInputs
from inference.engine.embeddings import EmbeddingJob
from inference.engine.input_checks import refusal
from inference.engine.jobs import AnyJob
from inference.engine.prompts import Prompt, Prompts
from inference.engine.server import WorkerServer
from inference.protocol import (
    PROTOCOL_VERSION,
    Cancel,
    ChatMessage,
    Embed,
    Embedded,
    Failed,
    FrameDecoder,
    Generate,
    Grant,
    HeldPrefixes,
    Hello,
    Wants,
    WorkerToGateway,
    encode_frame,
    read_messages,
)


class Inputs:
    def build(self, request: Embed) -> list[list[int]]:
        return [[1] for _ in request.inputs]


class PlayedEngine:
    def __init__(self) -> None:
        self.submitted: asyncio.Queue[AnyJob] = asyncio.Queue()
        self.cancelled: asyncio.Queue[AnyJob] = asyncio.Queue()
        self.granted: asyncio.Queue[tuple[AnyJob, int, bool]] = asyncio.Queue()

    def submit(self, job: AnyJob) -> None:
        self.submitted.put_nowait(job)

    def cancel(self, job: AnyJob) -> None:
        self.cancelled.put_nowait(job)

    def grant(self, job: AnyJob, tokens: int, *, last: bool) -> None:
        self.granted.put_nowait((job, tokens, last))


class PlayedPrompts:
    """Refuses every request, and notes which threads it was asked by."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def build(self, request: Generate) -> Prompt:
        self.threads.append(threading.get_ident())
        raise refusal(request, "invalid_messages", "no", "messages")


class Serving:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = PlayedEngine()
        self.prompts = PlayedPrompts()
        self.server = WorkerServer(
            Hello(protocol=PROTOCOL_VERSION, model="tiny", version="1.0.0", context_tokens=64, max_sequences=1, pid=1),
            prompts=cast(Prompts, self.prompts),
            embedding_inputs=cast(EmbeddingInputs, Inputs()),
            report=lambda _: None,
        )

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)


@pytest_asyncio.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    running = Serving(tmp_path / "worker.sock")
    listener = await running.server.listen(running.engine, running.path)
    yield running
    listener.close()


async def test_requests_beyond_those_that_can_wait_are_refused_before_they_cost_anything(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_REQUESTS", 2)
    reader, writer = await serving.connect()
    decoder: FrameDecoder[WorkerToGateway] = FrameDecoder(WorkerToGateway)
    async with asyncio.timeout(30):
        writer.write(encode_frame([Embed(id=number, request_id="r", inputs=("text",)) for number in (1, 2, 3)]))
        first, _ = [await serving.engine.submitted.get() for _ in range(2)]
        heard: list[WorkerToGateway] = []
        while not any(isinstance(message, Failed) for message in heard):
            heard += await read_messages(reader, decoder)
        refusal = heard[-1]
        assert isinstance(refusal, Failed)
        assert (refusal.id, refusal.status, refusal.code) == (3, 503, "queue_full")
        serving.server.emit([(first, Embedded(id=1, vectors=(b"",), prompt_tokens=1))])
        assert isinstance((await read_messages(reader, decoder))[-1], Embedded)
        writer.write(encode_frame([Embed(id=4, request_id="r", inputs=("text",))]))
        assert (await serving.engine.submitted.get()).id == 4
    writer.close()


@pytest.mark.parametrize(("count", "in_the_loop"), [(2, True), (1000, False)])
async def test_many_messages_are_rendered_beside_the_loop_however_short_they_are(
    serving: Serving, count: int, in_the_loop: bool
) -> None:
    reader, writer = await serving.connect()
    decoder: FrameDecoder[WorkerToGateway] = FrameDecoder(WorkerToGateway)
    async with asyncio.timeout(30):
        writer.write(encode_frame([Generate(id=1, request_id="r", messages=(ChatMessage("user", ""),) * count)]))
        heard: list[WorkerToGateway] = []
        while not any(isinstance(message, Failed) for message in heard):
            heard += await read_messages(reader, decoder)
    assert (serving.prompts.threads == [threading.get_ident()]) is in_the_loop
    writer.close()


async def test_a_gateway_that_does_not_read_is_let_go_with_its_requests_and_the_others_are_served(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_UNREAD_BYTES", 256 * 1024)
    _, frozen = await serving.connect()
    frozen.write(encode_frame([Embed(id=1, request_id="r", inputs=("text",))]))
    async with asyncio.timeout(30):
        job = await serving.engine.submitted.get()
        reader, writer = await serving.connect()
        decoder: FrameDecoder[WorkerToGateway] = FrameDecoder(WorkerToGateway)
        step = 0
        while serving.engine.cancelled.empty():
            step += 1
            news = HeldPrefixes(added={b"%d %d" % (step, number): 1 for number in range(1000)})
            serving.server.emit([(None, news)])
            while news not in await read_messages(reader, decoder):
                pass
        assert serving.engine.cancelled.get_nowait() is job
    assert isinstance(job, EmbeddingJob)
    frozen.transport.abort()
    writer.close()


async def test_what_is_not_granted_its_tokens_does_not_begin(serving: Serving) -> None:
    reader, writer = await serving.connect()
    decoder: FrameDecoder[WorkerToGateway] = FrameDecoder(WorkerToGateway)

    async def heard() -> list[WorkerToGateway]:
        """Of requests, at least one message."""
        while not (
            found := [m for m in await read_messages(reader, decoder) if isinstance(m, Wants | Failed | Embedded)]
        ):
            pass
        return list(found)

    async with asyncio.timeout(30):
        three = Embed(id=1, request_id="r", inputs=("a", "b", "c"), granted_tokens=2)
        writer.write(encode_frame([three]))
        assert await heard() == [Wants(id=1, tokens=3)]
        writer.write(encode_frame([Grant(id=1, tokens=2)]))
        assert await heard() == [Wants(id=1, tokens=3)]
        writer.write(encode_frame([Grant(id=1, tokens=3)]))
        begun = await serving.engine.submitted.get()
        writer.write(encode_frame([Grant(id=1, tokens=5), Grant(id=7, tokens=5)]))
        assert await serving.engine.granted.get() == (begun, 5, False)
        writer.write(encode_frame([msgspec.structs.replace(three, id=2)]))
        assert await heard() == [Wants(id=2, tokens=3)]
        writer.write(encode_frame([Grant(id=2, tokens=2, last=True)]))
        (refused,) = await heard()
        assert isinstance(refused, Failed) and (refused.id, refused.code) == (2, "quota_exceeded")
        writer.write(encode_frame([msgspec.structs.replace(three, id=3)]))
        await heard()
        writer.write(encode_frame([Cancel(3), Grant(id=3, tokens=3)]))
        (cancelled,) = await heard()
        assert isinstance(cancelled, Failed) and cancelled.code == "cancelled"
    assert serving.engine.submitted.empty()
    writer.close()
