"""The worker protocol on a Unix socket: gateways connect, the engine thread computes.

Everything here runs in one asyncio loop. The engine thread hands over what a step produced with one
``call_soon_threadsafe``; it is written as one frame to each gateway that is concerned.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, cast

import msgspec
import structlog

from inference.engine.counting import Counting
from inference.engine.embedding_inputs import EmbeddingInputs
from inference.engine.embeddings import EmbeddingJob
from inference.engine.input_checks import PromptRefused
from inference.engine.jobs import AnyJob, Job
from inference.engine.prompts import Prompt, Prompts
from inference.protocol import (
    MAX_FRAME_BYTES,
    Accepted,
    CacheReport,
    Cancel,
    ChatMessage,
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
    ToolChoice,
    Wants,
    WorkerCounts,
    WorkerLoad,
    WorkerToGateway,
    encode_frame,
)

log = structlog.get_logger(module="engine")

MOST_REQUESTS = 4096
"""That are not answered yet: their prompts stay in memory, and of more the last would hardly have a turn in time."""

MOST_UNREAD_BYTES = 4 * MAX_FRAME_BYTES
"""Of one gateway: some of the largest answers that there are."""

_COUNTS_SECONDS = 0.25
"""What was counted is told so often at most."""

_LONG_PROMPT_CHARACTERS = 16_384
"""Above this a prompt is tokenized beside the loop (about 1 ms there) instead of in it."""

_CHARACTERS_PER_PART = 128
"""What an input or a message costs beside its characters, in the time of so many of them."""


class TakesJobs(Protocol):
    """The thread that computes: ``Engine``, or ``EmbeddingEngine`` for a model that writes no text."""

    def submit(self, job: AnyJob) -> None: ...
    def cancel(self, job: AnyJob) -> None: ...
    def grant(self, job: AnyJob, tokens: int, *, last: bool) -> None: ...


class WorkerServer:
    """One model's server. Create it inside the running loop."""

    def __init__(
        self,
        hello: Hello,
        *,
        prompts: Prompts | None,
        embedding_inputs: EmbeddingInputs,
        report: Callable[[CacheReport | WorkerCounts], None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            hello: what each gateway is told first.
            prompts: None for a model that writes no text.
            report: tells the supervisor.
            stopped: whether computing has come to a stop for good. Nobody is greeted then: by that the supervisor
                knows, and whoever looks for an answer goes elsewhere.
        """
        self._hello = encode_frame([hello])
        self._prompts = prompts
        self._embedding_inputs = embedding_inputs
        self._report = report
        self._stopped = stopped
        self._counting = Counting()
        self._counts_due: asyncio.TimerHandle | None = None
        # Grammars have a thread of their own: what is spent on hostile ones delays no prompt without one.
        self._grammar_thread = ThreadPoolExecutor(1, "grammars")
        self._loop = asyncio.get_running_loop()
        self._connections: set[_Connection] = set()
        self._held: dict[bytes, int] = {}
        """All changes of the held prefixes put together."""
        self._known: dict[type[WorkerToGateway], WorkerToGateway] = {
            WorkerLoad: WorkerLoad(running=0, waiting=0),
            HeldPrefixes: HeldPrefixes(added=self._held),
        }
        """The newest message of each kind that goes to every gateway; who connects later gets it, too."""
        self._engine: TakesJobs | None = None

    async def listen(self, engine: TakesJobs, socket_path: Path) -> asyncio.Server:
        self._engine = engine
        socket_path.unlink(missing_ok=True)  # noqa: ASYNC240 - one system call, before anybody is served
        return await self._loop.create_unix_server(lambda: _Connection(self), socket_path)

    def emit(self, messages: list[tuple[AnyJob | None, WorkerToGateway]]) -> None:
        """Called by the engine's thread with what a step produced."""
        self._loop.call_soon_threadsafe(self._deliver, messages)

    def _deliver(self, messages: list[tuple[AnyJob | None, WorkerToGateway]]) -> None:
        frames: dict[_Connection, list[WorkerToGateway]] = {}
        now, counted = time.monotonic(), False
        for job, message in messages:
            if job is None:
                self._remember(message)
                for connection in self._connections:
                    frames.setdefault(connection, []).append(message)
            else:
                connection = cast(_Connection, job.peer)
                counted = self._counting.sent(job, message, now) or counted
                if isinstance(message, Embedded):
                    connection.send([message])  # of up to half a frame's size: it shares no frame
                else:
                    frames.setdefault(connection, []).append(message)
                if isinstance(message, Finished | Failed | Embedded):
                    connection.jobs.pop(job.id, None)
        for connection, batch in frames.items():
            connection.send(batch)
        if counted and self._counts_due is None:
            self._counts_due = self._loop.call_later(_COUNTS_SECONDS, self.report_counts)

    def report_counts(self) -> None:
        """Tell the supervisor what was counted."""
        if self._counts_due is not None:
            self._counts_due.cancel()
            self._counts_due = None
            self._report(self._counting.counts)

    def _remember(self, message: WorkerToGateway) -> None:
        """Something that every gateway is told."""
        if isinstance(message, HeldPrefixes):
            self._held.update(message.added)
            for link in message.removed:
                self._held.pop(link, None)
            return
        self._known[type(message)] = message
        if isinstance(message, CacheReport):
            self._report(message)

    def _connected(self, connection: "_Connection") -> None:
        self._connections.add(connection)
        if self._stopped():
            return
        connection.transport.write(self._hello)
        connection.send(list(self._known.values()))

    def _disconnected(self, connection: "_Connection") -> None:
        """The gateway is gone: nobody waits for its answers."""
        self._connections.discard(connection)
        for job in connection.jobs.values():
            if job is not None:
                self._require_engine().cancel(job)
        connection.jobs.clear()
        connection.unbegun.clear()

    def _receive(self, connection: "_Connection", message: GatewayToWorker) -> None:
        if isinstance(message, Cancel):
            self._cancel(connection, message.id)
        elif isinstance(message, Grant):
            self._grant(connection, message)
        elif message.id in connection.jobs:
            raise ProtocolError(f"request {message.id} is running already")
        elif sum(len(each.jobs) for each in self._connections) >= MOST_REQUESTS:
            connection.send([_refused_for_others(message)])
        elif _is_slow(message):
            connection.jobs[message.id] = None
            task = self._loop.create_task(self._begin_later(connection, message))
            connection.tasks.add(task)
            task.add_done_callback(connection.tasks.discard)
        else:
            self._begin(connection, message, self._build(connection, message))

    async def _begin_later(self, connection: "_Connection", request: Generate | Embed) -> None:
        threads = self._grammar_thread if _has_grammar(request) else None
        built = await self._loop.run_in_executor(threads, self._build, connection, request)
        if request.id in connection.jobs:
            self._begin(connection, request, built)

    def _build(self, connection: "_Connection", request: Generate | Embed) -> "_Built":
        """Called by the loop or beside it: it changes nothing here."""
        try:
            if isinstance(request, Embed):
                inputs = self._embedding_inputs.build(request)
                return EmbeddingJob(peer=connection, request=request, inputs=inputs)
            return _no_text(request) if self._prompts is None else self._prompts.build(request)
        except PromptRefused as refusal:
            return refusal.failed
        except Exception:
            # What is known to go wrong is refused above. This is a fault of ours, or of a template's or a grammar's
            # library, at one prompt: its client is told, and nobody else's connection breaks.
            log.exception("A prompt could not be built", request_id=request.request_id)
            return Failed(id=request.id, status=500, code="engine_failed", message="the prompt could not be tokenized")

    def _begin(self, connection: "_Connection", request: Generate | Embed, built: "_Built") -> None:
        if isinstance(built, Failed):
            connection.jobs.pop(request.id, None)
            connection.send([built])
        elif isinstance(built, EmbeddingJob):
            self._start(connection, built)
        else:
            assert isinstance(request, Generate) and self._prompts is not None
            self._begin_text(connection, request, self._prompts, built)

    def _begin_text(self, connection: "_Connection", request: Generate, prompts: Prompts, prompt: Prompt) -> None:
        tokens = prompt.tokens
        nothing_wanted = prompt.limit == len(tokens)
        first: list[WorkerToGateway] = [Accepted(id=request.id, prompt_tokens=len(tokens))]
        if request.echo or nothing_wanted:
            text = prompts.text_of(tokens) if request.echo else ""
            finish = FinishReason.LENGTH if nothing_wanted else None
            first += [Delta(id=request.id, index=index, text=text, finish=finish) for index in range(request.n)]
        if nothing_wanted:  # max_tokens is 0: the prompt is counted, and echoed if so asked
            first.append(
                Finished(id=request.id, reason=FinishReason.LENGTH, prompt_tokens=len(tokens), completion_tokens=0)
            )
            connection.jobs.pop(request.id, None)
            connection.send(first)
            return
        connection.send(first)
        job = Job(
            peer=connection,
            request=request,
            tokens=tokens,
            limit=prompt.limit,
            plan=prompt.plan,
            shared_tokens=prompt.shared_tokens,
            granted=request.granted_tokens,
        )
        self._start(connection, job)

    def _start(self, connection: "_Connection", job: AnyJob) -> None:
        """Have it computed, once it is granted as many tokens as that takes."""
        granted = job.request.granted_tokens
        if granted is not None and (least := _least_tokens(job)) > granted:
            connection.jobs[job.id] = None
            connection.unbegun[job.id] = job
            connection.send([Wants(id=job.id, tokens=least)])
            return
        connection.jobs[job.id] = job
        self._require_engine().submit(job)

    def _grant(self, connection: "_Connection", grant: Grant) -> None:
        """Of a job that is unknown it comes too late: it has ended."""
        job = connection.unbegun.pop(grant.id, None)
        if job is not None:
            if grant.last and _least_tokens(job) > grant.tokens:
                del connection.jobs[grant.id]
                connection.send([_not_granted(job, grant)])
                return
            job.request = msgspec.structs.replace(job.request, granted_tokens=grant.tokens)
            if isinstance(job, Job):
                job.granted = grant.tokens
            self._start(connection, job)
        if (running := connection.jobs.get(grant.id)) is not None and (job is None or grant.last):
            self._require_engine().grant(running, grant.tokens, last=grant.last)

    def _cancel(self, connection: "_Connection", request_id: int) -> None:
        """Cancel a job; one that is still being tokenized ends here, one that is unknown has ended already."""
        if request_id not in connection.jobs:
            return
        job = connection.jobs[request_id]
        if job is not None:
            self._require_engine().cancel(job)
        else:
            del connection.jobs[request_id]
            connection.unbegun.pop(request_id, None)
            connection.send([Failed(id=request_id, status=499, code="cancelled", message="cancelled before it began")])

    def _require_engine(self) -> TakesJobs:
        assert self._engine is not None, "listen() comes first"
        return self._engine


class _Connection(asyncio.Protocol):
    """One gateway."""

    def __init__(self, server: WorkerServer) -> None:
        self._server = server
        self._decoder: FrameDecoder[GatewayToWorker] = FrameDecoder(GatewayToWorker)
        self.transport: asyncio.Transport
        self.jobs: dict[int, AnyJob | None] = {}
        """By request id; None while its prompt is being tokenized, and while it is not granted its tokens."""
        self.unbegun: dict[int, AnyJob] = {}
        """By request id: those that are not granted what they take."""
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
        """Never waits. A gateway that does not read is let go, with its requests: it is told of the engine's state all
        the time, whether it asks for anything or not."""
        if self.transport.is_closing():
            return
        self.transport.write(encode_frame(messages))
        if self.transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            log.error("A gateway does not read; its connection is closed", unread_bytes=MOST_UNREAD_BYTES)
            self.transport.abort()


def _is_slow(request: Generate | Embed) -> bool:
    """Whether its prompt is built beside the loop, where nobody else waits for it."""
    if _prompt_characters(request) > _LONG_PROMPT_CHARACTERS:
        return True
    return isinstance(request, Generate) and (bool(request.tools) or _has_grammar(request))


def _has_grammar(request: Generate | Embed) -> bool:
    if isinstance(request, Embed):
        return False
    required = request.tool_choice is ToolChoice.REQUIRED
    return request.constraint is not None or required or any(tool.strict for tool in request.tools)


def _prompt_characters(request: Generate | Embed) -> int:
    if isinstance(request, Embed):
        return sum(len(content) + _CHARACTERS_PER_PART for content in request.inputs)
    if request.messages is not None:
        return sum(_characters(message) for message in request.messages)
    return len(request.text or "") + len(request.tokens or ()) + len(request.suffix or "")


def _characters(message: ChatMessage) -> int:
    calls = sum(len(call.arguments) + _CHARACTERS_PER_PART for call in message.tool_calls)
    return len(message.content) + len(message.reasoning or "") + calls + _CHARACTERS_PER_PART


def _no_text(request: Generate) -> Failed:
    return Failed(
        id=request.id,
        status=400,
        code="capability_unavailable",
        message="this model makes embeddings and writes no text: use one whose capabilities name 'chat' or "
        "'completion'",
        param="model",
    )


def _least_tokens(job: AnyJob) -> int:
    """What it takes in all to begin: the prompt, and a token for each choice."""
    return len(job.tokens) + job.request.n if isinstance(job, Job) else sum(map(len, job.inputs))


def _not_granted(job: AnyJob, grant: Grant) -> Failed:
    least = _least_tokens(job)
    return Failed(
        id=job.id, status=429, code="quota_exceeded", message=f"{least} tokens are needed, and {grant.tokens} granted"
    )


def _refused_for_others(request: Generate | Embed) -> Failed:
    message = f"{MOST_REQUESTS:,} requests wait for this model already: try again later"
    return Failed(id=request.id, status=503, code="queue_full", message=message)


_Built = Prompt | EmbeddingJob | Failed
"""What to generate from, or what to embed, or why neither."""
