"""Streams of a worker's connection, fed by hand."""

import asyncio
from typing import cast

import pytest

from inference.gateway.workers import Stream, WorkerConnection, WorkerLost
from inference.protocol import (
    PROTOCOL_VERSION,
    Accepted,
    Cancel,
    Delta,
    Finished,
    FinishReason,
    FrameDecoder,
    GatewayToWorker,
    Generate,
    Hello,
    ReplicaState,
    ReplicaView,
    encode_frame,
)

REPLICA = ReplicaView(
    version_pk=1, model="m", version="1.0.0", state=ReplicaState.READY, reason="", socket="/s", progress=1, since=0
)


class Wire:
    """The transport: what was written to it, and whether it was closed."""

    def __init__(self) -> None:
        self.written: list[GatewayToWorker] = []
        self.writes = 0
        self.closed = False
        self._decoder: FrameDecoder[GatewayToWorker] = FrameDecoder(GatewayToWorker)

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.written += self._decoder.feed(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def connected() -> tuple[WorkerConnection, Wire]:
    connection, wire = WorkerConnection(REPLICA, asyncio.get_running_loop()), Wire()
    connection.connection_made(cast(asyncio.Transport, wire))
    return connection, wire


def begin(connection: WorkerConnection) -> tuple[int, Stream]:
    stream_id = connection.next_id()
    return stream_id, connection.begin(Generate(id=stream_id, request_id="r", text="x"))


def text(stream_id: int, word: str) -> Delta:
    return Delta(id=stream_id, text=word, tokens=1)


def finished(stream_id: int, reason: FinishReason = FinishReason.STOP) -> Finished:
    return Finished(id=stream_id, reason=reason, prompt_tokens=1, completion_tokens=1)


async def test_messages_reach_their_own_stream_and_those_of_a_step_come_together() -> None:
    connection, _ = connected()
    (a, first), (b, second) = begin(connection), begin(connection)
    reading = asyncio.create_task(first.next())
    await asyncio.sleep(0)
    connection.data_received(encode_frame([text(a, "1"), text(b, "x"), text(a, "2")]))
    assert await reading == [text(a, "1"), text(a, "2")]
    assert await second.next() == [text(b, "x")]


async def test_a_whole_answer_wakes_its_reader_once_at_the_end() -> None:
    connection, _ = connected()
    a, stream = begin(connection)
    reading = asyncio.create_task(stream.whole())
    await asyncio.sleep(0)
    for word in "abc":
        connection.data_received(encode_frame([text(a, word)]))
        await asyncio.sleep(0)
        assert not reading.done()
    connection.data_received(encode_frame([finished(a)]))
    assert await reading == [text(a, "a"), text(a, "b"), text(a, "c"), finished(a)]
    assert not connection.busy


async def test_a_lost_connection_fails_every_stream_after_what_had_arrived() -> None:
    connection, _ = connected()
    (a, first), (_, second) = begin(connection), begin(connection)
    connection.data_received(encode_frame([text(a, "1")]))
    waiting = asyncio.create_task(second.next())
    await asyncio.sleep(0)
    connection.connection_lost(None)
    assert await first.next() == [text(a, "1")]
    for lost in (first.next(), waiting, second.whole()):
        with pytest.raises(WorkerLost):
            await lost
    with pytest.raises(WorkerLost):
        begin(connection)


async def test_a_cancelled_stream_tells_the_worker_once_and_forgets_what_still_comes() -> None:
    connection, wire = connected()
    a, stream = begin(connection)
    stream.cancel()
    stream.cancel()
    connection.data_received(encode_frame([text(a, "late"), finished(a, FinishReason.CANCELLED)]))
    await asyncio.sleep(0)
    assert wire.written[1:] == [Cancel(a)]
    assert not connection.busy


async def test_an_ended_stream_has_nothing_to_cancel() -> None:
    connection, wire = connected()
    a, stream = begin(connection)
    connection.data_received(encode_frame([finished(a)]))
    stream.cancel()
    await asyncio.sleep(0)
    assert len(wire.written) == 1


async def test_what_one_turn_of_the_loop_sends_leaves_in_one_frame() -> None:
    connection, wire = connected()
    for _ in range(5):
        begin(connection)
    await asyncio.sleep(0)
    assert (wire.writes, len(wire.written)) == (1, 5)


async def test_what_the_worker_itself_cancels_is_lost_and_may_be_asked_for_again() -> None:
    connection, _ = connected()
    a, stream = begin(connection)
    connection.data_received(encode_frame([Accepted(id=a, prompt_tokens=1), finished(a, FinishReason.CANCELLED)]))
    await stream.next()
    with pytest.raises(WorkerLost, match="stopped"):
        await stream.next()


async def test_a_worker_that_breaks_the_protocol_is_left() -> None:
    connection, wire = connected()
    _, stream = begin(connection)
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n")
    assert wire.closed
    with pytest.raises(WorkerLost, match="protocol"):
        await stream.next()
    with pytest.raises(WorkerLost):
        await connection.hello


async def test_a_stream_whose_reader_was_cancelled_can_be_fed_on() -> None:
    connection, _ = connected()
    a, stream = begin(connection)
    reading = asyncio.create_task(stream.next())
    await asyncio.sleep(0)
    reading.cancel()
    connection.data_received(encode_frame([text(a, "1")]))
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await stream.next() == [text(a, "1")]


async def test_the_first_message_says_who_the_worker_is() -> None:
    connection, _ = connected()
    hello = Hello(protocol=PROTOCOL_VERSION, model="m", version="1.0.0", context_tokens=1, max_sequences=1, pid=42)
    connection.data_received(encode_frame([hello]))
    assert (await connection.hello, connection.worker_pid) == (hello, 42)
