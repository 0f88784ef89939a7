"""An engine worker without a model: ``python -m tests.stub_worker`` takes the engine's arguments and answers at once.

It speaks the worker protocol exactly, so supervisor, gateway and benchmark can be tested without weights. A prompt has
as many tokens as words (or as the list of tokens that was sent); an answer is "stub says hello", three tokens, repeated
up to ``max_tokens`` with ``ignore_eos``; an embedding is :func:`vector_of`. Prompts that it has seen in their partition
are cached, all but their last token, at :data:`BYTES_PER_TOKEN` in RAM within the budget that it is told on standard
input; their beginnings are told, and forgotten when anything is evicted. Told to measure, it finds two threads the
fastest. What should go wrong is told by arguments of its own or, for one request, by a word in its prompt:
``stub:crash-after-2``, ``stub:hang-after-0``, ``stub:fail-after-1`` (tokens).

Gates are named pipes (``mkfifo``): the worker goes on when somebody opens one for writing. A test opens it when it has
seen what it wanted to see, so that nothing waits on time. ``{model}`` in a path stands for the model's id.
"""

import argparse
import asyncio
import ctypes
import os
import re
import signal
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from inference.durations import Histogram
from inference.protocol import (
    PROTOCOL_VERSION,
    Accepted,
    CacheBudget,
    CacheReport,
    Cancel,
    Delta,
    Embed,
    Embedded,
    EngineParameters,
    Failed,
    Finished,
    FinishReason,
    FrameDecoder,
    GatewayToWorker,
    Generate,
    HeldPrefixes,
    Hello,
    Measured,
    ProtocolError,
    TierReport,
    Tuned,
    WorkerCounts,
    WorkerLoad,
    WorkerStage,
    WorkerStatus,
    WorkerToGateway,
    WorkerToSupervisor,
    encode_frame,
)

WORDS = ("stub", " says", " hello")
BYTES_PER_TOKEN = 1024
REPORT_SECONDS = 0.02
TUNED = Tuned(
    parameters=EngineParameters(threads=2),
    measured=(Measured(parameters=EngineParameters(), decode_seconds=0.02, mixed_seconds=0.2),),
)
_PR_SET_PDEATHSIG = 1
_FAULT = re.compile(r"stub:(crash|hang|fail)-after-(\d+)")


def main() -> int:
    arguments = _parse_arguments()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if arguments.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    _forgive(arguments)
    if arguments.chatter:
        print(arguments.chatter, file=sys.stderr, flush=True)
    _report(WorkerStatus(stage=WorkerStage.LOADING, progress=0.5))
    if arguments.crash_on_load:
        os.kill(os.getpid(), signal.SIGKILL)
    if arguments.load_gate:
        _pass(arguments.load_gate)
    if arguments.fail_load:
        _report(WorkerStatus(stage=WorkerStage.FAILED, reason=arguments.fail_load))
        return 1
    Path(arguments.socket).unlink(missing_ok=True)
    uvloop.run(_serve(arguments))
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.stub_worker", description="An engine worker without a model."
    )
    parser.add_argument("--socket", required=True)
    parser.add_argument("--model-id", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--parameters", default="{}")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("files", nargs="*")
    own = parser.add_argument_group("what should go wrong")
    own.add_argument("--load-gate", metavar="FIFO", help="the load ends when somebody opens this for writing")
    own.add_argument("--fail-load", metavar="REASON")
    own.add_argument("--crash-on-load", action="store_true", help="by SIGKILL, as if memory had run out")
    own.add_argument("--crash-after", type=int, metavar="TOKENS", help="of any request; 0 is before the first")
    own.add_argument("--fail-after", type=int, metavar="TOKENS", help="answer Failed instead of going on")
    own.add_argument("--hang-after", type=int, metavar="TOKENS", help="go on at the gate only, or never")
    own.add_argument("--hang-gate", metavar="FIFO", help="what hangs goes on when somebody opens this for writing")
    own.add_argument("--token-seconds", type=float, default=0.0, help="pace; 0 answers at once")
    own.add_argument("--ignore-sigterm", action="store_true")
    own.add_argument("--deaf", action="store_true", help="read no budgets")
    own.add_argument("--chatter", metavar="TEXT", help="a line for standard error that is not JSON")
    own.add_argument("--first-only", metavar="FILE", help="faults are the first process's only: it makes this file")
    own.add_argument("--context-tokens", type=int, default=4096)
    own.add_argument("--max-sequences", type=int, default=16)
    arguments = parser.parse_args()
    for name in ("load_gate", "hang_gate", "first_only"):
        if path := getattr(arguments, name):
            setattr(arguments, name, path.replace("{model}", arguments.model_id))
    return arguments


def _forgive(arguments: argparse.Namespace) -> None:
    """Drop the faults if another process has had them already."""
    if not arguments.first_only:
        return
    try:
        Path(arguments.first_only).touch(exist_ok=False)
    except FileExistsError:
        arguments.crash_on_load = False
        arguments.load_gate = arguments.fail_load = arguments.chatter = None
        arguments.crash_after = arguments.fail_after = arguments.hang_after = None


def _pass(gate: str) -> None:
    """Wait until somebody opens the gate for writing."""
    with open(gate, "rb"):  # noqa: PTH123 - a pipe, not a file's content
        pass


def _report(message: WorkerToSupervisor) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


async def _serve(arguments: argparse.Namespace) -> None:
    worker = Worker(arguments)
    await asyncio.get_running_loop().create_unix_server(lambda: Connection(worker), arguments.socket)
    _report(WorkerStatus(stage=WorkerStage.READY, progress=1.0))
    if arguments.tune:
        _report(TUNED)
    if not arguments.deaf:
        threading.Thread(target=_read_budgets, args=(worker, asyncio.get_running_loop()), daemon=True).start()
    await asyncio.Event().wait()


def _read_budgets(worker: "Worker", loop: asyncio.AbstractEventLoop) -> None:
    for line in sys.stdin.buffer:
        loop.call_soon_threadsafe(worker.set_budget, msgspec.json.decode(line, type=CacheBudget))


class Cache:
    """Whole prompts by their partition, salt and text; the least recently used goes first."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str, str], int] = {}
        self._budget = CacheBudget(ram_bytes=0, ssd_bytes=0)
        self._evicted = self._prompt_tokens = self._cached_tokens = self._lookups = self._hits = 0
        self.prefixes: dict[bytes, int] = {}
        """Of the prompts that were cached since anything was evicted."""

    def look_up(self, message: Generate, text: str, prompt_tokens: int) -> int:
        """How many of the prompt's tokens need not be computed; from now on it is known."""
        cached = 0
        if message.partition is not None:
            key = (message.partition.name, message.partition.salt, text)
            cached = max(0, self._tokens.pop(key, 0) - 1)
            self._tokens[key] = prompt_tokens
            for index, link in enumerate(message.prefixes):
                self.prefixes[link] = prompt_tokens * (index + 1) // len(message.prefixes)
            self._evict()
        self._prompt_tokens += prompt_tokens
        self._cached_tokens += cached
        self._lookups += 1
        self._hits += cached > 0
        return cached

    def set_budget(self, budget: CacheBudget) -> None:
        self._budget = budget
        self._evict()

    def report(self) -> CacheReport:
        return CacheReport(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            lookups=self._lookups,
            hits=self._hits,
            ram=TierReport(
                enabled=self._budget.ram_bytes > 0,
                blocks=len(self._tokens),
                bytes=self._bytes(),
                budget_bytes=self._budget.ram_bytes,
                evicted_blocks=self._evicted,
            ),
            ssd=TierReport(reason="a stub writes nothing", budget_bytes=self._budget.ssd_bytes),
        )

    def _evict(self) -> None:
        while self._bytes() > self._budget.ram_bytes:
            del self._tokens[next(iter(self._tokens))]
            self._evicted += 1
            self.prefixes.clear()

    def _bytes(self) -> int:
        return sum(self._tokens.values()) * BYTES_PER_TOKEN


class Worker:
    """What all connections share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.connections: set[Connection] = set()
        self.cache = Cache()
        self.told_budget = False
        self._counts = WorkerCounts()
        self._queue_wait = Histogram()
        self.told_prefixes: dict[bytes, int] = {}
        self._cache_due = False
        self.token_seconds: float = arguments.token_seconds
        self.context_tokens: int = arguments.context_tokens
        self.hello = encode_frame(
            [
                Hello(
                    protocol=PROTOCOL_VERSION,
                    model=arguments.model_id,
                    version=arguments.version,
                    context_tokens=arguments.context_tokens,
                    max_sequences=arguments.max_sequences,
                    pid=os.getpid(),
                )
            ]
        )
        faults = {"crash": arguments.crash_after, "fail": arguments.fail_after, "hang": arguments.hang_after}
        self.faults = {kind: after for kind, after in faults.items() if after is not None}
        self._gate: str | None = arguments.hang_gate
        self._gate_watched = False
        self._hung: list[Callable[[], None]] = []

    def announce_load(self) -> None:
        """Soon: after what is being written. Requests that are answered at once never show here."""
        asyncio.get_running_loop().call_soon(self._announce_load)

    def _announce_load(self) -> None:
        running = sum(len(connection.running) for connection in self.connections)
        frame = encode_frame([WorkerLoad(running=running, waiting=0)])
        for connection in self.connections:
            connection.transport.write(frame)

    def set_budget(self, budget: CacheBudget) -> None:
        self.cache.set_budget(budget)
        self.told_budget = True
        self.announce_cache()

    def announce_cache(self) -> None:
        """Soon, to the supervisor and to all who are connected, if there is one who told us a budget: nobody else
        reads our standard output."""
        if self.told_budget and not self._cache_due:
            self._cache_due = True
            asyncio.get_running_loop().call_later(REPORT_SECONDS, self._announce_cache)

    def _announce_cache(self) -> None:
        self._cache_due = False
        report = self.cache.report()
        _report(report)
        _report(self._counts)
        frame = encode_frame([report, self._changed_prefixes()])
        for connection in self.connections:
            connection.transport.write(frame)

    def _changed_prefixes(self) -> HeldPrefixes:
        before, self.told_prefixes = self.told_prefixes, dict(self.cache.prefixes)
        added = {link: tokens for link, tokens in self.told_prefixes.items() if before.get(link) != tokens}
        return HeldPrefixes(added=added, removed=tuple(before.keys() - self.told_prefixes.keys()))

    def count(self, finished: Finished) -> None:
        self._queue_wait.observe(finished.queue_seconds)
        self._counts = WorkerCounts(
            prompt_tokens=self._counts.prompt_tokens + finished.prompt_tokens,
            cached_tokens=self._counts.cached_tokens + finished.cached_tokens,
            completion_tokens=self._counts.completion_tokens + finished.completion_tokens,
            queue_wait=self._queue_wait.durations,
        )
        self.announce_cache()

    def hang(self, go_on: Callable[[], None]) -> None:
        self._hung.append(go_on)
        if self._gate and not self._gate_watched:
            self._gate_watched = True
            threading.Thread(
                target=self._watch_gate, args=(self._gate, asyncio.get_running_loop()), daemon=True
            ).start()

    def _watch_gate(self, gate: str, loop: asyncio.AbstractEventLoop) -> None:
        _pass(gate)
        loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        self._gate_watched = False
        hung, self._hung = self._hung, []
        for go_on in hung:
            go_on()


class Connection(asyncio.Protocol):
    """One gateway, or the supervisor. Everything that a piece of input causes leaves in one write."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._decoder: FrameDecoder[GatewayToWorker] = FrameDecoder(GatewayToWorker)
        self.transport: asyncio.Transport
        self.running: dict[int, Request] = {}
        """Requests that could not be answered at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._worker.connections.add(self)
        self.transport.write(self._worker.hello)
        if held := self._worker.told_prefixes:
            self.transport.write(encode_frame([HeldPrefixes(added=held)]))
        self._worker.announce_load()

    def data_received(self, data: bytes) -> None:
        out: list[WorkerToGateway] = []
        try:
            for message in self._decoder.feed(data):
                if isinstance(message, Cancel):
                    self._cancel(message.id, out)
                elif isinstance(message, Embed):
                    self._advance(EmbeddingRequest(self, message, self._worker.faults), out)
                else:
                    self._begin(message, out)
        except ProtocolError as fault:
            print(f"stub worker: {fault}", file=sys.stderr, flush=True)
            self.transport.abort()
            return
        if out:
            self.transport.write(encode_frame(out))

    def connection_lost(self, exc: Exception | None) -> None:
        self._worker.connections.discard(self)
        if self.running:
            self.running.clear()
            self._worker.announce_load()

    def _begin(self, message: Generate, out: list[WorkerToGateway]) -> None:
        text = _text(message)
        prompt_tokens = len(message.tokens) if message.tokens is not None else len(text.split())
        if prompt_tokens + (message.max_tokens or 0) > self._worker.context_tokens:
            out.append(_too_long(message, prompt_tokens, self._worker.context_tokens))
            return
        out.append(Accepted(id=message.id, prompt_tokens=prompt_tokens))
        if message.echo:
            out.append(Delta(id=message.id, text=text, tokens=0))
        cached_tokens = self._worker.cache.look_up(message, text, prompt_tokens)
        self._worker.announce_cache()
        self._advance(Request(self, message, prompt_tokens, cached_tokens, _faults(text, self._worker.faults)), out)

    def _advance(self, request: "Request", out: list[WorkerToGateway]) -> None:
        request.advance(out)
        if not request.finished:
            self.running[request.id] = request
            self._worker.announce_load()

    def _cancel(self, request_id: int, out: list[WorkerToGateway]) -> None:
        """A request that has ended already needs no answer."""
        if request := self.running.get(request_id):
            request.finish(FinishReason.CANCELLED, out)

    def ended(self, request_id: int) -> None:
        if self.running.pop(request_id, None):
            self._worker.announce_load()

    def pause(self, seconds: float, go_on: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, go_on)

    @property
    def worker(self) -> Worker:
        return self._worker


class Request:
    """One request, from its first token to its end."""

    def __init__(
        self,
        connection: Connection,
        message: Generate,
        prompt_tokens: int,
        cached_tokens: int,
        faults: dict[str, int],
    ) -> None:
        self._connection = connection
        self.id = message.id
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = cached_tokens
        self._faults = faults
        limit = message.max_tokens if message.max_tokens is not None else len(WORDS)
        self._total = limit if message.ignore_eos else min(limit, len(WORDS))
        whole = self._total == len(WORDS) and not message.ignore_eos
        self._reason = FinishReason.STOP if whole else FinishReason.LENGTH
        self._tokens = 0
        self.finished = False

    def advance(self, out: list[WorkerToGateway]) -> None:
        """Make tokens until the end, or until something holds us up."""
        while not self.finished:
            if self._faults and self._misbehave(out):
                return
            if self._tokens == self._total:
                self.finish(self._reason, out)
                return
            out.append(Delta(id=self.id, text=WORDS[self._tokens % len(WORDS)], tokens=self._tokens + 1))
            self._tokens += 1
            if seconds := self._connection.worker.token_seconds:
                self._connection.pause(seconds, self._go_on)
                return

    def finish(self, reason: FinishReason, out: list[WorkerToGateway]) -> None:
        self.finished = True
        finished = Finished(
            id=self.id,
            reason=reason,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._tokens,
            cached_tokens=self._cached_tokens,
        )
        out.append(finished)
        self._connection.worker.count(finished)
        self._connection.ended(self.id)

    def _misbehave(self, out: list[WorkerToGateway]) -> bool:
        """Whether a fault holds us up here."""
        if self._faults.get("crash") == self._tokens:
            self._connection.transport.write(encode_frame(out))
            os.kill(os.getpid(), signal.SIGKILL)
        if self._faults.get("fail") == self._tokens:
            self.finished = True
            out.append(Failed(id=self.id, status=500, code="stub_failed", message="the stub was told to fail"))
            self._connection.ended(self.id)
            return True
        if self._faults.get("hang") == self._tokens:
            del self._faults["hang"]
            self._connection.worker.hang(self._go_on)
            return True
        return False

    def _go_on(self) -> None:
        if self.finished or self._connection.transport.is_closing():
            return
        out: list[WorkerToGateway] = []
        self.advance(out)
        if out:
            self._connection.transport.write(encode_frame(out))


class EmbeddingRequest(Request):
    """A request for embeddings; its faults are those after 0 tokens."""

    def __init__(self, connection: Connection, message: Embed, faults: dict[str, int]) -> None:
        texts = [content if isinstance(content, str) else "token " * len(content) for content in message.inputs]
        text = " ".join(texts)
        nothing = Generate(id=message.id, request_id=message.request_id, max_tokens=0)
        super().__init__(connection, nothing, len(text.split()), 0, _faults(text, faults))
        self._vectors = tuple(vector_of(each)[: 4 * (message.dimensions or 4)] for each in texts)

    def finish(self, reason: FinishReason, out: list[WorkerToGateway]) -> None:
        self.finished = True
        if reason is FinishReason.CANCELLED:
            out.append(Failed(id=self.id, status=499, code="cancelled", message="the request was cancelled"))
        else:
            out.append(Embedded(id=self.id, vectors=self._vectors, prompt_tokens=self._prompt_tokens))
        self._connection.ended(self.id)


def vector_of(text: str) -> bytes:
    """A text's embedding: how many words and characters it has, and two constants (not of length 1)."""
    return struct.pack("<4f", len(text.split()), len(text), 0.5, -0.25)


def _text(message: Generate) -> str:
    if message.messages is not None:
        return " ".join([part.content for part in message.messages])
    return message.text or ""


def _faults(text: str, faults: dict[str, int]) -> dict[str, int]:
    if "stub:" not in text:
        return dict(faults) if faults else {}
    return faults | {kind: int(after) for kind, after in _FAULT.findall(text)}


def _too_long(message: Generate, prompt_tokens: int, context_tokens: int) -> Failed:
    return Failed(
        id=message.id,
        status=400,
        code="context_length_exceeded",
        message=f"The prompt has {prompt_tokens} tokens and may be answered with {message.max_tokens or 0} more; "
        f"the context has {context_tokens}.",
        param="messages" if message.messages is not None else "prompt",
    )


if __name__ == "__main__":
    sys.exit(main())
