"""One multiplexed connection to each engine worker.

A :class:`Stream` is one request on such a connection. It is fed by the connection, in the event loop, and read by the
handler: all messages of one decode step arrive together, so that they can leave together.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, cast

import structlog

from inference.protocol import (
    PROTOCOL_VERSION,
    Accepted,
    CacheReport,
    Cancel,
    Delta,
    Embed,
    Embedded,
    Failed,
    Finished,
    FinishReason,
    FrameDecoder,
    GatewayToWorker,
    Generate,
    Grant,
    HeldPrefixes,
    Hello,
    ProtocolError,
    ReplicaState,
    ReplicaView,
    Wants,
    WorkerLoad,
    WorkerToGateway,
    encode_frame,
)

log = structlog.get_logger(module="gateway")

_CONNECT_SECONDS = 5.0
"""From connecting to Hello. A worker binds its socket only when it is ready, so it answers at once or never."""

StreamMessage = Accepted | Delta | Finished | Failed | Embedded
WorkerNews = Hello | CacheReport | WorkerLoad | HeldPrefixes
"""What a worker tells of itself."""
_NEWS = Hello, CacheReport, WorkerLoad, HeldPrefixes


class Listener(Protocol):
    """Who hears what a worker says about one request."""

    @property
    def ended(self) -> bool:
        """Nothing more is expected."""
        ...

    def feed(self, message: StreamMessage) -> None: ...
    def lose(self, fault: str) -> None: ...


class Connection(Protocol):
    """Where a request is sent: a worker, or what looks like one (:mod:`inference.gateway.remotes`)."""

    loop: asyncio.AbstractEventLoop

    @property
    def worker_pid(self) -> int:
        """0: there is no process of ours."""

    @property
    def replica_name(self) -> str:
        """On its node, for clients."""

    def next_id(self) -> int: ...
    def begin(self, message: Generate | Embed, meter: "Meter | None" = None) -> "Stream": ...
    def begin_for(self, listener: Listener, message: Generate | Embed, meter: "Meter | None" = None) -> None: ...
    def grant(self, grant: Grant) -> None: ...
    def abandon(self, stream_id: int) -> None: ...


class Meter(Protocol):
    """Hears all that a worker says about one request, also what its client does not wait for any more."""

    def feed(self, message: StreamMessage | Wants, connection: Connection) -> bool:
        """Whether it was the last message."""
        ...

    def lose(self) -> None:
        """The last message will never come."""


class WorkerLost(Exception):
    """The worker died, was stopped, or can't be reached. Asking again may help, while the client has seen nothing."""


class Stream:
    """What a worker says about one request."""

    __slots__ = ("_at_end", "_connection", "_fault", "_id", "_messages", "_waiter", "ended")

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self._connection = connection
        self._id = stream_id
        self._messages: list[StreamMessage] = []
        self._waiter: asyncio.Future[None] | None = None
        self._at_end = False
        self._fault: str | None = None
        self.ended = False

    @property
    def lost(self) -> bool:
        """What was still to come never will: its worker is gone."""
        return self._fault is not None

    async def next(self) -> list[StreamMessage]:
        """The messages that came since the last call, at least one.

        Raises:
            WorkerLost: there are none left to come.
        """
        if not self._messages:
            await self._wait(at_end=False)
        messages, self._messages = self._messages, []
        return messages

    async def whole(self) -> list[StreamMessage]:
        """All messages up to the last one. The reader sleeps meanwhile: no task is woken for each token.

        Raises:
            WorkerLost: the last one will never come.
        """
        if not self.ended:
            await self._wait(at_end=True)
        self._raise_fault()
        return self._messages

    def cancel(self) -> None:
        """Nobody reads any more: stop the work. Harmless once the stream has ended."""
        if not self.ended:
            self.ended = True
            self._connection.abandon(self._id)

    def feed(self, message: StreamMessage) -> None:
        """Take a message from the connection; the last one ends the stream."""
        if isinstance(message, Finished) and message.reason is FinishReason.CANCELLED:
            # We forget what we cancel ourselves, so the worker cancelled it: it is being stopped.
            self.lose("the worker was stopped")
            return
        self._messages.append(message)
        if isinstance(message, Finished | Failed | Embedded):
            self.ended = True
        if self._waiter is not None and (self.ended or not self._at_end):
            self._wake()

    def lose(self, fault: str) -> None:
        """The connection is gone, and with it whatever was still to come."""
        self.ended = True
        self._fault = fault
        if self._waiter is not None:
            self._wake()

    async def _wait(self, *, at_end: bool) -> None:
        self._raise_fault()
        self._at_end = at_end
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if not self._messages:
            self._raise_fault()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise WorkerLost(self._fault)


class WorkerConnection(asyncio.Protocol):
    """The socket of one worker: requests out, their messages in, sorted by the id of the request."""

    def __init__(
        self,
        replica: ReplicaView,
        loop: asyncio.AbstractEventLoop,
        heard: "Callable[[WorkerConnection, WorkerNews], None]" = lambda *_: None,
    ) -> None:
        """``heard`` is told of all news, once they are noted here."""
        self.loop = loop
        self.replica = replica
        self._heard = heard
        self.hello: asyncio.Future[Hello] = loop.create_future()
        self.closed = False
        self.load: WorkerLoad | None = None
        self.cache: CacheReport | None = None
        self.held: dict[bytes, int] = {}
        """Beginnings of prompts that it need not compute again, and about how many tokens they are."""
        self._decoder: FrameDecoder[WorkerToGateway] = FrameDecoder(WorkerToGateway)
        self._streams: dict[int, Listener] = {}
        self._meters: dict[int, Meter] = {}
        self._outbox: list[GatewayToWorker] = []
        self._last_id = 0
        self._transport: asyncio.Transport | None = None

    @property
    def busy(self) -> bool:
        return bool(self._streams or self._meters)

    @property
    def told(self) -> int:
        """Requests that it computes or that wait there, of all gateways, as it has said last."""
        return 0 if self.load is None else self.load.running + self.load.waiting

    @property
    def work(self) -> int:
        """The same, or ours where it does not know of all of them yet."""
        return max(len(self._streams), self.told)

    @property
    def cells(self) -> float:
        """RAM for KV that running requests need, of what it has: 0–1."""
        tokens = self.hello.result().kv_tokens
        return self.cache.context_tokens / tokens if self.cache and tokens else 0.0

    @property
    def worker_pid(self) -> int:
        return self.hello.result().pid

    @property
    def replica_name(self) -> str:
        return str(self.worker_pid)

    def held_tokens(self, prefixes: Sequence[bytes]) -> int:
        """About how many tokens of a prompt it need not compute, by the prompt's chain (:mod:`inference.prefixes`)."""
        for link in reversed(prefixes):
            if tokens := self.held.get(link):
                return tokens
        return 0

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def begin(self, message: Generate | Embed, meter: Meter | None = None) -> Stream:
        """Send a request whose id is from :meth:`next_id`. Raises WorkerLost."""
        stream = Stream(self, message.id)
        self.begin_for(stream, message, meter)
        return stream

    def begin_for(self, listener: Listener, message: Generate | Embed, meter: Meter | None = None) -> None:
        """Likewise; ``listener`` hears the answer. Raises WorkerLost."""
        if self.closed or self._transport is None:
            if meter is not None:
                meter.lose()
            raise WorkerLost("the worker's connection is closed")
        self._streams[message.id] = listener
        if meter is not None:
            self._meters[message.id] = meter
        self._send(message)

    def grant(self, grant: Grant) -> None:
        """Of a request that has ended meanwhile nobody takes note of it."""
        if not self.closed:
            self._send(grant)

    def abandon(self, stream_id: int) -> None:
        """Cancel a request; what the worker still says of it is its meter's only."""
        if self._streams.pop(stream_id, None) is not None:
            self._send(Cancel(stream_id))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except ProtocolError as fault:
            log.error("A worker broke the protocol", model_id=self.replica.model, reason=str(fault))
            self._lose(f"the worker broke the protocol: {fault}")
            self.close()
            return
        for message in messages:
            self._sort(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose("the worker's connection was lost")

    def _send(self, message: GatewayToWorker) -> None:
        """What one turn of the event loop sends leaves as one frame, in one system call."""
        if not self._outbox:
            self.loop.call_soon(self._flush)
        self._outbox.append(message)

    def _flush(self) -> None:
        messages, self._outbox = self._outbox, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(messages))

    def _sort(self, message: WorkerToGateway) -> None:
        if isinstance(message, _NEWS):
            self._note(message)
        else:
            if (meter := self._meters.get(message.id)) is not None and meter.feed(message, self):
                del self._meters[message.id]
            if isinstance(message, Wants):
                return
            stream = self._streams.get(message.id)
            if stream is not None:  # else it was cancelled a moment ago
                stream.feed(message)
                if stream.ended:
                    self._streams.pop(message.id, None)

    def _note(self, news: WorkerNews) -> None:
        if isinstance(news, Hello):
            if not self.hello.done():
                self.hello.set_result(news)
            return  # the pool says so, once it counts on it
        if isinstance(news, CacheReport):
            self.cache = news
        elif isinstance(news, WorkerLoad):
            self.load = news
        else:
            self.held.update(news.added)
            for link in news.removed:
                self.held.pop(link, None)
        self._heard(self, news)

    def _lose(self, fault: str) -> None:
        self.closed = True
        if not self.hello.done():
            self.hello.set_exception(WorkerLost(fault))
            self.hello.exception()  # it may be that nobody waits
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.lose(fault)
        meters, self._meters = self._meters, {}
        for meter in meters.values():
            meter.lose()


class Opener(Protocol):
    """Connects to workers: :class:`inference.gateway.ways.Ways`."""

    async def worker(self, replica: ReplicaView, factory: Callable[[], WorkerConnection]) -> WorkerConnection:
        """Raises OSError."""
        ...


Who = tuple[str, str | None]
"""A worker: its node, and its socket there."""


class WorkerPool:
    """The connections to the workers of all nodes."""

    def __init__(self, ways: Opener, heard: Callable[[WorkerConnection, WorkerNews], None] = lambda *_: None) -> None:
        """``heard``: see :class:`WorkerConnection`."""
        self._ways = ways
        self._heard = heard
        self._connections: dict[Who, WorkerConnection] = {}
        self._of_version: dict[int, list[WorkerConnection]] = {}
        self._connecting: dict[tuple[Who, int], asyncio.Task[WorkerConnection]] = {}

    def __iter__(self) -> Iterator[WorkerConnection]:
        """The open connections."""
        return (connection for connection in self._connections.values() if not connection.closed)

    def of(self, version_pk: int) -> list[WorkerConnection]:
        """Those to a version's workers."""
        return [each for each in self._of_version.get(version_pk, ()) if not each.closed]

    def held_tokens(self, replica: ReplicaView, prefixes: Sequence[bytes]) -> int:
        """About how many tokens of a prompt, by its chain, a replica need not compute. O(length of the chain)."""
        connection = self.connected(replica)
        return 0 if connection is None else connection.held_tokens(prefixes)

    def work(self, replica: ReplicaView) -> int:
        """Requests that a replica computes or that wait there, as far as is known."""
        connection = self.connected(replica)
        return 0 if connection is None else connection.work

    def follow(self, replicas: Iterable[ReplicaView]) -> None:
        """Be connected to all that are ready, so that what they tell of themselves is known before a request asks."""
        for replica in replicas:
            if replica.state is ReplicaState.READY and self.connected(replica) is None:
                self._attempt(replica).add_done_callback(_forgive)

    def connected(self, replica: ReplicaView) -> WorkerConnection | None:
        """The connection to a replica where there is one: no await on the hot path."""
        connection = self._connections.get((replica.node, replica.socket))
        if connection is None or connection.closed or connection.replica.version_pk != replica.version_pk:
            return None
        return connection

    async def connect(self, replica: ReplicaView) -> WorkerConnection:
        """The connection to a replica, made if need be; all who want it at once share the attempt.

        Raises:
            WorkerLost: there is no worker, or not the one that the supervisor spoke of.
        """
        if connection := self.connected(replica):
            return connection
        if replica.socket is None:
            raise WorkerLost("the worker has no socket")
        # Shielded: a client that leaves must not end the attempt for the others.
        return await asyncio.shield(self._attempt(replica))

    def busy_versions(self, node: str) -> set[int]:
        """Versions (by primary key) whose replicas on a node are working on a request of ours."""
        own = (each for each in self._connections.values() if each.replica.node == node)
        return {connection.replica.version_pk for connection in own if connection.busy}

    def retain(self, replicas: Iterable[ReplicaView]) -> None:
        """Close connections to replicas that are no more, unless they still work for us (they are draining)."""
        known = {who(replica) for replica in replicas}
        for key, connection in list(self._connections.items()):
            if connection.closed or (key not in known and not connection.busy):
                connection.close()
                self._forget(key)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._of_version.clear()

    def _attempt(self, replica: ReplicaView) -> "asyncio.Task[WorkerConnection]":
        key = (who(replica), replica.version_pk)
        attempt = self._connecting.get(key)
        if attempt is None:
            attempt = asyncio.create_task(self._open(replica))
            self._connecting[key] = attempt
            attempt.add_done_callback(lambda _: self._connecting.pop(key, None))
        return attempt

    async def _open(self, replica: ReplicaView) -> WorkerConnection:
        connection = WorkerConnection(replica, asyncio.get_running_loop(), self._heard)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._ways.worker(replica, lambda: connection)
                hello = await connection.hello
            if problem := _mismatch(replica, hello):
                raise WorkerLost(problem)
        except TimeoutError:
            connection.close()
            raise WorkerLost(f"the worker did not answer within {_CONNECT_SECONDS:.0f} s") from None
        except OSError as fault:
            raise WorkerLost(f"the worker can't be reached: {fault.strerror or fault}") from None
        except WorkerLost:
            connection.close()
            raise
        self._forget(who(replica))
        self._connections[who(replica)] = connection
        self._of_version.setdefault(replica.version_pk, []).append(connection)
        self._heard(connection, hello)
        return connection

    def _forget(self, key: Who) -> None:
        connection = self._connections.pop(key, None)
        if connection is None:
            return
        of_version = self._of_version[connection.replica.version_pk]
        of_version.remove(connection)
        if not of_version:
            del self._of_version[connection.replica.version_pk]


def who(replica: ReplicaView) -> Who:
    return replica.node, replica.socket


def _forgive(attempt: "asyncio.Task[WorkerConnection]") -> None:
    """Nobody waited for it: the next request or view will try again."""
    if not attempt.cancelled():
        attempt.exception()


def _mismatch(replica: ReplicaView, hello: Hello) -> str:
    """Why this worker is not the one we looked for; empty if it is."""
    if hello.protocol != PROTOCOL_VERSION:
        return f"the worker speaks version {hello.protocol} of the protocol, not {PROTOCOL_VERSION}"
    if (hello.model, hello.version) != (replica.model, replica.version):
        return f"the worker serves {hello.model}@{hello.version}, not {replica.model}@{replica.version}"
    return ""
