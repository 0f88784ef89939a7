"""Requests that were granted a number of tokens never come to more, on a real worker."""

from typing import Any

import pytest

from inference.protocol import (
    Accepted,
    Cancel,
    Delta,
    Failed,
    Finished,
    FinishReason,
    Generate,
    Grant,
    Sampling,
    Wants,
    WorkerToGateway,
)
from tests.integration.engine.conftest import Client

GREEDY = Sampling(temperature=0.0)


def asked(id: int, **fields: Any) -> Generate:
    more: dict[str, Any] = {"text": "Once upon a time", "max_tokens": 60, "sampling": GREEDY, "ignore_eos": True}
    return Generate(id=id, request_id=str(id), **more | fields)


def used(messages: list[WorkerToGateway]) -> int:
    accepted = next(message for message in messages if isinstance(message, Accepted))
    return accepted.prompt_tokens + max(message.tokens for message in messages if isinstance(message, Delta))


async def finished(client: Client, id: int) -> Finished:
    last = (await client.until(id, (Finished, Failed)))[-1]
    assert isinstance(last, Finished), last
    return last


async def test_text_that_is_granted_in_steps_is_the_text_that_is_granted_at_once(client: Client) -> None:
    whole, _ = await client.generate(asked(1))
    client.send(asked(2, granted_tokens=10))
    wants = 0
    for granted in (20, 30, 64):
        while wants == len(found := [m for m in await client.until(2, Wants) if isinstance(m, Wants)]):
            await client._read()
        wants = len(found)
        client.send(Grant(id=2, tokens=granted))
    end = await finished(client, 2)
    messages = await client.until(2, Finished)
    assert "".join(m.text for m in messages if isinstance(m, Delta)) == whole
    assert (end.completion_tokens, end.reason) == (60, FinishReason.LENGTH)


async def test_without_another_grant_it_waits_and_others_go_on(client: Client) -> None:
    client.send(asked(1, granted_tokens=20))
    await client.until(1, Wants)
    for id in (2, 3):
        await client.generate(asked(id))
    assert used(await client.until(1, Wants)) <= 20
    client.send(Grant(id=1, tokens=20, last=True))
    end = await finished(client, 1)
    assert (end.reason, end.prompt_tokens + end.completion_tokens) == (FinishReason.LENGTH, 20)


async def test_one_that_waits_for_a_grant_can_be_cancelled_and_says_what_it_used(client: Client) -> None:
    client.send(asked(1, granted_tokens=16))
    await client.until(1, Wants)
    await client.generate(asked(2))  # it has come to what it may
    client.send(Cancel(1))
    end = await finished(client, 1)
    assert (end.reason, end.prompt_tokens + end.completion_tokens) == (FinishReason.CANCELLED, 16)


@pytest.mark.parametrize("granted", [1, 4, 5, 31])
async def test_choices_share_what_is_granted(client: Client, granted: int) -> None:
    """The prompt has 4 tokens."""
    client.send(asked(1, n=3, granted_tokens=granted, sampling=Sampling(seed=1)))
    await client.until(1, Wants)
    client.send(Grant(id=1, tokens=31, last=True))
    end = await finished(client, 1)
    assert (end.prompt_tokens, end.completion_tokens) == (4, 27)


async def test_guessed_tokens_are_counted_too(client: Client) -> None:
    """A text that repeats itself is computed some tokens at a time."""
    text = "one two three four five six seven eight nine ten " * 6
    client.send(asked(1, text=text, max_tokens=200, granted_tokens=100))
    await client.until(1, Wants)
    client.send(Grant(id=1, tokens=111, last=True))
    end = await finished(client, 1)
    assert end.prompt_tokens + end.completion_tokens == 111
