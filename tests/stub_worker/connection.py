"""One peer of the stub, and its requests from their first token to their end."""

import asyncio
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import cast

from inference.protocol import (
    Accepted,
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
    ProtocolError,
    Wants,
    WorkerSpan,
    WorkerToGateway,
    encode_frame,
)
from tests.stub_worker.faults import faults_of
from tests.stub_worker.worker import Worker

WORDS = ("stub", " says", " hello")


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
                elif isinstance(message, Grant):
                    self._grant(message, out)
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
        text = text_of(message)
        prompt_tokens = len(message.tokens) if message.tokens is not None else len(text.split())
        if prompt_tokens + (message.max_tokens or 0) > self._worker.context_tokens:
            out.append(_too_long(message, prompt_tokens, self._worker.context_tokens))
            return
        out.append(Accepted(id=message.id, prompt_tokens=prompt_tokens))
        if message.echo:
            out.append(Delta(id=message.id, text=text, tokens=0))
        cached_tokens = self._worker.cache.look_up(message, text, prompt_tokens)
        self._worker.announce_cache()
        self._advance(Request(self, message, prompt_tokens, cached_tokens, faults_of(text, self._worker.faults)), out)

    def _advance(self, request: "Request", out: list[WorkerToGateway]) -> None:
        request.advance(out)
        if not request.finished:
            self.running[request.id] = request
            self._worker.note_running()
            self._worker.announce_load()

    def _cancel(self, request_id: int, out: list[WorkerToGateway]) -> None:
        """A request that has ended already needs no answer."""
        if request := self.running.get(request_id):
            request.finish(FinishReason.CANCELLED, out)

    def _grant(self, grant: Grant, out: list[WorkerToGateway]) -> None:
        """Of a request that has ended already it comes too late."""
        if request := self.running.get(grant.id):
            request.grant(grant, out)

    def ended(self, request_id: int) -> None:
        if self.running.pop(request_id, None):
            self._worker.note_running()
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
        endless = connection.worker.context_tokens - prompt_tokens if message.ignore_eos else len(WORDS)
        limit = message.max_tokens if message.max_tokens is not None else endless
        self._total = limit if message.ignore_eos else min(limit, len(WORDS))
        whole = self._total == len(WORDS) and not message.ignore_eos
        self._reason = FinishReason.STOP if whole else FinishReason.LENGTH
        self._tokens = 0
        self._granted = message.granted_tokens
        self._wants = False
        self._traced_since = time.time_ns() if message.traceparent.endswith("-01") else None
        self.finished = False

    def advance(self, out: list[WorkerToGateway]) -> None:
        """Make tokens until the end, or until something holds us up."""
        while not self.finished:
            if self._faults and self._misbehave(out):
                return
            if self._lacks_grant(out):
                return
            if self._tokens == self._total:
                self.finish(self._reason, out)
                return
            out.append(Delta(id=self.id, text=WORDS[self._tokens % len(WORDS)], tokens=self._tokens + 1))
            self._tokens += 1
            self._connection.worker.made(1 if self._tokens > 1 else 1 + self._prompt_tokens)
            if seconds := self._connection.worker.token_seconds:
                self._connection.pause(seconds, self._go_on)
                return

    def _lacks_grant(self, out: list[WorkerToGateway]) -> bool:
        """The next token would be more than was granted: it is asked for, once."""
        needed = self._prompt_tokens + min(self._tokens + 1, self._total)
        if self._granted is None or needed <= self._granted:
            return False
        if not self._wants:
            self._wants = True
            out.append(Wants(id=self.id, tokens=needed))
        return True

    def grant(self, grant: Grant, out: list[WorkerToGateway]) -> None:
        self._granted, self._wants = grant.tokens, False
        if grant.last and self._prompt_tokens + min(1, self._total) > grant.tokens:
            self.finished = True
            out.append(Failed(id=self.id, status=429, code="quota_exceeded", message="not granted"))
            self._connection.ended(self.id)
            return
        if grant.last:
            self._total = min(self._total, max(self._tokens, grant.tokens - self._prompt_tokens))
            self._reason = FinishReason.LENGTH
        self.advance(out)

    def finish(self, reason: FinishReason, out: list[WorkerToGateway]) -> None:
        self.finished = True
        finished = Finished(
            id=self.id,
            reason=reason,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._tokens,
            cached_tokens=self._cached_tokens,
            spans=self._spans(),
        )
        out.append(finished)
        self._connection.worker.count(finished)
        self._connection.ended(self.id)

    def _spans(self) -> tuple[WorkerSpan, ...]:
        if self._traced_since is None:
            return ()
        return (WorkerSpan(name="decode", began_ns=self._traced_since, ended_ns=time.time_ns()),)

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
        nothing = Generate(
            id=message.id,
            request_id=message.request_id,
            traceparent=message.traceparent,
            max_tokens=0,
            granted_tokens=message.granted_tokens,
        )
        super().__init__(connection, nothing, len(text.split()), 0, faults_of(text, faults))
        self._vectors = tuple(vector_of(each)[: 4 * (message.dimensions or 4)] for each in texts)

    def finish(self, reason: FinishReason, out: list[WorkerToGateway]) -> None:
        self.finished = True
        if reason is FinishReason.CANCELLED:
            out.append(Failed(id=self.id, status=499, code="cancelled", message="the request was cancelled"))
        else:
            out.append(
                Embedded(id=self.id, vectors=self._vectors, prompt_tokens=self._prompt_tokens, spans=self._spans())
            )
        self._connection.ended(self.id)


def vector_of(text: str) -> bytes:
    """A text's embedding: how many words and characters it has, and two constants (not of length 1)."""
    return struct.pack("<4f", len(text.split()), len(text), 0.5, -0.25)


def text_of(message: Generate) -> str:
    if message.messages is not None:
        return " ".join([part.content for part in message.messages])
    return message.text or ""


def _too_long(message: Generate, prompt_tokens: int, context_tokens: int) -> Failed:
    return Failed(
        id=message.id,
        status=400,
        code="context_length_exceeded",
        message=f"The prompt has {prompt_tokens} tokens and may be answered with {message.max_tokens or 0} more; "
        f"the context has {context_tokens}.",
        param="messages" if message.messages is not None else "prompt",
    )
