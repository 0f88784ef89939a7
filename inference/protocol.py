"""The messages between gateway, supervisor and engine workers: version 2.

Every message is a tagged msgspec Struct. A *frame* is a 4-byte big-endian length followed by a MessagePack array of
messages, so that what one decode step produced for sixteen streams travels in one write.

Gateway → worker:      Generate, Embed, Cancel
Worker → gateway:      Hello (once, first), then per request Accepted (exact prompt tokens, before any text),
                       Delta…, and exactly one of Finished or Failed; for Embed exactly one of Embedded or Failed;
                       WorkerLoad, CacheReport and HeldPrefixes whenever they change
Gateway → supervisor:  Subscribe (once, first), Demand while a request waits, InUse and Counted every second
Supervisor → gateway:  Replicas (everything on this node, whenever anything changes), Caches and Sums (likewise, at
                       most every 250 ms)
Supervisor → worker:   CacheBudget, one JSON object a line on standard input
Worker → supervisor:   WorkerStatus, CacheReport, WorkerCounts and Tuned, one JSON object a line on standard output

This module, and beside it :mod:`.prefixes` and :mod:`.durations`, which read and make some of its values, is all that
the engine shares with the rest; it imports nothing of ours.
"""

import asyncio
import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Generic, Literal, TypeVar

import msgspec

PROTOCOL_VERSION = 2

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""A frame larger than this is a fault of the peer: the largest honest one is a request body's worth of messages."""


# --- Gateway → worker ------------------------------------------------------------------------------------------------


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call that the assistant made in an earlier turn."""

    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message as the chat template sees it. ``content`` is plain text: the gateway has joined text parts."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant's message."""
    tool_call_id: str | None = None
    """Of a tool's message: the call that it answers."""
    reasoning: str | None = None
    """What the assistant thought before its answer, for templates that show it again."""


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: str = ""
    """JSON schema of its arguments, as text; empty: none."""
    strict: bool = False
    """Arguments are held to the schema while they are generated."""


class ToolChoice(StrEnum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class Constraint(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the whole answer must be: any JSON object, or one that a schema describes."""

    schema: str | None = None
    """JSON schema, as text; None: any JSON object."""
    strict: bool = True
    """Keywords that can't be held to are refused; else they are left out of account."""


class Partition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whose cached blocks a request may see and leave behind. Nothing is shared across partitions."""

    name: str
    """The tenant's; on disk, too."""
    key: bytes
    """32 bytes: encrypts this partition's blocks on disk and makes their names unguessable."""
    salt: str = ""
    """``cache_salt``: only requests with the same one share blocks."""
    shared_name: str = ""
    """The partition of declared prompts; empty: none."""
    shared_key: bytes = b""
    shareable_messages: int = 0
    """So many leading messages were declared shareable: blocks wholly within them belong to the shared partition."""

    def __repr__(self) -> str:
        """Without its keys: tracebacks are logged with what they hold."""
        return f"Partition(name={self.name!r}, shareable_messages={self.shareable_messages})"


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
    suffix: str | None = None
    """Completions only: what comes after the text that is to be generated."""
    sampling: Sampling = Sampling()
    n: int = 1
    """Choices, each with an index from 0. Their prompt is computed once."""
    logprobs: int | None = None
    """Log probabilities of the chosen tokens, and of so many of the likeliest beside each (0–20). None: not wanted."""
    constraint: Constraint | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice.AUTO
    forced_tool: str | None = None
    """Under ``required``: the one tool that must be called."""
    parallel_tool_calls: bool = True
    partition: Partition | None = None
    """None: nothing of this request is cached."""
    tenant: str = ""
    """Work is shared fairly between tenants."""
    priority: int = 5
    """0–10, higher first."""
    queue_seconds: float | None = None
    """Fails with 503 if it waited so long in the worker without a start. None: it waits."""
    prefixes: tuple[bytes, ...] = ()
    """Its chain (:mod:`inference.prefixes`), for the worker to tell which of them it holds."""


class Embed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="embed"):
    """Turn each input into a vector."""

    id: int
    """Unique on this connection, among Generate's too."""
    request_id: str
    inputs: tuple[str | tuple[int, ...], ...]
    """Texts, or prompts that are tokens already."""
    dimensions: int | None = None
    """Keep so many leading components and normalise again. None: all."""
    tenant: str = ""
    priority: int = 5


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


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CANCELLED = "cancelled"


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token and its natural log probability under the model, before sampling's own changes to it."""

    token: int
    piece: bytes
    """What it stands for; maybe a part of a character."""
    logprob: float | None
    """None for the first token of an echoed prompt: nothing comes before it."""
    top: "tuple[TokenLogprob, ...]" = ()
    """The likeliest tokens at this place, as many as were asked for; these have no ``top`` themselves."""


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of a tool call. ``id`` and ``name`` come with its first part only."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Delta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="delta"):
    """More of one choice. Text is whole UTF-8 characters, never a part of a stop string."""

    id: int
    text: str = ""
    tokens: int = 0
    """Tokens generated for this request so far, all choices together."""
    index: int = 0
    """The choice."""
    reasoning: str = ""
    """What a thinking model wrote before its answer."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens since this choice's last Delta, if asked for."""
    finish: FinishReason | None = None
    """This choice ends here."""


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """The request is complete: every choice has had its last Delta, or it was cancelled."""

    id: int
    reason: FinishReason
    """Of the choice that ended last."""
    prompt_tokens: int
    completion_tokens: int
    """Of all choices together."""
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


class Embedded(msgspec.Struct, frozen=True, kw_only=True, tag="embedded"):
    id: int
    vectors: tuple[bytes, ...]
    """One for each input: little-endian float32, of length 1 in the Euclidean norm."""
    prompt_tokens: int


class WorkerLoad(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    running: int
    waiting: int


class HeldPrefixes(msgspec.Struct, frozen=True, kw_only=True, tag="prefixes"):
    """Beginnings of prompts that a worker need not compute again, by their links (:mod:`inference.prefixes`): what has
    changed since the last one, at most every 250 ms. A connection begins with all of them."""

    added: dict[bytes, int] = {}
    """About how many tokens each is; for what was added before, how many it is now."""
    removed: tuple[bytes, ...] = ()


DURATION_BOUNDS_SECONDS = tuple(float(f"{digit}e{power}") for power in range(-3, 3) for digit in (1, 2.5, 5))
"""From 1 ms to 500 s."""


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took each time, as a histogram, which can be summed over processes."""

    counts: tuple[int, ...] = ()
    """How often it took at most the bound of :data:`DURATION_BOUNDS_SECONDS` at this place, and more than the one
    before; last, longer than all of them. Empty: it never happened."""
    seconds: float = 0.0
    """All of it together."""


class TierReport(msgspec.Struct, frozen=True, kw_only=True):
    """One tier of a worker's KV cache. Counters begin with the worker."""

    enabled: bool = False
    reason: str = ""
    """Why it is not enabled."""
    possible: bool = True
    """False: it can't be had with this model or this worker, whatever the budget; others get what it would be owed."""
    blocks: int = 0
    bytes: int = 0
    budget_bytes: int = 0
    """Of the newest CacheBudget that is in force here, also where the tier is not enabled: what a worker was told to
    give up is given to others only once it has said so."""
    evicted_blocks: int = 0
    """Pushed out by newer ones."""
    dropped_blocks: int = 0
    """Not written (beyond the rate or the day's budget) or not readable (damaged, foreign)."""
    least_recent_use: float | None = None
    """When the block was used that would go first by LRU, in seconds since the epoch."""
    least_uses: int | None = None
    """How often the block was used that would go first by LFU."""


TIMING_BOUNDS_SECONDS = tuple(float(f"{digit}e{power}") for power in range(-6, 1) for digit in (1, 2, 5))
"""From 1 µs to 5 s."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took each time, as a histogram, which can be summed over workers."""

    counts: tuple[int, ...] = ()
    """How often it took at most the bound of :data:`TIMING_BOUNDS_SECONDS` at this place, and more than the one before;
    last, longer than all of them. Empty: it never happened."""


class CacheReport(msgspec.Struct, frozen=True, kw_only=True, tag="cache"):
    """A worker's KV cache as it is. Counters begin with the worker."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that were not computed."""
    lookups: int = 0
    hits: int = 0
    """Lookups that found anything."""
    ssd_hits: int = 0
    """Of those: some of it came from SSD."""
    context_tokens: int = 0
    """Cells that running sequences hold now."""
    ram: TierReport = TierReport()
    ssd: TierReport = TierReport()
    save_seconds: float = 0.0
    restore_seconds: float = 0.0
    written_bytes: int = 0
    """To SSD."""
    match_timing: Timing = Timing()
    """Finding what of a prompt is cached."""
    save_timing: Timing = Timing()
    restore_timing: Timing = Timing()


class CacheBudget(msgspec.Struct, frozen=True, kw_only=True, tag="cache_budget"):
    """What a worker's KV cache may take. The last one said is in force."""

    ram_bytes: int
    ssd_bytes: int
    """0 switches a tier off; what is in it goes."""
    least_frequently_used_first: bool = False
    """Which block goes first: by number of uses, else by the time of the last use."""
    ssd_bytes_per_second: int = 64 * 1024 * 1024
    ssd_bytes_per_day: int = 64 * 1024**3
    """Flash wears: blocks beyond the rate or the day's budget are not written."""


GatewayToWorker = Generate | Embed | Cancel
WorkerToGateway = Hello | Accepted | Delta | Finished | Failed | Embedded | WorkerLoad | CacheReport | HeldPrefixes


# --- Gateway ↔ supervisor --------------------------------------------------------------------------------------------


class ReplicaState(StrEnum):
    """The life of a replica on a node. ``failed`` waits out its back-off and may then be loaded again."""

    COLD = "cold"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class EngineParameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """llama.cpp's parameters as its users know them. None: what was measured on this machine, else the engine's own.

    What may be set to what, :mod:`registry.parameters` decides.
    """

    context_tokens: int | None = None
    """Longest prompt + completion of one request."""
    lanes: int | None = None
    """Short sequences that are decoded together."""
    lane_tokens: int | None = None
    """What a short sequence may grow to; longer ones share the long context."""
    threads: int | None = None
    batch_tokens: int | None = None
    """Most tokens of one step."""
    prefill_beside_decode: int | None = None
    """Most prompt tokens of a step in which others decode."""
    flash_attention: Literal["on", "off"] | None = None
    kv_type: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"] | None = None
    """Of K and V alike."""
    unified: bool | None = None
    """Lanes share one space of cells instead of having one each."""
    n_gpu_layers: int | None = None
    """−1: all."""
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    prompt_lookup: bool | None = None
    """Guess tokens from what stands in the prompt and the answer already, and compute them together where that is
    faster. True unless said otherwise; recurrent models, which can't take a guess back, never do."""
    draft_cost: float | None = None
    """What a guessed token adds to the time of a step of one sequence, as a part of it. 1: guesses never pay."""


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that a node needs to load a version, so that a load needs no database."""

    version_pk: int
    model: str
    version: str
    files: tuple[str, ...]
    parameters: EngineParameters = EngineParameters()
    """What an operator has set."""


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


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were routed to a model and have ended."""

    requests: int = 0
    """All of them."""
    cancelled: int = 0
    """By clients that left."""
    errors: dict[str, int] = {}
    """By the code that the client was told."""
    first_token: Durations = Durations()
    """From the gateway's decision to the first token, queues and load included. Of those that were answered."""


class Counted(msgspec.Struct, frozen=True, kw_only=True, tag="counted"):
    """What a gateway has counted, by model, since it told so last."""

    models: dict[str, RequestCounts]


class Replicas(msgspec.Struct, frozen=True, kw_only=True, tag="replicas"):
    """The complete view of this node; what is not named is cold."""

    replicas: tuple[ReplicaView, ...]


class TierView(msgspec.Struct, frozen=True, kw_only=True):
    """What a version may take of one cache tier on this node, and what its model is entitled to."""

    share_bytes: int = 0
    """What the allocation strategy gives its model."""
    limit_bytes: int = 0
    """What it may hold now: more than the share while there is room, less while others still give way."""
    held_bytes: int = 0
    """Blocks of a version that is not running stay on SSD and count."""


class CacheView(msgspec.Struct, frozen=True, kw_only=True):
    """The KV cache of one version on this node, of which a worker runs or did since the supervisor began, or whose
    blocks lie on SSD."""

    version_pk: int | None
    """None: only its blocks are known, from an earlier supervisor."""
    model: str
    version: str
    running: bool
    cache: CacheReport
    """Counters are sums over all its workers since the supervisor began; the rest is as the newest report says."""
    window_prompt_tokens: int
    """Within the last ten minutes."""
    window_cached_tokens: int
    """Of those, not computed. Their ratio is the hit rate: every gateway process computes it from the same numbers."""
    ram: TierView
    ssd: TierView


class Caches(msgspec.Struct, frozen=True, kw_only=True, tag="caches"):
    """All KV caches of this node."""

    caches: tuple[CacheView, ...]
    ram_bytes: int
    """What all of them together may take here."""
    ssd_bytes: int
    configured: bool
    """Whether SQL was read; until then a default is in force."""
    since: float
    """When counting began, in seconds since the epoch."""


class WorkerCounts(msgspec.Struct, frozen=True, kw_only=True, tag="counts"):
    """What a worker has done since it began. Told to the supervisor, at most every 250 ms."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of those, not computed."""
    completion_tokens: int = 0
    queue_wait: Durations = Durations()
    """From a request's arrival at the worker to its first prefill."""
    token_gap: Durations = Durations()
    """Between two tokens of one answer, as they leave."""


class ModelSums(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted of one model on this node, over all gateways, and all workers of all its versions."""

    model: str
    requests: RequestCounts = RequestCounts()
    work: WorkerCounts = WorkerCounts()
    load_time: Durations = Durations()
    """From the start of a worker until it was ready."""
    restarts: int = 0
    """Starts after a failure."""


class Sums(msgspec.Struct, frozen=True, kw_only=True, tag="sums"):
    """All counters of this node: every gateway process shows the same. They never go back while the supervisor
    lives, and begin with it."""

    models: tuple[ModelSums, ...]


GatewayToSupervisor = Subscribe | Demand | InUse | Counted
SupervisorToGateway = Replicas | Caches | Sums


# --- Worker → supervisor ---------------------------------------------------------------------------------------------


class WorkerStage(StrEnum):
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """One line of JSON on the worker's standard output. After ``failed`` the worker exits with status 1."""

    stage: WorkerStage
    progress: float = 0.0
    reason: str = ""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """How fast one way to compute was, in seconds: the least of some tries."""

    parameters: EngineParameters
    """What was not as it is by itself."""
    decode_seconds: float
    """A step in which some sequences grow by a token each."""
    mixed_seconds: float
    """The same with a chunk of a prompt, ``prefill_beside_decode`` long."""


class Tuned(msgspec.Struct, frozen=True, kw_only=True, tag="tuned"):
    """What a worker found to be fastest on this machine, for its next load."""

    parameters: EngineParameters
    """Only what won against the engine's own choice, and what a guess costs."""
    measured: tuple[Measured, ...]
    """In the order in which they were tried, the engine's own choice first."""


WorkerToSupervisor = WorkerStatus | CacheReport | WorkerCounts | Tuned


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
