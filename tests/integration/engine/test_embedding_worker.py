"""Embeddings through the worker's protocol: an encoder's worker, and a chat model's beside its streams."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from inference.protocol import (
    Cancel,
    ChatMessage,
    Delta,
    Embed,
    Embedded,
    Failed,
    Finished,
    Generate,
    Sampling,
)
from tests.gguf_files import write_encoder
from tests.integration.engine.conftest import Client, Worker


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    running = Worker(write_encoder(tmp_path_factory.mktemp("encoder") / "bert.gguf", context_length=512))
    assert running.statuses()[-1]["stage"] == "ready"
    yield running
    running.close()


async def connect(worker: Worker) -> Client:
    return Client(*await asyncio.open_unix_connection(worker.socket))


@pytest.fixture
async def reader(encoder: Worker) -> AsyncIterator[Client]:
    client = await connect(encoder)
    yield client
    client.writer.close()


async def answer(client: Client, request: Embed) -> Embedded | Failed:
    client.send(request)
    last = (await client.until(request.id, (Embedded, Failed)))[-1]
    assert isinstance(last, Embedded | Failed)
    return last


def embed(id: int, *inputs: str | tuple[int, ...], dimensions: int | None = None) -> Embed:
    return Embed(id=id, request_id=f"r{id}", inputs=inputs, dimensions=dimensions)


def vector(answered: Embedded | Failed, index: int = 0) -> np.ndarray:
    assert isinstance(answered, Embedded), answered
    return np.frombuffer(answered.vectors[index], "<f4")


async def test_an_encoder_is_loaded_and_embeds(reader: Client) -> None:
    made = await answer(reader, embed(1, "the king", "the queen"))
    assert isinstance(made, Embedded) and len(made.vectors) == 2 and made.prompt_tokens == 8
    assert abs(np.linalg.norm(vector(made)) - 1) < 1e-6
    assert reader.hello is not None and reader.hello.context_tokens == 512


async def test_an_encoder_asked_for_text_says_what_it_can_do(reader: Client) -> None:
    reader.send(Generate(id=1, request_id="r", messages=(ChatMessage("user", "Hi"),)))
    failed = (await reader.until(1, Failed))[-1]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.code, failed.param) == (400, "capability_unavailable", "model")


async def test_a_thousand_inputs_are_embedded_each_in_its_place(reader: Client) -> None:
    words = ("king", "queen", "cat", "dog ran and ran", "the mat")
    many = await answer(reader, embed(1, *[words[index % 5] for index in range(1000)]))
    few = await answer(reader, embed(2, *words))
    for index in range(1000):
        assert np.abs(vector(many, index) - vector(few, index % 5)).max() < 2e-3


async def test_requests_of_two_gateways_are_embedded_together(encoder: Worker, reader: Client) -> None:
    other = await connect(encoder)
    for client in (reader, other):
        client.send(*[embed(id, "the king") for id in range(20)])
    expected = vector(await answer(reader, embed(20, "the king")))
    for client in (reader, other):
        for id in range(20):
            made = (await client.until(id, (Embedded, Failed)))[-1]
            assert isinstance(made, Embedded) and np.abs(vector(made) - expected).max() < 2e-3
    other.writer.close()


async def test_a_long_input_is_tokenized_beside_the_loop_and_refused_with_both_counts(reader: Client) -> None:
    failed = await answer(reader, embed(1, "king " * 20_000))
    assert isinstance(failed, Failed)
    assert (failed.status, failed.code, failed.param) == (400, "context_length_exceeded", "input")
    assert "20002" in failed.message and "512" in failed.message


async def test_a_cancelled_request_says_so_and_leaves_nothing_running(reader: Client) -> None:
    reader.send(embed(1, *["the king " * 100] * 2000), embed(2, "king"))
    assert isinstance((await reader.until(2, (Embedded, Failed)))[-1], Embedded)
    reader.send(Cancel(1))
    failed = (await reader.until(1, (Embedded, Failed)))[-1]
    assert isinstance(failed, Failed) and failed.code == "cancelled"
    await reader.until_load(0)


async def test_a_gateway_that_vanishes_cancels_its_embeddings(encoder: Worker, reader: Client) -> None:
    other = await connect(encoder)
    other.send(embed(1, *["the king " * 100] * 2000))
    await reader.until_load(1)
    other.writer.transport.abort()
    await reader.until_load(0)


async def test_a_chat_model_embeds_while_its_chats_go_on(client: Client) -> None:
    streams = [
        Generate(
            id=id,
            request_id=str(id),
            messages=(ChatMessage("user", f"Count from {id}."),),
            max_tokens=24,
            ignore_eos=True,
            sampling=Sampling(temperature=0.0),
        )
        for id in range(4)
    ]
    client.send(*streams)
    for request in streams:
        await client.until(request.id, Delta)
    texts = ("The capital of France is Paris.", "Paris is France's capital.", "Bread is made of flour. " * 10)
    client.send(embed(10, *texts), embed(11, texts[0]))
    together = (await client.until(10, (Embedded, Failed)))[-1]
    assert isinstance(together, Embedded)
    assert not any(isinstance(message, Finished) for message in client._messages[0]), (
        "no text waits for embeddings' end"
    )
    alone = (await client.until(11, (Embedded, Failed)))[-1]
    assert isinstance(alone, Embedded)
    assert np.dot(vector(together), vector(alone)) > 0.999
    for request in streams:
        finished = (await client.until(request.id, (Finished, Failed)))[-1]
        assert isinstance(finished, Finished) and finished.completion_tokens == 24


async def test_a_chat_models_vectors_tell_meaning(client: Client) -> None:
    made = await answer(
        client, embed(1, "The cat sleeps on the sofa.", "A cat sleeps on a sofa.", "def add(a, b): return a + b")
    )
    near, far = vector(made, 0) @ vector(made, 1), vector(made, 0) @ vector(made, 2)
    assert vector(made).shape == (576,) and near > far


async def test_an_input_beyond_the_context_is_refused_without_tokenizing_megabytes(client: Client) -> None:
    failed = await asyncio.wait_for(answer(client, embed(1, "a" * 8_000_000)), 10)
    assert isinstance(failed, Failed) and failed.code == "context_length_exceeded"
    assert "at least" in failed.message and "8192" in failed.message
