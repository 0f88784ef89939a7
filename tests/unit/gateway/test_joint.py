"""Several prompts, one answer."""

import asyncio

import pytest

from inference.gateway.joint import begin_joint
from inference.gateway.workers import Stream, StreamMessage, WorkerConnection, WorkerLost
from inference.protocol import (
    Accepted,
    Cancel,
    Delta,
    Failed,
    Finished,
    FinishReason,
    Generate,
    WorkerToGateway,
    encode_frame,
)
from tests.unit.gateway.test_workers import Wire, connected


def begun(n: int = 1) -> tuple[WorkerConnection, Wire, Stream]:
    """Two prompts, whose ids are 1 and 2."""
    connection, wire = connected()
    requests = [Generate(id=connection.next_id(), request_id="r", text=text, n=n) for text in ("a", "b")]
    return connection, wire, begin_joint(connection, requests, [None, None])


def say(connection: WorkerConnection, *messages: WorkerToGateway) -> None:
    connection.data_received(encode_frame(messages))


def finished(stream_id: int, tokens: int = 1, reason: FinishReason = FinishReason.STOP) -> Finished:
    return Finished(
        id=stream_id,
        reason=reason,
        prompt_tokens=tokens,
        completion_tokens=tokens,
        cached_tokens=1,
        queue_seconds=tokens,
    )


def deltas(messages: list[StreamMessage]) -> list[tuple[int, str, FinishReason | None]]:
    return [(each.index, each.text, each.finish) for each in messages if isinstance(each, Delta)]


async def test_choices_are_numbered_through_all_prompts_and_counts_add_up() -> None:
    connection, _, joint = begun(n=2)
    say(connection, Accepted(id=1, prompt_tokens=2), Accepted(id=2, prompt_tokens=3))
    say(connection, Delta(id=2, index=1, text="d"), Delta(id=1, index=1, text="b"), Delta(id=1, index=0, text="a"))
    ends = [Delta(id=stream_id, index=i, finish=FinishReason.STOP) for stream_id in (1, 2) for i in (0, 1)]
    say(connection, *ends, finished(2, 3), finished(1, 2))
    messages = await joint.whole()
    assert [each.prompt_tokens for each in messages if isinstance(each, Accepted)] == [2, 5]
    assert deltas(messages)[:3] == [(3, "d", None), (1, "b", None), (0, "a", None)]
    assert [index for index, _, _ in deltas(messages)[3:]] == [0, 1, 2, 3]
    last = messages[-1]
    assert isinstance(last, Finished) and joint.ended and not connection.busy
    assert (last.prompt_tokens, last.completion_tokens, last.cached_tokens, last.queue_seconds) == (5, 5, 2, 3)


async def test_a_prompt_of_one_choice_ends_it_where_the_worker_does_not_say_so() -> None:
    connection, _, joint = begun()
    say(connection, Delta(id=1, text="a"), finished(1, reason=FinishReason.LENGTH))
    assert deltas(await joint.next()) == [(0, "a", None), (0, "", FinishReason.LENGTH)]
    assert not joint.ended
    say(connection, finished(2))
    assert deltas(await joint.next()) == [(1, "", FinishReason.STOP)]
    assert joint.ended


async def test_one_that_fails_ends_all_and_stops_the_others() -> None:
    connection, wire, joint = begun()
    say(connection, Failed(id=2, status=400, code="context_length_exceeded", message="too long"))
    messages = await joint.whole()
    assert isinstance(messages[-1], Failed) and joint.ended
    await asyncio.sleep(0)
    assert wire.written[-1:] == [Cancel(1)] and not connection.busy
    say(connection, Delta(id=1, text="late"), finished(1))


async def test_who_leaves_stops_all_of_them() -> None:
    connection, wire, joint = begun()
    say(connection, finished(1))
    joint.cancel()
    joint.cancel()
    await asyncio.sleep(0)
    assert wire.written[-1:] == [Cancel(2)] and not connection.busy


async def test_a_worker_that_is_lost_or_stops_is_lost_for_all() -> None:
    connection, _, joint = begun()
    say(connection, finished(2, reason=FinishReason.CANCELLED))
    with pytest.raises(WorkerLost, match="stopped"):
        await joint.next()
    connection, _, joint = begun()
    connection.connection_lost(None)
    with pytest.raises(WorkerLost, match="lost"):
        await joint.whole()
