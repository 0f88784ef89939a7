"""Which beginnings of prompts a real worker tells that it holds, and that a conversation's next turn finds them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from inference.gateway.ways import Ways
from inference.gateway.workers import WorkerPool
from inference.prefixes import chat_chain, text_chain
from inference.protocol import (
    CacheBudget,
    ChatMessage,
    Finished,
    Generate,
    Partition,
    ReplicaState,
    ReplicaView,
    Sampling,
)
from tests.integration.engine.conftest import Client, Worker
from tests.waiting import until

OURS = Partition(name="ours", key=b"o" * 32)
SYSTEM = ChatMessage("system", "You answer questions about the sea. " * 30)
QUESTION = ChatMessage("user", "How deep is it? " * 20)
BUDGET = CacheBudget(ram_bytes=64 * 1024**2, ssd_bytes=0)


@pytest.fixture(scope="module")
def caching(smollm2: Path) -> Iterator[Worker]:
    worker = Worker(smollm2)
    assert worker.statuses()[-1]["stage"] == "ready"
    worker.set_cache_budget(BUDGET)
    yield worker
    worker.close()


@pytest.fixture
async def peer(caching: Worker) -> AsyncIterator[Client]:
    """Connected, with the budget in force."""
    caching.set_cache_budget(BUDGET)
    reader, writer = await asyncio.open_unix_connection(caching.socket)
    client = Client(reader, writer)
    await client.until_cache(lambda cache: cache.ram.budget_bytes == BUDGET.ram_bytes)
    yield client
    writer.close()


def turn(id: int, *messages: ChatMessage, partition: Partition = OURS) -> Generate:
    return Generate(
        id=id,
        request_id=f"r{id}",
        messages=messages,
        max_tokens=24,
        sampling=Sampling(temperature=0.0),
        partition=partition,
        prefixes=chat_chain(partition, messages, ()),
    )


async def test_a_conversations_next_turn_finds_the_worker_that_had_the_one_before(
    caching: Worker, peer: Client
) -> None:
    first = turn(1, SYSTEM, QUESTION)
    text, finished = await peer.generate(first)
    conversation = (SYSTEM, QUESTION, ChatMessage("assistant", text), ChatMessage("user", "And the air?"))
    second = turn(2, *conversation)
    await peer.until_held(lambda held: second.prefixes[2] in held)
    assert peer.held[second.prefixes[1]] == finished.prompt_tokens
    assert 64 <= peer.held[second.prefixes[0]] < finished.prompt_tokens

    # Another gateway, which has just connected, knows as much.
    pool = WorkerPool(Ways("", Path(), None))
    replica = ReplicaView(
        version_pk=1,
        model="model",
        version="1.0.0",
        state=ReplicaState.READY,
        reason="",
        socket=str(caching.socket),
        progress=1.0,
        since=0.0,
    )
    assert pool.held_tokens(replica, second.prefixes) == 0
    connection = await pool.connect(replica)
    await until(lambda: bool(connection.held))  # which is told right after Hello
    promised = pool.held_tokens(replica, second.prefixes)
    assert promised >= finished.prompt_tokens
    assert pool.held_tokens(replica, turn(3, SYSTEM, ChatMessage("user", "Hi")).prefixes) > 0
    theirs = Partition(name="theirs", key=b"t" * 32)
    assert pool.held_tokens(replica, turn(3, *conversation, partition=theirs).prefixes) == 0
    pool.close()

    _, after = await peer.generate(second)
    assert abs(after.cached_tokens - promised) <= 2


async def test_a_plain_prompt_is_found_by_its_steps_and_by_what_was_written_after_it(peer: Client) -> None:
    prompt = "Once upon a time there was a whale. " * 28
    assert len(prompt) < 1024
    request = Generate(
        id=1,
        request_id="r",
        text=prompt,
        max_tokens=40,
        ignore_eos=True,
        partition=OURS,
        prefixes=text_chain(OURS, prompt),
    )
    text, _ = await peer.generate(request)
    assert len(prompt + text) > 1024
    held = await peer.until_held(lambda held: text_chain(OURS, prompt + text)[0] in held)
    assert held[text_chain(OURS, prompt + text)[0]] >= 64


async def test_what_is_evicted_is_told(peer: Client, caching: Worker) -> None:
    request = turn(1, SYSTEM, QUESTION)
    await peer.generate(request)
    await peer.until_held(lambda held: request.prefixes[1] in held)
    caching.set_cache_budget(CacheBudget(ram_bytes=0, ssd_bytes=0))
    assert await peer.until_held(lambda held: not held) == {}


async def test_nothing_is_told_of_what_is_not_cached(peer: Client) -> None:
    known = turn(2, SYSTEM, QUESTION)
    uncached = Generate(id=1, request_id="r", messages=(QUESTION, SYSTEM), max_tokens=2, prefixes=(b"x" * 16,))
    await peer.generate(uncached)
    await peer.generate(known)
    await peer.until(2, Finished)
    await peer.until_held(lambda held: known.prefixes[1] in held)
    assert b"x" * 16 not in peer.held
