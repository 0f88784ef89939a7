"""The messages between gateway, supervisor and engine workers: version 1.

Every message is a tagged msgspec Struct. A *frame* is a 4-byte big-endian length followed by a MessagePack array of
messages, so that what one decode step produced for sixteen streams travels in one write.

Gateway → worker:      Generate, Cancel
Worker → gateway:      Hello (once, first), then per request Accepted (exact prompt tokens, before any text),
                       Delta…, and exactly one of Finished or Failed; WorkerLoad whenever it changes
Gateway → supervisor:  Subscribe (once, first), Demand while a request waits, InUse every second
Supervisor → gateway:  Replicas (everything on this node, whenever anything changes)
Worker → supervisor:   WorkerStatus, one JSON object a line on standard output

This module is all that the engine shares with the rest; it imports nothing of ours.
"""

import asyncio
import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

PROTOCOL_VERSION = 1

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""A frame larger than this is a fault of the peer: the largest honest one is a request body's worth of messages."""


# --- Gateway → worker ------------------------------------------------------------------------------------------------


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message as the chat template sees it. ``content`` is plain text: the gateway has joined text parts."""

    role: str
    content: str
    name: str | None = None


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to choose tokens; values are validated by the gateway.

    The defaults are llama.cpp's and not OpenAI's (temperature 1 over the whole vocabulary), under which small and
    quantized models lose the thread: their unlikely tokens are noise.
    """

    temperature: float = 0.8
    """0 means greedy."""
    top_p: float = 0.95
    top_k: int = 40
    """0 means all."""
    min_p: float = 0.05
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    """The same seed, prompt and batch shapes give the same text. None: drawn at random."""


class Generate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="generate"):
    """Generate text. Exactly one of ``messages``, ``text`` and ``tokens`` is given."""

    id: int
    """Unique on this connection."""
    request_id: str
    """The client's or the gateway's ``X-Request-ID``, for logs."""
    messages: tuple[ChatMessage, ...] | None = None
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    max_tokens: int | None = None
    """None: up to the end of the context."""
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    echo: bool = False
    """Completions only: the prompt's text comes first in the output."""
    sampling: Sampling = Sampling()


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop a request between two steps. Its last message is then ``Finished(reason="cancelled")``."""

    id: int


# --- Worker → gateway ------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    protocol: int
    model: str
    version: str
    context_tokens: int
    """Longest prompt + completion of one request."""
    max_sequences: int
    """Requests that are decoded together; more of them wait in the worker's queue."""
    pid: int


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag="accepted"):
    """The prompt fits. Sent before any text, when the prompt was tokenized."""

    id: int
    prompt_tokens: int


class Delta(msgspec.Struct, frozen=True, kw_only=True, tag="delta"):
    """More text: whole UTF-8 characters, never a part of a stop string."""

    id: int
    text: str
    tokens: int
    """Tokens generated for this request so far."""


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    id: int
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens that were not computed."""
    queue_seconds: float = 0.0
    """From arrival at the worker to the first prefill."""
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    id: int
    status: int
    """HTTP status that fits: 400 for the client's fault, 500 for ours."""
    code: str
    message: str
    param: str | None = None


class WorkerLoad(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    running: int
    waiting: int


GatewayToWorker = Generate | Cancel
WorkerToGateway = Hello | Accepted | Delta | Finished | Failed | WorkerLoad


# --- Gateway ↔ supervisor --------------------------------------------------------------------------------------------


class ReplicaState(StrEnum):
    """The life of a replica on a node. ``failed`` waits out its back-off and may then be loaded again."""

    COLD = "cold"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that a node needs to load a version, so that a load needs no database."""

    version_pk: int
    model: str
    version: str
    files: tuple[str, ...]


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    version_pk: int
    model: str
    version: str
    state: ReplicaState
    reason: str
    """Why it is in this state, in words for an operator."""
    socket: str | None
    """The worker's Unix socket; set while ``ready`` or ``draining``."""
    progress: float
    """0–1 while loading."""
    since: float
    """Seconds since the epoch at which the state began."""
    retry_at: float | None = None
    """While ``failed``: when the next load is allowed, in seconds since the epoch."""


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, tag="subscribe"):
    protocol: int


class Demand(msgspec.Struct, frozen=True, kw_only=True, tag="demand"):
    """A request waits for this version. Idempotent; repeated while anyone waits, and it renews the idle timer."""

    spec: ModelSpec


class InUse(msgspec.Struct, frozen=True, kw_only=True, tag="in_use"):
    """Versions that served requests since the last report: their idle timers start again."""

    versions: tuple[int, ...]


class Replicas(msgspec.Struct, frozen=True, kw_only=True, tag="replicas"):
    """The complete view of this node; what is not named is cold."""

    replicas: tuple[ReplicaView, ...]


GatewayToSupervisor = Subscribe | Demand | InUse


# --- Worker → supervisor ---------------------------------------------------------------------------------------------


class WorkerStage(StrEnum):
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One line of JSON on the worker's standard output. After ``failed`` the worker exits with status 1."""

    stage: WorkerStage
    progress: float = 0.0
    reason: str = ""


# --- Frames ----------------------------------------------------------------------------------------------------------

M = TypeVar("M")
_LENGTH = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()


class ProtocolError(Exception):
    """The peer sent what this version of the protocol does not know; the connection is of no further use."""


def encode_frame(messages: Sequence[object]) -> bytes:
    """Messages as one frame, ready for a single write."""
    body = _encoder.encode(messages)
    return _LENGTH.pack(len(body)) + body


class FrameDecoder(Generic[M]):
    """Cuts a byte stream into frames of messages of one union type, whatever the sizes of the pieces it arrives in."""

    def __init__(self, union: object) -> None:
        self._decoder = msgspec.msgpack.Decoder(list[union])  # type: ignore[valid-type]
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[M]:
        """All messages completed by ``data``.

        Raises:
            ProtocolError: on an oversized frame or a message that is not of the union.
        """
        self._buffer += data
        messages: list[M] = []
        offset = 0
        while len(self._buffer) - offset >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, offset)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {length} bytes is larger than {MAX_FRAME_BYTES}")
            end = offset + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            try:
                messages += self._decoder.decode(memoryview(self._buffer)[offset + _LENGTH.size : end])
            except msgspec.MsgspecError as fault:
                raise ProtocolError(f"not a message of protocol version {PROTOCOL_VERSION}: {fault}") from fault
            offset = end
        del self._buffer[:offset]
        return messages


async def read_messages(reader: asyncio.StreamReader, decoder: FrameDecoder[M]) -> list[M]:
    """The next messages of a stream; an empty list at its end (also amid a frame: a killed peer can't finish it).

    Raises:
        ProtocolError: as :meth:`FrameDecoder.feed`.
    """
    while True:
        data = await reader.read(256 * 1024)
        if not data:
            return []
        if messages := decoder.feed(data):
            return messages
