"""Prompts at the very end of a model's context."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from inference.protocol import Failed, Finished, FinishReason, Generate, Partition
from tests import gguf_files
from tests.integration.engine.conftest import Client, Worker

CONTEXT_TOKENS = 256


@pytest.fixture(scope="module")
def small_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    model = gguf_files.write_model(tmp_path_factory.mktemp("small") / "small.gguf", context_length=CONTEXT_TOKENS)
    running = Worker(model)
    assert running.statuses()[-1]["stage"] == "ready"
    yield running
    running.close()


@pytest.fixture
async def small_client(small_worker: Worker) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_unix_connection(small_worker.socket)
    yield Client(reader, writer)
    writer.close()


def prompt(tokens: int) -> Generate:
    partition = Partition(name="alice", key=b"a" * 32)
    return Generate(id=1, request_id="r", tokens=(5,) * tokens, ignore_eos=True, partition=partition)


async def test_a_prompt_that_leaves_room_for_one_token_gets_one(small_client: Client) -> None:
    small_client.send(prompt(CONTEXT_TOKENS - 1))
    end = (await small_client.until(1, Finished))[-1]
    assert isinstance(end, Finished)
    assert (end.prompt_tokens, end.completion_tokens, end.reason) == (CONTEXT_TOKENS - 1, 1, FinishReason.LENGTH)


@pytest.mark.parametrize("tokens", [CONTEXT_TOKENS, CONTEXT_TOKENS + 1])
async def test_a_prompt_as_long_as_the_context_or_longer_is_refused_with_both_counts(
    small_client: Client, tokens: int
) -> None:
    small_client.send(prompt(tokens))
    failed = (await small_client.until(1, Failed))[-1]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.code, failed.param) == (400, "context_length_exceeded", "prompt")
    assert str(tokens) in failed.message and str(CONTEXT_TOKENS) in failed.message
