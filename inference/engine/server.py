"""The worker protocol on a Unix socket: gateways connect, the engine thread computes.

Everything here runs in one asyncio loop. The engine thread hands over what a step produced with one
``call_soon_threadsafe``; it is written as one frame to each gateway that is concerned.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import structlog

from inference.engine.engine import Engine, Job
from inference.engine.prompts import PromptRefused, Prompts
from inference.protocol import (
    PROTOCOL_VERSION,
    Accepted,
    CacheReport,
    Cancel,
    Delta,
    Embed,
    Failed,
    Finished,
    FinishReason,
    FrameDecoder,
    GatewayToWorker,
    Generate,
    Hello,
    ProtocolError,
    WorkerLoad,
    WorkerToGateway,
    encode_frame,
)

log = structlog.get_logger(module="engine")

_LONG_PROMPT_CHARACTERS = 16_384
"""Above this a prompt is tokenized beside the loop (about 1 ms there) instead of in it."""


class WorkerServer:
    """One model's server. Create it inside the running loop."""

    def __init__(
        self,
        *,
        model_id: str,
        version: str,
        context_tokens: int,
        max_sequences: int,
        prompts: Prompts,
        report_cache: Callable[[CacheReport], None],
    ) -> None:
        """``report_cache`` tells the supervisor what every gateway is told."""
        self._hello = encode_frame(
            [
                Hello(
                    protocol=PROTOCOL_VERSION,
                    model=model_id,
                    version=version,
                    context_tokens=context_tokens,
                    max_sequences=max_sequences,
                    pid=os.getpid(),
                )
            ]
        )
        self._prompts = prompts
        self._report_cache = report_cache
        self._loop = asyncio.get_running_loop()
        self._connections: set[_Connection] = set()
        self._known: dict[type[WorkerToGateway], WorkerToGateway] = {WorkerLoad: WorkerLoad(running=0, waiting=0)}
        """The newest message of each kind that goes to every gateway; who connects later gets it, too."""
        self._engine: Engine | None = None

    async def listen(self, engine: Engine, socket_path: Path) -> asyncio.Server:
        self._engine = engine
        socket_path.unlink(missing_ok=True)  # noqa: ASYNC240 - one system call, before anybody is served
        return await self._loop.create_unix_server(lambda: _Connection(self), socket_path)

    def emit(self, messages: list[tuple[Job | None, WorkerToGateway]]) -> None:
        """Called by the engine's thread with what a step produced."""
        self._loop.call_soon_threadsafe(self._deliver, messages)

    def _deliver(self, messages: list[tuple[Job | None, WorkerToGateway]]) -> None:
        frames: dict[_Connection, list[WorkerToGateway]] = {}
        for job, message in messages:
            if job is None:
                self._known[type(message)] = message
                if isinstance(message, CacheReport):
                    self._report_cache(message)
                for connection in self._connections:
                    frames.setdefault(connection, []).append(message)
            else:
                connection = cast(_Connection, job.peer)
                frames.setdefault(connection, []).append(message)
                if isinstance(message, Finished | Failed):
                    connection.jobs.pop(job.id, None)
        for connection, batch in frames.items():
            connection.send(batch)

    def _connected(self, connection: "_Connection") -> None:
        self._connections.add(connection)
        connection.transport.write(self._hello)
        connection.send(list(self._known.values()))

    def _disconnected(self, connection: "_Connection") -> None:
        """The gateway is gone: nobody waits for its answers."""
        self._connections.discard(connection)
        for job in connection.jobs.values():
            if job is not None:
                self._require_engine().cancel(job)
        connection.jobs.clear()

    def _receive(self, connection: "_Connection", message: GatewayToWorker) -> None:
        if isinstance(message, Cancel):
            self._cancel(connection, message.id)
        elif message.id in connection.jobs:
            raise ProtocolError(f"request {message.id} is running already")
        elif isinstance(message, Embed):
            connection.send([_no_embeddings(message)])
        elif _prompt_characters(message) > _LONG_PROMPT_CHARACTERS:
            connection.jobs[message.id] = None
            task = self._loop.create_task(self._begin_later(connection, message))
            connection.tasks.add(task)
            task.add_done_callback(connection.tasks.discard)
        else:
            self._begin(connection, message, _build(self._prompts, message))

    async def _begin_later(self, connection: "_Connection", request: Generate) -> None:
        built = await self._loop.run_in_executor(None, _build, self._prompts, request)
        if request.id in connection.jobs:
            self._begin(connection, request, built)

    def _begin(self, connection: "_Connection", request: Generate, built: "tuple[list[int], int] | Failed") -> None:
        if isinstance(built, Failed):
            connection.jobs.pop(request.id, None)
            connection.send([built])
            return
        tokens, limit = built
        first: list[WorkerToGateway] = [Accepted(id=request.id, prompt_tokens=len(tokens))]
        if request.echo:
            first.append(Delta(id=request.id, text=self._prompts.text_of(tokens), tokens=0))
        if limit == len(tokens):  # max_tokens is 0: the prompt is counted, and echoed if so asked
            first.append(
                Finished(id=request.id, reason=FinishReason.LENGTH, prompt_tokens=len(tokens), completion_tokens=0)
            )
            connection.jobs.pop(request.id, None)
            connection.send(first)
            return
        connection.send(first)
        shared_tokens = self._prompts.shared_tokens(request, tokens)
        job = Job(peer=connection, request=request, tokens=tokens, limit=limit, shared_tokens=shared_tokens)
        connection.jobs[request.id] = job
        self._require_engine().submit(job)

    def _cancel(self, connection: "_Connection", request_id: int) -> None:
        """Cancel a job; one that is still being tokenized ends here, one that is unknown has ended already."""
        if request_id not in connection.jobs:
            return
        job = connection.jobs[request_id]
        if job is not None:
            self._require_engine().cancel(job)
        else:
            del connection.jobs[request_id]
            connection.send([Failed(id=request_id, status=499, code="cancelled", message="cancelled before it began")])

    def _require_engine(self) -> Engine:
        assert self._engine is not None, "listen() comes first"
        return self._engine


class _Connection(asyncio.Protocol):
    """One gateway."""

    def __init__(self, server: WorkerServer) -> None:
        self._server = server
        self._decoder: FrameDecoder[GatewayToWorker] = FrameDecoder(GatewayToWorker)
        self.transport: asyncio.Transport
        self.jobs: dict[int, Job | None] = {}
        """By request id; None while its prompt is being tokenized."""
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._server._connected(self)

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._server._receive(self, message)
        except ProtocolError as fault:
            log.error("A gateway broke the protocol; its connection is closed", reason=str(fault))
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._disconnected(self)

    def send(self, messages: list[WorkerToGateway]) -> None:
        # A gateway that does not read is its own problem: what it is owed is bounded by its requests' tokens.
        if not self.transport.is_closing():
            self.transport.write(encode_frame(messages))


def _prompt_characters(request: Generate) -> int:
    if request.messages is not None:
        return sum(len(message.content) for message in request.messages)
    return len(request.text or "") + len(request.tokens or ())


def _no_embeddings(request: Embed) -> Failed:
    return Failed(
        id=request.id,
        status=400,
        code="capability_unavailable",
        message="this model makes no embeddings: use one whose capabilities name 'embedding'",
        param="model",
    )


def _build(prompts: Prompts, request: Generate) -> tuple[list[int], int] | Failed:
    try:
        return prompts.build(request)
    except PromptRefused as refusal:
        return refusal.failed
    except Exception:
        # A fault of ours at one prompt: its client is told, and nobody else's connection breaks.
        log.exception("A prompt could not be built", request_id=request.request_id)
        return Failed(id=request.id, status=500, code="engine_failed", message="the prompt could not be tokenized")
